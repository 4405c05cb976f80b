"""Worker process: holds the pipeline and runs queued jobs with continuous batching."""
