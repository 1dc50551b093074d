"""What is seen of a training while it runs: measurements, the log, trackers, and the words a person reads."""
