"""The gallery: images that are kept until they are deleted, with their provenance."""
