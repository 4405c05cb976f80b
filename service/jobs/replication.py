"""Wait until enough replicas of Redis hold an accepted job.

Redis answers before it replicates, so a failover can lose what it has just accepted. A job that
all replicas hold survives, whichever of them becomes the master.
"""

from __future__ import annotations

from typing import Any

from contracts import redis_keys
from service.errors import Unavailable

TIMEOUT_S = 2.0
PROBE_TTL_S = 60


async def survives_failover(redis: Any, job_id: str, min_replicas: int) -> bool:
    """Return whether the present master and its replicas hold a job.

    False: the master has changed since the job was accepted, and the new one lacks the job.
    `min_replicas`: number of replicas that must hold the job; with 0 nothing is checked.
    Raises Unavailable if fewer replicas hold it after TIMEOUT_S.
    """
    if not min_replicas:
        return True
    async with redis.pipeline(transaction=False) as pipe:
        # WAIT is about the writes of this connection, so a later write stands for the job's.
        pipe.exists(redis_keys.job(job_id))
        pipe.set(redis_keys.WRITE_PROBE, 1, ex=PROBE_TTL_S)
        pipe.wait(min_replicas, round(TIMEOUT_S * 1000))
        exists, _, num_replicas = await pipe.execute()
    if exists and num_replicas < min_replicas:
        raise Unavailable(
            f"Only {num_replicas} of {min_replicas} replicas of Redis hold the job. "
            "Repeat the request with the same Idempotency-Key."
        )
    return bool(exists)
