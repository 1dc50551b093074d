"""Studies: many recipes, many trainings of each, one world; and what their figures support."""
