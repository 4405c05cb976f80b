"""Delete files that no kept image needs, and open the gallery that the settings name."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.engine import make_url

from service.background import sleep_until_stop
from service.gallery.database import open_database
from service.gallery.files import ImageFiles
from service.gallery.repository import Gallery

log = logging.getLogger(__name__)
CLEANUP_EVERY_S = 3600.0


def open_gallery(url: str, files_url: str | None) -> Gallery:
    """Open the gallery at a database URL.

    files_url: where image files are; by default a folder beside an SQLite file.
    Raises ValueError if a URL is invalid, or `files_url` is missing for PostgreSQL.
    """
    engine = open_database(url)
    if files_url is None:
        database = make_url(url).database
        if engine.dialect.name != "sqlite" or not database:
            raise ValueError("set UNCLIP_GALLERY_FILES_URL to a folder or bucket for the images")
        files_url = f"file://{Path(database).resolve().with_suffix('')}-files"
    return Gallery(engine, ImageFiles(files_url))


async def delete_orphans_periodically(gallery: Gallery, stopping: asyncio.Event) -> None:
    """Delete orphaned files once an hour until `stopping` is set."""
    while not stopping.is_set():
        try:
            await run_in_threadpool(gallery.delete_orphans)
        # The database or the files may be unavailable for a while.
        except Exception as error:
            log.warning("the gallery's cleanup failed: %s: %s", type(error).__name__, error)
        await sleep_until_stop(stopping, CLEANUP_EVERY_S)
