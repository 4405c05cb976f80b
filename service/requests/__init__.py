"""Parse requests: JSON and form bodies, images, the prompt filter."""
