"""Heartbeats of a worker and its running jobs.

Only Redis measures time here, because the clocks of workers differ. A running job has RQ's
execution key, which expires HEARTBEAT_TTL_S after the last heartbeat. No key means an abandoned
job, with one exception: Redis itself may have been away or have refused writes. Then all
heartbeats are late, and recovery pauses until each worker had time to send one.
"""

from __future__ import annotations

from collections.abc import Sequence

import redis
from rq.executions import Execution

from contracts import redis_keys

HEARTBEAT_INTERVAL_S = 2
# Another worker takes over a job whose worker sent no heartbeat for this long.
HEARTBEAT_TTL_S = 6
# The service's /readyz counts a worker as ready for this long after a heartbeat.
READY_TTL_S = 10
# Without any heartbeat for this long, Redis was away. Together with an interval it is shorter
# than HEARTBEAT_TTL_S, so no job expires before the pause is noticed.
MAX_PAUSE_S = 3
# KEYS: the names of workers, the worker's heartbeat, the time of the last one, the pause of
# recovery, then the execution keys. ARGV: the worker's name, its heartbeat, READY_TTL_S,
# HEARTBEAT_TTL_S, MAX_PAUSE_S.
_SEND = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local last = tonumber(redis.call('GET', KEYS[3]) or now)
if now - last > tonumber(ARGV[5]) then redis.call('SET', KEYS[4], 1, 'EX', ARGV[4]) end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('SET', KEYS[3], string.format('%.3f', now))
for index = 5, #KEYS do
  redis.call('HSET', KEYS[index], 'last_heartbeat', string.format('%.3f', now))
  redis.call('EXPIRE', KEYS[index], ARGV[4])
end
"""


def send_heartbeat(
    connection: redis.Redis, name: str, heartbeat: str, executions: Sequence[Execution]
) -> None:
    """Send the heartbeats of a worker and of its running jobs.

    `heartbeat`: JSON of `contracts.jobs.WorkerHeartbeat`.
    """
    keys = [
        redis_keys.WORKERS,
        redis_keys.worker(name),
        redis_keys.LAST_HEARTBEAT,
        redis_keys.RECOVERY_PAUSE,
        *(execution.key for execution in executions),
    ]
    connection.eval(
        _SEND, len(keys), *keys, name, heartbeat, READY_TTL_S, HEARTBEAT_TTL_S, MAX_PAUSE_S
    )
