"""Files of kept images, named by the SHA-256 of their content, in a folder or an object store."""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

from PIL import Image

from infra.object_store import ObjectStoreError, modified_at

PREFIX = "gallery"


class ImageFiles:
    """Read, write and delete image files at a URL. All methods block."""

    def __init__(self, url: str) -> None:
        """url: file:///folder or s3://bucket/prefix. Raises ValueError if it is invalid."""
        from fsspec.core import url_to_fs

        try:
            options: dict[str, Any] = {"auto_mkdir": True} if url.startswith("file:") else {}
            self._files, root = url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{error}; use file:///folder or s3://bucket/prefix") from error
        self._root = f"{root}/{PREFIX}"

    def write(self, png: bytes) -> tuple[str, tuple[int, int]]:
        """Write a PNG unless it is there; return its SHA-256 and its size in pixels.

        The content becomes visible as a whole. Raises ObjectStoreError if it cannot be written.
        """
        sha256 = hashlib.sha256(png).hexdigest()
        size = Image.open(io.BytesIO(png)).size
        path = self._path(sha256)
        try:
            if not self._files.exists(path):
                with self._files.transaction:
                    self._files.pipe_file(path, png)
        except Exception as error:
            raise ObjectStoreError(f"{type(error).__name__}: {error}") from error
        return sha256, size

    def read(self, sha256: str) -> bytes | None:
        """Return a file's content, None if it is gone. Raises ObjectStoreError."""
        try:
            return bytes(self._files.cat_file(self._path(sha256)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise ObjectStoreError(f"{type(error).__name__}: {error}") from error

    def delete(self, sha256: str) -> None:
        """Delete a file; one that is gone already is no error."""
        try:
            self._files.rm_file(self._path(sha256))
        except FileNotFoundError:
            return
        except Exception as error:
            raise ObjectStoreError(f"{type(error).__name__}: {error}") from error

    def older_than(self, seconds: float) -> list[str]:
        """Return the names (SHA-256) of all files written more than `seconds` ago."""
        limit = time.time() - seconds
        try:
            entries = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return []
        return [
            path.rpartition("/")[2].removesuffix(".png")
            for path, info in entries.items()
            if path.endswith(".png") and modified_at(info) < limit
        ]

    def _path(self, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}.png"
