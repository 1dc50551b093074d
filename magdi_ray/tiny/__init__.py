"""The tiny world: a question generator and four very small, real language models, so that every stage runs offline on a CPU."""
