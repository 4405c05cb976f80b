"""What must hold of a deployment once its jobs have ended, whatever happened before."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from benchmarks.chaos.workload import SECRET_PROMPT, History, Receiver

ENDED = {"succeeded", "failed", "cancelled"}
NO_EXPIRY = -1
RQ_KEYS = ("rq:queue:unclip", "rq:wip:unclip", "rq:queue:unclip:intermediate")


def job_ids(store: Any) -> list[str]:
    """Return the ids of all jobs in the index."""
    return [member.decode().partition(":")[0] for member in store.zrange("unclip:jobs", 0, -1)]


def num_open(store: Any) -> int:
    """Return how many jobs have not ended."""
    with store.pipeline(transaction=False) as pipe:
        for job_id in job_ids(store):
            pipe.hget(f"unclip:job:{job_id}", "status")
        statuses = pipe.execute()
    return sum(status is not None and status.decode() not in ENDED for status in statuses)


def check_jobs(store: Any, history: History) -> list[str]:
    """Every accepted job ended once, as it should, and keeps its images."""
    violations = []
    for job_id in history.accepted:
        if not store.exists(f"unclip:job:{job_id}"):
            violations.append(f"{job_id}: accepted and lost")
    outcomes: Counter[str] = Counter()
    for job_id in job_ids(store):
        record = store.hgetall(f"unclip:job:{job_id}")
        status = record.get(b"status", b"").decode()
        outcomes[status] += 1
        events = [
            fields[b"event"].decode() for _, fields in store.xrange(f"unclip:job:{job_id}:events")
        ]
        if status not in ENDED:
            violations.append(f"{job_id}: still {status}")
            continue
        if events.count("ended") != 1:
            violations.append(f"{job_id}: {events.count('ended')} events of an end")
        elif events[-1] != "ended":
            violations.append(f"{job_id}: {events[-1]} after its end")
        if status == "failed":
            violations.append(f"{job_id}: failed, {record.get(b'outcome', b'')!r}")
        if status == "cancelled" and job_id in history.accepted and job_id not in history.cancelled:
            violations.append(f"{job_id}: cancelled without a request")
        if status == "succeeded" and not store.exists(f"unclip:job:{job_id}:image:0"):
            violations.append(f"{job_id}: succeeded without its image")
        if store.ttl(f"unclip:job:{job_id}") < 0:
            violations.append(f"{job_id}: ended without a time to live")
        if store.ttl(f"unclip:job:{job_id}:image:0") == NO_EXPIRY:
            violations.append(f"{job_id}: its image has no time to live")
    counters = {
        name.decode(): int(count) for name, count in store.hgetall("unclip:outcomes").items()
    }
    if sum(counters.values()) != sum(outcomes[status] for status in ENDED):
        violations.append(f"counters are {counters}, jobs {dict(outcomes)}")
    return violations


def check_queue(store: Any) -> list[str]:
    """Queue and registries are empty, and no input image is left."""
    violations = []
    for key in RQ_KEYS:
        kind = store.type(key).decode()
        size = {"list": store.llen, "zset": store.zcard}.get(kind, lambda key: 0)(key)
        if size:
            violations.append(f"{key} holds {size}")
    for key in store.scan_iter("unclip:job:*:input:*", count=1000):
        violations.append(f"{key.decode()} is left")
    return violations


def check_webhooks(store: Any, receiver: Receiver) -> list[str]:
    """A webhook reports one end of its job, the one in the record, and none is lost."""
    violations = []
    pending = _pending_webhooks(store)
    for job_id in job_ids(store):
        record = store.hgetall(f"unclip:job:{job_id}")
        status = record.get(b"status", b"").decode()
        has_webhook = json.loads(record.get(b"spec", b"{}")).get("webhook") is not None
        is_delivered = (job_id, status) in receiver.deliveries
        if has_webhook and not is_delivered and f"{job_id}:{status}" not in pending:
            violations.append(f"{job_id}: its webhook is lost")
    # Copies, because late deliveries still arrive.
    for webhook_id, events in list(receiver.ids.items()):
        if len(events) > 1:
            violations.append(f"webhook {webhook_id} reported {sorted(events)}")
    for job_id, status in list(receiver.deliveries):
        stored = store.hget(f"unclip:job:{job_id}", "status")
        if stored is not None and stored.decode() != status:
            violations.append(f"{job_id}: a webhook reported {status}, it is {stored.decode()}")
    return violations


def _pending_webhooks(store: Any) -> set[str]:
    """Return the deliveries that wait."""
    return {
        member.decode()
        for key in store.scan_iter("unclip:webhooks*")
        if store.type(key) == b"zset"
        for member in store.zrange(key, 0, -1)
    }


def check_logs(logs: str, secrets: list[str]) -> list[str]:
    """No log holds a secret, and each line of a log is JSON."""
    violations = [
        f"a log holds {secret[:12]}…" for secret in [*secrets, SECRET_PROMPT] if secret in logs
    ]
    broken = [line for line in logs.splitlines() if line.strip() and not _is_json(line)]
    if broken:
        violations.append(
            f"{len(broken)} lines of the logs are not JSON, such as {broken[0][:200]!r}"
        )
    return violations


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
