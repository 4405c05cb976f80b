"""What service and worker agree on: requests, jobs, images and the names of Redis keys."""
