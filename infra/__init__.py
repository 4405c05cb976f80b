"""Provide what service and worker both need at run time: settings, logs, traces, Redis, storage."""
