"""The studio: a page in the browser for everything that the service does."""
