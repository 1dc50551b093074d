"""The state of an unfinished training: what it is, how it is read from DeepSpeed, where it lies."""
