"""Tables of the gallery's database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NO_OWNER = ""  # of images that are kept while API keys are off


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone; SQLite stores none, so it is always UTC there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


class Base(DeclarativeBase):
    """Base of all tables."""


def _new_id() -> str:
    return uuid.uuid4().hex


class KeptImage(Base):
    """One kept image. Its file is named by `sha256`, so equal images share one file."""

    __tablename__ = "kept_images"
    __table_args__ = (
        UniqueConstraint("owner", "job_id", "image_index", name="uq_kept_images_source"),
        Index("ix_kept_images_owner_kept_at", "owner", "kept_at", "id"),
        Index("ix_kept_images_sha256", "sha256"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_new_id)
    owner: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(32))
    image_index: Mapped[int]
    operation: Mapped[str] = mapped_column(String(32))
    # All prompts of the request in lower case, for the search.
    words: Mapped[str] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    provenance: Mapped[dict[str, Any]] = mapped_column(JSON)
    sha256: Mapped[str] = mapped_column(String(64))
    link: Mapped[str] = mapped_column(String(32))  # opens the file without an API key
    stars: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    kept_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Collection(Base):
    """A named set of kept images of one owner."""

    __tablename__ = "collections"
    __table_args__ = (UniqueConstraint("owner", "name", name="uq_collections_name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_new_id)
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CollectionImage(Base):
    """That an image is in a collection."""

    __tablename__ = "collection_images"

    collection_id: Mapped[str] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    image_id: Mapped[str] = mapped_column(
        ForeignKey("kept_images.id", ondelete="CASCADE"), primary_key=True, index=True
    )
