"""Jobs in Redis as the service sees them: submit, read, list, cancel, follow."""
