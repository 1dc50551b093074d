"""`magdi doctor`: whether this machine, its Ray, its storage and the endpoints of a run can do what a run asks of them."""
