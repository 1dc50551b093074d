"""What is learned: graphs to tokens, tokens to batches, objectives, and the Ray Train loop. Knows graphs, not debates."""
