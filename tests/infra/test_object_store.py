"""Objects in a folder and in S3: written with retries, read, deleted when they are old."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from contracts import redis_keys
from infra.object_store import CHUNK_BYTES, ObjectStore, ObjectStoreError

# Objects in S3 carry whole seconds.
S3_RESOLUTION_S = 1.2


def test_objects_are_read_whole_and_in_chunks(store_url: str) -> None:
    """An object longer than one chunk comes back unchanged."""
    content = os.urandom(2 * CHUNK_BYTES + 1)
    store = ObjectStore(store_url)
    store.put({"jobs/j/0.png": content})
    stored = store.open("jobs/j/0.png")
    assert stored is not None
    assert stored.size == len(content)
    assert [len(chunk) for chunk in stored.chunks] == [CHUNK_BYTES, CHUNK_BYTES, 1]
    assert store.read("jobs/j/0.png") == content


def test_a_missing_object_is_none(store_url: str) -> None:
    """It is no error: the job may have expired."""
    assert ObjectStore(store_url).open("jobs/none/0.png") is None
    assert ObjectStore(store_url).read("jobs/none/0.png") is None


def test_put_retries_a_short_outage(tmp_path: Path) -> None:
    """The worker retries before it gives up a finished image."""
    (tmp_path / "store").write_text("in the way")
    threading.Timer(1, (tmp_path / "store").unlink).start()
    ObjectStore(f"file://{tmp_path}/store").put({"jobs/j/0.png": b"one"})
    assert (tmp_path / "store/jobs/j/0.png").read_bytes() == b"one"


def test_put_fails_after_the_last_retry(tmp_path: Path) -> None:
    """The error names the object and the cause."""
    (tmp_path / "store").write_text("in the way")
    store = ObjectStore(f"file://{tmp_path}/store", retry_for_s=0.1)
    with pytest.raises(ObjectStoreError, match=r"refused jobs/j/0\.png: NotADirectoryError"):
        store.put({"jobs/j/0.png": b"one"})


def test_a_store_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder in place of the object stands for any failure of the store."""
    (tmp_path / "jobs").mkdir()
    with pytest.raises(ObjectStoreError, match="IsADirectoryError"):
        ObjectStore(f"file://{tmp_path}").open("jobs")


def test_expired_results_are_deleted(store_url: str, tmp_path: Path) -> None:
    """Their empty folders go too; younger results and other objects stay."""
    store = ObjectStore(f"{store_url}/expiry")
    expired = redis_keys.stored_image("old", 0)
    animation = redis_keys.stored_animation("old", "webp")
    store.put({expired: b"1", animation: b"2", "other": b"3"})
    time.sleep(2 * S3_RESOLUTION_S)
    store.put({redis_keys.stored_image("young", 0): b"4"})
    assert store.delete_expired(3600) == 0
    assert store.delete_expired(S3_RESOLUTION_S) == 2
    assert store.delete_expired(S3_RESOLUTION_S) == 0
    assert store.read(expired) is None
    assert store.read("other") == b"3"
    assert store.read(redis_keys.stored_image("young", 0)) == b"4"
    if store_url.startswith("file"):
        folders = [path.name for path in (tmp_path / "store/expiry/jobs").iterdir()]
        assert folders == ["young"]


@pytest.mark.parametrize(
    ("url", "message"),
    [("images", "it is not a URL"), ("nowhere://x", "nowhere"), ("gs2://x", "gs2")],
)
def test_an_invalid_url_is_an_error_with_the_remedy(url: str, message: str) -> None:
    """It names the forms that are supported."""
    with pytest.raises(ValueError, match=f"(?s){message}.*use file:///folder or s3://bucket"):
        ObjectStore(url)
