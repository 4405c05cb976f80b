"""OpenAI's Images API on the same jobs."""
