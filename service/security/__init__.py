"""API keys, rate limits, body limits and security headers."""
