"""The object store from the worker's side: patient when it is away, and rid of what is old. tests/service reads what is written."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import redis
from conftest import RedisServer

from contracts import redis_keys
from worker.store import Store, keep_swept


def test_a_short_absence_costs_nothing(tmp_path: Path) -> None:
    """The worker tries again before it gives the drawing up."""
    (tmp_path / "store").write_text("in the way")
    threading.Timer(1, (tmp_path / "store").unlink).start()
    Store(f"file://{tmp_path}/store").put({"jobs/j/0.png": b"one"})
    assert (tmp_path / "store/jobs/j/0.png").read_bytes() == b"one"


def test_what_is_old_is_swept_away(store_url: str, tmp_path: Path) -> None:
    """Nothing is left of it, no folder either; what is young stays, and so does what is not a result."""
    store = Store(f"{store_url}/swept")
    name = redis_keys.stored_image("old", 0)
    store.put({name: b"1", redis_keys.stored_animation("old", "webp"): b"2", "beside": b"3"})
    time.sleep(2.5)  # S3 knows no fractions
    store.put({redis_keys.stored_image("young", 0): b"4"})
    assert store.sweep(3600) == 0
    assert store.sweep(1.2) == 2
    assert store.sweep(1.2) == 0
    files = store._files
    root = store._root
    assert sorted(path.removeprefix(root) for path in files.find(root)) == [
        "/beside",
        "/jobs/young/0.png",
    ]
    if store_url.startswith("file"):
        assert [path.name for path in (tmp_path / "store/swept/jobs").iterdir()] == ["young"]
    files.rm(root, recursive=True)


def test_of_several_workers_one_sweeps(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time; and a store that is away, or a Redis, does not end it."""
    swept = list[float]()
    rests = list[float]()

    class Counted(Store):
        def sweep(self, seconds: float) -> int:
            swept.append(seconds)
            raise OSError("away")

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 3:
            raise SystemExit

    monkeypatch.setattr(time, "sleep", rest)
    with redis.Redis.from_url(redis_server.url) as connection, pytest.raises(SystemExit):
        keep_swept(Counted(f"file://{tmp_path}"), connection, 100)
    assert swept == [700]
    assert len(rests) == 3
