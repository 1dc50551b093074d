"""How good: any engine over any held-out questions, beside its teachers and their vote, with intervals."""
