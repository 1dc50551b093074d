"""Who may ask: any OpenAI client, over HTTP. Knows engines; knows nothing of debates, graphs or training."""
