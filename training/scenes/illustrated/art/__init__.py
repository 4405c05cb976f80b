"""Art: pinned packages, names, sets, and atlases of sprites."""
