"""What is asked: questions, how they are put, how an answer is read and compared. Knows nothing of ours."""
