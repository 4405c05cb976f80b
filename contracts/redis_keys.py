"""What things are called in Redis and in the object store, and the task that service and worker meet in."""

from __future__ import annotations

QUEUE = "unclip"
TASK = "worker.jobs.runner.draw"  # called with the job's id
QUEUE_LIST = f"rq:queue:{QUEUE}"  # where RQ keeps the ids of waiting jobs
STARTED = f"rq:wip:{QUEUE}"  # sorted set: where RQ keeps those that run
WORKERS = "unclip:workers"  # set: names of workers, living or not
LAST_HEARTBEAT = "unclip:last-heartbeat"  # string: when any worker last gave a sign of life, in seconds since 1970
OUTCOMES = (
    "unclip:outcomes"  # hash: jobs ended, by operation, outcome and reason, since Redis was set up
)
WEBHOOKS = (
    "unclip:webhooks"  # sorted set: deliveries `job:event`, by the time at which they are due
)
WEBHOOK_TRIES = "unclip:webhooks:tries"  # hash: how often a delivery was tried
RESULTS_PREFIX = "jobs"  # folder of the object store that holds all results
CLEANUP_LOCK = "unclip:cleanup-lock"  # string with a short life: the object store was swept lately
CANCELLED = "unclip:cancelled"  # channel: ids of running jobs that were cancelled just now
API_KEYS = "unclip:api-keys"  # hash: API keys as JSON, by their ids; of their tokens only hashes
MEAN_DURATIONS = "unclip:mean-durations"  # hash: seconds that jobs ran lately, by operation and size, and over all


def job(job_id: str) -> str:
    """Hash: the job's record."""
    return f"unclip:job:{job_id}"


def listing(owner: str | None = None) -> str:
    """Sorted set: jobs, by when they were created; all of them, or one owner's."""
    return f"unclip:jobs:{owner}" if owner else "unclip:jobs"


def active_jobs(key_id: str) -> str:
    """Set: jobs of an API key that had not ended when its limit was last looked at."""
    return f"unclip:api-keys:{key_id}:active-jobs"


def rate_limit(key_id: str) -> str:
    """String with a short life: when all requests of an API key's rate may be made again, in microseconds since 1970."""
    return f"unclip:api-keys:{key_id}:rate-limit"


def image(job_id: str, index: int) -> str:
    """String: an image's PNG."""
    return f"unclip:job:{job_id}:image:{index}"


def input_image(job_id: str, name: str) -> str:
    """String: an image that came with the request, as PNG."""
    return f"unclip:job:{job_id}:input:{name}"


def animation(job_id: str) -> str:
    """String: the frames as one animated image."""
    return f"unclip:job:{job_id}:animation"


def events(job_id: str) -> str:
    """Stream: the job's progress, previews and end, as fields `event` (progress, preview or ended) and `data` (JSON)."""
    return f"unclip:job:{job_id}:events"


def preview_subscribed(job_id: str) -> str:
    """String with a short life: somebody looks at this job's previews."""
    return f"unclip:job:{job_id}:preview-subscribed"


def mean_duration(operation: str, size: int | None) -> str:
    """Field of MEAN_DURATIONS: one operation at one size."""
    return f"{operation}:{size}"


def outcome(operation: str, status: str, reason: str | None = None) -> str:
    """Field of OUTCOMES. `reason`: of those that failed."""
    return f"{operation}:{status}:{reason}" if reason else f"{operation}:{status}"


def idempotency(key_hash: str) -> str:
    """String: the job that a request with this Idempotency-Key started."""
    return f"unclip:idempotency:{key_hash}"


def worker(name: str) -> str:
    """String with a short life: a worker is alive; a Beat as JSON."""
    return f"unclip:worker:{name}"


def stored_image(job_id: str, index: int) -> str:
    """Object store: an image's PNG."""
    return f"{RESULTS_PREFIX}/{job_id}/{index}.png"


def stored_animation(job_id: str, kind: str) -> str:
    """Object store: the frames as one animated image, webp or apng."""
    return f"{RESULTS_PREFIX}/{job_id}/animation.{kind}"
