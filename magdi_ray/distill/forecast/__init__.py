"""What a training will cost, worked out before it starts: shapes, workload, memory, arithmetic. Pure."""
