"""Run one job: read its record, generate its images, write the result."""
