"""The HTTP front end. It accepts work and tells of it; it never draws, and starts where torch is not installed."""
