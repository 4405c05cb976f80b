"""What service and worker agree on: requests, jobs, and where things lie in Redis. pydantic, and Pillow for images."""
