"""Names of Redis keys, of objects in the object store, and of the task in RQ's queue."""

from __future__ import annotations

QUEUE = "unclip"
# Label of the task in RQ's jobs. Its argument is the job's id; the worker decides what runs.
TASK = "unclip.run_job"
# List: RQ's ids of waiting jobs.
QUEUE_LIST = f"rq:queue:{QUEUE}"
# Sorted set: RQ's running jobs.
STARTED = f"rq:wip:{QUEUE}"
# Set: names of workers, live and dead.
WORKERS = "unclip:workers"
# String: time of the last heartbeat of any worker, in seconds since 1970.
LAST_HEARTBEAT = "unclip:last-heartbeat"
# String that expires: Redis was away, so late heartbeats do not mean dead workers.
RECOVERY_PAUSE = "unclip:recovery-pause"
# Hash: number of ended jobs by operation, outcome and reason, since Redis was set up.
OUTCOMES = "unclip:outcomes"
# String that expires: /readyz writes it, to see whether Redis accepts writes.
WRITE_PROBE = "unclip:write-probe"
# Set: lanes of webhooks that hold deliveries.
WEBHOOKS = "unclip:webhooks"
# Hash: number of attempts of each delivery.
WEBHOOK_TRIES = "unclip:webhooks:tries"
# Folder of the object store that holds all results.
RESULTS_PREFIX = "jobs"
# String that expires: the object store was cleaned up recently.
CLEANUP_LOCK = "unclip:cleanup-lock"
# Channel: ids of running jobs that are cancelled.
CANCELLED = "unclip:cancelled"
# Hash: API keys as JSON by id, with hashes of their tokens.
API_KEYS = "unclip:api-keys"
# Hash: mean duration of recent jobs in seconds, by operation and size, and of all.
MEAN_DURATIONS = "unclip:mean-durations"


def job(job_id: str) -> str:
    """Return the key of a job's record, a hash."""
    return f"unclip:job:{job_id}"


def listing(owner: str | None = None) -> str:
    """Return the key of the index of jobs by creation time, a sorted set.

    `owner`: id of an API key, for its jobs only.
    """
    return f"unclip:jobs:{owner}" if owner else "unclip:jobs"


def active_jobs(key_id: str) -> str:
    """Return the key of the active jobs of an API key, a set.

    It may hold ended jobs too; they are removed when the limit is reached.
    """
    return f"unclip:api-keys:{key_id}:active-jobs"


def rate_limit(key_id: str) -> str:
    """Return the key of an API key's rate limit, a string that expires.

    It holds the time when the whole rate is available again, in microseconds since 1970.
    """
    return f"unclip:api-keys:{key_id}:rate-limit"


def link_rate_limit(object_id: str) -> str:
    """Return the key of the rate limit of a link, as `rate_limit`, by what the link opens."""
    return f"unclip:links:{object_id}:rate-limit"


def image(job_id: str, index: int) -> str:
    """Return the key of an image's PNG, a string."""
    return f"unclip:job:{job_id}:image:{index}"


def input_image(job_id: str, name: str) -> str:
    """Return the key of an input image's PNG, a string."""
    return f"unclip:job:{job_id}:input:{name}"


def animation(job_id: str) -> str:
    """Return the key of the animated image, a string."""
    return f"unclip:job:{job_id}:animation"


def events(job_id: str) -> str:
    """Return the key of a job's events, a stream.

    An entry has the fields `event` (progress, preview or ended) and `data` (JSON).
    """
    return f"unclip:job:{job_id}:events"


def preview_subscribed(job_id: str) -> str:
    """Return the key that exists while a client watches a job's previews, a string."""
    return f"unclip:job:{job_id}:preview-subscribed"


def mean_duration(operation: str, size: int | None) -> str:
    """Return the field of MEAN_DURATIONS for one operation at one size."""
    return f"{operation}:{size}"


def outcome(operation: str, status: str, reason: str | None = None) -> str:
    """Return the field of OUTCOMES. `reason`: why a job failed."""
    return f"{operation}:{status}:{reason}" if reason else f"{operation}:{status}"


def idempotency(key_hash: str) -> str:
    """Return the key of the job that an Idempotency-Key started, a string with JSON."""
    return f"unclip:idempotency:{key_hash}"


def worker(name: str) -> str:
    """Return the key of a live worker's heartbeat, a string with JSON that expires."""
    return f"unclip:worker:{name}"


def webhooks(lane: str) -> str:
    """Return the key of a lane's deliveries `job:event` by the time when they are due.

    It is a sorted set. `lane`: see `contracts.webhooks.lane_of`.
    """
    return f"unclip:webhooks:lane:{lane}"


def stored_image(job_id: str, index: int) -> str:
    """Return the name of an image's PNG in the object store."""
    return f"{RESULTS_PREFIX}/{job_id}/{index}.png"


def stored_animation(job_id: str, kind: str) -> str:
    """Return the name of the animated image in the object store. `kind`: webp or apng."""
    return f"{RESULTS_PREFIX}/{job_id}/animation.{kind}"


def vocabulary(checkpoint: str) -> str:
    """String: what a checkpoint knows, as JSON, written by its workers when they start."""
    return f"unclip:vocabulary:{checkpoint}"
