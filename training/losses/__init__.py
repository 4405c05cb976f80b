"""One loss per kind of network."""
