"""What a run would take on a cluster: a discrete-event simulation of its debates, and the bill of every stage."""
