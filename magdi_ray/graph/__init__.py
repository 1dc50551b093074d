"""What remains of a debate: the multi-agent interaction graph (MAG), its store and its exchange formats."""
