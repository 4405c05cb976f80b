"""`python -m benchmarks.chaos.campaign`: faults from a seed against a deployment under load.

The faults and their order depend on the seed alone, so a seed that found a violation can be run
again. Ends with 1 when anything that must hold did not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis
from tqdm import tqdm

from benchmarks.chaos import invariants
from benchmarks.chaos.deployment import ROOT, WEBHOOK_SECRET, ChaosDeployment
from benchmarks.chaos.faults import FAULTS, plan_faults
from benchmarks.chaos.workload import Client, History, Receiver

NUM_CLIENTS = 8
DRAIN_S = 600.0


def run_campaign(
    seed: int,
    num_faults: int,
    rate: float,
    checkout: Path = ROOT,
    pause_s: float = 0.5,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run one campaign and return its report.

    `rate`: jobs a second over all clients. `pause_s`: mean time between two faults. `folder`: where
    logs and data stay; by default they are deleted.
    """
    with ExitStack() as exits:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="unclip-chaos-")
            folder = Path(exits.enter_context(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        receiver = Receiver(seed)
        deployment = ChaosDeployment(folder, checkout)
        history = History()
        try:
            deployment.start()
            clients = [
                Client(deployment.urls, history, seed + index, rate / NUM_CLIENTS, receiver.port)
                for index in range(NUM_CLIENTS)
            ]
            for client in clients:
                client.start()
            injected = _inject(deployment, seed, num_faults, pause_s)
            for client in clients:
                client.stopping.set()
            for client in clients:
                client.join(timeout=120)
            is_drained = _drain(deployment)
            violations = _check(deployment, history, receiver)
            if not is_drained:
                violations.append("jobs are still open")
            return {
                "seed": seed,
                "faults": dict(injected),
                "num_faults": sum(injected.values()),
                "jobs": len(invariants.job_ids(deployment.store)),
                "accepted": len(history.accepted),
                "lost_answers": deployment.service_proxy.num_lost_answers
                + deployment.worker_proxy.num_lost_answers,
                "unexpected_exits": deployment.num_unexpected_exits,
                "unexpected_answers": dict(history.unexpected),
                "num_violations": len(violations),
                "violations": violations[:50],
            }
        finally:
            deployment.stop()
            receiver.stop()


def run_chaos() -> dict[str, Any]:
    """Run the campaign of seed 1, print its figures, and exit with 1 if it found a violation."""
    report = run_campaign(seed=1, num_faults=60, rate=20.0)
    for name in ("num_faults", "jobs", "lost_answers", "unexpected_exits", "num_violations"):
        print(f"| chaos: {name.replace('_', ' ')} | {report[name]} |", flush=True)
    for violation in report["violations"]:
        print(violation, file=sys.stderr)
    if report["num_violations"]:
        sys.exit(1)
    return report


def _inject(
    deployment: ChaosDeployment, seed: int, num_faults: int, pause_s: float
) -> Counter[str]:
    """Inject the seed's faults one after the other; supervise the processes meanwhile."""
    stopping = threading.Event()

    def supervise() -> None:
        while not stopping.wait(0.3):
            deployment.supervise()

    supervisor = threading.Thread(target=supervise, daemon=True)
    supervisor.start()
    injected: Counter[str] = Counter()
    for name, fault_seed in tqdm(plan_faults(seed, num_faults), desc="faults", file=sys.stderr):
        rng = random.Random(fault_seed)
        with suppress(redis.RedisError):
            FAULTS[name][1](deployment, rng)
        injected[name] += 1
        time.sleep(rng.uniform(0, 2 * pause_s))
    stopping.set()
    supervisor.join()
    deployment.supervise()
    return injected


def _drain(deployment: ChaosDeployment) -> bool:
    """Wait until all jobs have ended and webhooks are delivered; return whether they have."""
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        deployment.supervise()
        with suppress(redis.RedisError):
            if invariants.num_open(deployment.store) == 0:
                time.sleep(3)  # RQ removes a job from its registries after the record's end
                return True
        time.sleep(0.5)
    return False


def _check(deployment: ChaosDeployment, history: History, receiver: Receiver) -> list[str]:
    violations = invariants.check_jobs(deployment.store, history)
    violations += invariants.check_queue(deployment.store)
    violations += invariants.check_webhooks(deployment.store, receiver)
    violations += invariants.check_logs(deployment.logs(), [WEBHOOK_SECRET])
    violations += [f"a client got {answer}" for answer in history.unexpected]
    if deployment.num_unexpected_exits:
        violations.append(f"{deployment.num_unexpected_exits} processes ended by themselves")
    return violations


def main() -> None:
    """Run a campaign and print its report as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos.campaign", description=__doc__
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--rate", type=float, default=20.0, help="jobs a second")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="other code to run it against")
    parser.add_argument("--folder", type=Path, help="folder for logs and data (default: none stay)")
    arguments = parser.parse_args()
    report = run_campaign(
        arguments.seed,
        arguments.faults,
        arguments.rate,
        arguments.checkout,
        folder=arguments.folder,
    )
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["num_violations"] else 0)


if __name__ == "__main__":
    main()
