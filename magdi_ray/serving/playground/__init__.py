"""The page at `/`: ask the student, and see the teachers' debate beside it. Knows the run's files; knows no engine."""
