"""What is seen of a run from outside while it works: metrics for Prometheus, and log lines that say whose they are."""
