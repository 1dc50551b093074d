"""A finished student as something others can load: plain weights or an adapter, and its card."""
