"""Random faults against a deployment under load, and a checker of what must hold."""
