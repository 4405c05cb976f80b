"""A zip file of kept images and their metadata."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO

from service.gallery.repository import Filter, Gallery

CHUNK_BYTES = 1 << 18
PAGE = 200
SPOOL_BYTES = 16 << 20


def write_archive(gallery: Gallery, owner: str, wanted: Filter) -> IO[bytes]:
    """Return an open temporary file: ID.png of each image and metadata.json. Blocking.

    Images are PNGs and are stored, not compressed again. Raises ObjectStoreError.
    """
    file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
    metadata = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        cursor = None
        while True:
            page = gallery.list(owner, wanted, limit=PAGE, cursor=cursor)
            for image in page.images:
                content = gallery.files.read(image.sha256)
                if content is None:
                    continue
                archive.writestr(f"{image.id}.png", content)
                metadata.append(
                    {
                        "file": f"{image.id}.png",
                        "kept_at": image.kept_at.isoformat(),
                        "stars": image.stars,
                        "provenance": image.provenance,
                    }
                )
            cursor = page.next
            if cursor is None:
                break
        archive.writestr("metadata.json", json.dumps(metadata, indent=2, ensure_ascii=False))
    file.seek(0)
    return file


def read_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content and close it."""
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
