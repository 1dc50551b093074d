"""How they talk: protocols as pure functions on a transcript, the vote, and the Ray Data operator that runs them."""
