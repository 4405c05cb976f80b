"""Take jobs from RQ's queue, and recover those of dead workers."""
