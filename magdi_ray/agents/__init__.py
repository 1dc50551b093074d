"""Who answers: engines that turn messages into a reply. Knows errors; knows nothing of questions, debates or graphs."""
