"""A hundred jobs while the master of a replicated Redis changes, hangs or loses its replicas."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import redis
from support.jobs import TTL_S
from support.queue import WHOLE, WorkerInThread, working
from support.servers.sentinel import SentinelCluster

from contracts import redis_keys
from contracts.jobs import ImageInfo
from infra.redis import connect
from service.app import create_app
from service.settings import Settings
from worker.jobs.record import JobRepository
from worker.queue.worker import connect_patiently

pytestmark = pytest.mark.anyio
NUM_JOBS = 100
IMAGE = ImageInfo(seed=1, width=64, height=64)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class QuickRunner:
    """A runner whose every job succeeds after 50 ms."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, job_id: str) -> None:
        jobs = JobRepository(self.client, job_id, TTL_S)
        if jobs.start({}):
            time.sleep(0.05)
            jobs.succeed([b"png"], [IMAGE], [], WHOLE)


def change_master(cluster: SentinelCluster) -> None:
    cluster.fail_over()


def hang_master(cluster: SentinelCluster) -> None:
    """For longer than a failover takes."""
    cluster.servers[0].send_signal(signal.SIGSTOP)
    time.sleep(10)
    cluster.servers[0].send_signal(signal.SIGCONT)


def stop_replicas(cluster: SentinelCluster) -> None:
    """For longer than the master tolerates."""
    for replica in cluster.servers[1:]:
        replica.send_signal(signal.SIGSTOP)
    time.sleep(9)
    for replica in cluster.servers[1:]:
        replica.send_signal(signal.SIGCONT)


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run a service that accepts a job once both replicas hold it."""
    app = create_app(Settings(redis_url=url, redis_min_replicas=2, max_queued_jobs=1000))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
    ):
        yield client


async def submit(client: httpx.AsyncClient, number: int) -> str:
    """Submit a job, with repetitions until it is accepted, and return its id."""
    await asyncio.sleep(number * 0.1)
    while True:
        response = await client.post(
            "/generate", json={"prompt": "a"}, headers={"idempotency-key": f"key{number}"}
        )
        if response.status_code == 202:
            return str(response.json()["id"])
        assert response.status_code == 503
        await asyncio.sleep(0.5)


async def wait_for_status(client: httpx.AsyncClient, job_id: str) -> str:
    """Return the status of a job once it has ended."""
    while True:
        response = await client.get(f"/jobs/{job_id}")
        assert response.status_code in {200, 503}, response.text
        if response.status_code == 200 and response.json()["finished_at"] is not None:
            return str(response.json()["status"])
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("disturb", [change_master, hang_master, stop_replicas])
async def test_accepted_jobs_succeed_once(
    tmp_path: Path, disturb: Callable[[SentinelCluster], None]
) -> None:
    """No worker ends, and each accepted job succeeds once."""
    with SentinelCluster(tmp_path) as cluster:
        connections = [connect_patiently(cluster.url) for _ in range(2)]
        first, second = (QuickRunner(connection) for connection in connections)
        with working(connections[0], first) as one, working(connections[1], second) as two:
            async with serving(cluster.url) as client, asyncio.timeout(240):
                submitting = [
                    asyncio.create_task(submit(client, number)) for number in range(NUM_JOBS)
                ]
                await asyncio.sleep(3)
                await asyncio.to_thread(disturb, cluster)
                ids = await asyncio.gather(*submitting)
                statuses = [await wait_for_status(client, job_id) for job_id in ids]
            check_ended_once(cluster, [one, two], ids, statuses)
        for connection in connections:
            connection.close()


def check_ended_once(
    cluster: SentinelCluster, workers: list[WorkerInThread], ids: list[str], statuses: list[str]
) -> None:
    """Check the workers, the jobs, their events and the counters."""
    assert all(worker.thread.is_alive() for worker in workers)
    assert statuses == ["succeeded"] * NUM_JOBS
    assert len(set(ids)) == NUM_JOBS
    with connect(cluster.url) as store:
        assert store.hgetall(redis_keys.OUTCOMES) == {b"generate:succeeded": b"100"}
        for job_id in ids:
            events = [fields[b"event"] for _, fields in store.xrange(redis_keys.events(job_id))]
            assert events.count(b"ended") == 1
