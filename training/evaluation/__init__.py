"""Score generated images, and write reports."""
