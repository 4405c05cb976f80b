"""No accepted job is lost, whichever process ends.

The tests share a deployment and start the workers that they miss. Their order saves restarts.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from support.deployment import DeploymentUnderTest
from support.requests import CUBE, WAIT_FOR_PNG

from devtools.wait import TIMEOUT_S

Repair = Callable[[int], DeploymentUnderTest]
MAX_CONCURRENT_JOBS = 3  # as in conftest.py
HEARTBEATS_LAPSED_S = 8.0  # longer than a heartbeat is valid


def test_a_restart_of_redis_loses_no_job(repair: Repair) -> None:
    """Requests meet 503 meanwhile; then service and worker continue without a restart."""
    deployment = repair(1)
    before = deployment.count_outcomes()
    ids = deployment.post_jobs(6)
    deployment.wait_until(lambda: "running" in deployment.get_statuses(ids), "a job runs")
    deployment.redis.stop()
    rejected = deployment.post_job(CUBE)
    assert rejected.status_code == 503
    assert rejected.headers["content-type"] == "application/problem+json"
    assert deployment.http.get("/readyz").status_code == 503
    assert deployment.http.get("/healthz").status_code == 200
    time.sleep(HEARTBEATS_LAPSED_S)
    deployment.redis.start()
    deployment.check_all_succeed(ids, before)
    assert deployment.post_job(CUBE, **WAIT_FOR_PNG).status_code == 200
    assert deployment.service.is_running
    assert deployment.workers[0].is_running


def test_a_killed_worker_loses_no_job(repair: Repair) -> None:
    """Another worker takes over within seconds, and only the interrupted jobs are tried again."""
    deployment = repair(2)
    before = deployment.count_outcomes()
    ids = deployment.post_jobs(10)
    victim = deployment.workers[0]
    deployment.wait_until(
        lambda: (
            deployment.count_executions(victim) == MAX_CONCURRENT_JOBS
            and "running" in deployment.get_statuses(ids)
        ),
        "all slots of the first worker are taken",
    )
    deployment.kill_worker()
    deployment.check_all_succeed(ids, before)
    retries = [deployment.store.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids]
    assert set(retries) == {b"2", b"3"}
    assert retries.count(b"2") <= MAX_CONCURRENT_JOBS


def test_a_stopped_worker_finishes_its_jobs(repair: Repair) -> None:
    """After SIGTERM running jobs succeed, waiting ones stay queued, and the exit code is 0."""
    deployment = repair(1)
    ids = deployment.post_jobs(5)
    running = ids[:MAX_CONCURRENT_JOBS]
    deployment.wait_until(
        lambda: deployment.get_statuses(running) == ["running"] * len(running),
        "all slots are taken",
    )
    worker = deployment.workers.pop()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(TIMEOUT_S) == 0
    assert deployment.get_statuses(ids) == ["succeeded"] * 3 + ["queued"] * 2
    retries = {deployment.store.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids}
    assert retries == {b"3"}
    assert deployment.http.get("/readyz").status_code == 503  # the worker is unregistered


def test_jobs_wait_for_a_worker(repair: Repair) -> None:
    """A second SIGTERM ends a worker at once; its job and new ones wait for the next worker."""
    deployment = repair(1)
    before = deployment.count_outcomes()
    (interrupted,) = deployment.post_jobs(1)
    deployment.wait_until(
        lambda: deployment.get_job(interrupted)["status"] == "running", "the job runs"
    )
    worker = deployment.workers.pop()
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(TIMEOUT_S) == 1
    assert deployment.get_job(interrupted)["status"] == "running"  # it was not finished
    deployment.wait_until(lambda: not deployment.answers("/readyz"), "the service is not ready")
    readiness = deployment.http.get("/readyz")
    assert readiness.status_code == 503
    assert "o worker is alive" in readiness.json()["detail"]
    waiting = deployment.post_jobs(3)
    assert [deployment.get_job(job_id)["queue_position"] for job_id in waiting] == [0, 1, 2]
    assert deployment.get_statuses(waiting) == ["queued"] * 3
    deployment.start_worker()
    deployment.wait_until(lambda: deployment.answers("/readyz"), "the service is ready again")
    deployment.check_all_succeed([interrupted, *waiting], before)
