"""The small world: harder stories, and questions about things everybody knows. Its models are built, not shipped."""
