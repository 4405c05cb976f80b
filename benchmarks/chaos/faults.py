"""Faults, each a function of a deployment and a random generator that also ends what it began."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import redis

from benchmarks.chaos.deployment import ChaosDeployment
from devtools.processes import ManagedProcess

Fault = Callable[[ChaosDeployment, random.Random], None]
STOP_GRACE_S = 60.0


def _pause(process: ManagedProcess, seconds: float) -> None:
    if not process.is_running:
        return
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)


def kill_worker(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGKILL a worker."""
    worker = rng.choice(deployment.workers)
    deployment.expected_exits.add(worker.name)
    worker.kill()


def kill_service(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGKILL a service."""
    service = rng.choice(deployment.services)
    deployment.expected_exits.add(service.name)
    service.kill()


def pause_worker(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGSTOP a worker, for longer than its heartbeats last in some cases."""
    _pause(rng.choice(deployment.workers), rng.choice([0.5, 2, 9]))


def pause_service(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGSTOP a service."""
    _pause(rng.choice(deployment.services), rng.uniform(0.5, 4))


def pause_redis(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGSTOP Redis, as a disk that stalls would."""
    _pause(deployment.redis.process, rng.choice([0.5, 2, 6, 8]))


def restart_redis(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGKILL Redis and start it again from its append-only file."""
    deployment.redis.stop()
    time.sleep(rng.uniform(0, 3))
    deployment.redis.start()


def lose_service_answers(deployment: ChaosDeployment, rng: random.Random) -> None:
    """Lose the answers to some transactions of the services."""
    deployment.service_proxy.lose_answers(rng.randint(1, 6))
    time.sleep(1)


def lose_worker_answers(deployment: ChaosDeployment, rng: random.Random) -> None:
    """Lose the answers to some transactions of the workers."""
    deployment.worker_proxy.lose_answers(rng.randint(1, 6))
    time.sleep(1)


def cut_connections(deployment: ChaosDeployment, rng: random.Random) -> None:
    """Close all connections of one kind of process to Redis."""
    rng.choice([deployment.service_proxy, deployment.worker_proxy]).cut()


def stall_network(deployment: ChaosDeployment, rng: random.Random) -> None:
    """Forward nothing between one kind of process and Redis, longer than a socket's timeout."""
    seconds = rng.choice([1.0, 6.0])
    rng.choice([deployment.service_proxy, deployment.worker_proxy]).stall(seconds)
    time.sleep(seconds)


def fill_redis(deployment: ChaosDeployment, rng: random.Random) -> None:
    """Let Redis refuse writes for want of memory."""
    _configure(deployment, "maxmemory", "1", "0", rng.uniform(0.5, 5))


def require_replicas(deployment: ChaosDeployment, rng: random.Random) -> None:
    """Let Redis refuse writes because it has no replicas, as after a failover."""
    _configure(deployment, "min-replicas-to-write", "1", "0", rng.uniform(0.5, 5))


def restart_worker(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGTERM a worker, as a rolling update does."""
    worker = rng.choice(deployment.workers)
    deployment.expected_exits.add(worker.name)
    worker.stop(STOP_GRACE_S)


def restart_service(deployment: ChaosDeployment, rng: random.Random) -> None:
    """SIGTERM a service, as a rolling update does."""
    service = rng.choice(deployment.services)
    deployment.expected_exits.add(service.name)
    service.stop(STOP_GRACE_S)


def _configure(
    deployment: ChaosDeployment, name: str, faulty: str, healthy: str, seconds: float
) -> None:
    with redis.Redis.from_url(deployment.redis.url) as client:
        client.config_set(name, faulty)
        try:
            time.sleep(seconds)
        finally:
            client.config_set(name, healthy)


FAULTS: dict[str, tuple[int, Fault]] = {  # weight, function
    "kill_worker": (3, kill_worker),
    "kill_service": (2, kill_service),
    "pause_worker": (3, pause_worker),
    "pause_service": (2, pause_service),
    "pause_redis": (3, pause_redis),
    "restart_redis": (2, restart_redis),
    "lose_service_answers": (8, lose_service_answers),
    "lose_worker_answers": (8, lose_worker_answers),
    "cut_connections": (8, cut_connections),
    "stall_network": (3, stall_network),
    "fill_redis": (4, fill_redis),
    "require_replicas": (4, require_replicas),
    "restart_worker": (2, restart_worker),
    "restart_service": (2, restart_service),
}


def plan_faults(seed: int, count: int) -> list[tuple[str, int]]:
    """Return `count` faults and a seed for each: the same for the same seed."""
    rng = random.Random(seed)
    weights = [weight for weight, _ in FAULTS.values()]
    names = rng.choices(list(FAULTS), weights, k=count)
    return [(name, rng.getrandbits(32)) for name in names]
