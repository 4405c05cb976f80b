"""Authenticate API keys, limit rates and body sizes, and set security headers."""
