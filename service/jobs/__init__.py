"""Jobs in Redis from the service's side: submit, read, list, cancel, follow."""
