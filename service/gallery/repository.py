"""Keep, find and delete images and collections of one owner. All functions block."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, delete, exists, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.provenance import Provenance
from service.errors import InvalidRequest, NotFound
from service.gallery.files import ImageFiles
from service.gallery.schema import Collection, CollectionImage, KeptImage

PROMPT_FIELDS = ("prompt", "prompt_a", "prompt_b", "prompt_from", "prompt_to", "negative_prompt")


@dataclass(frozen=True)
class Filter:
    """Which kept images: all conditions must hold. `words`: each must occur in a prompt."""

    words: str = ""
    operation: str | None = None
    day: date | None = None  # of keeping, UTC
    collection: str | None = None
    min_stars: int | None = None
    parameter: str | None = None  # "name:value"


@dataclass(frozen=True)
class Page:
    """Some kept images, newest first, and the cursor of the next page."""

    images: list[KeptImage]
    next: str | None


class Gallery:
    """The kept images of all owners."""

    def __init__(self, engine: Engine, files: ImageFiles) -> None:
        self.engine = engine
        self.files = files

    def keep(
        self, owner: str, job_id: str, index: int, png: bytes, provenance: Provenance
    ) -> tuple[KeptImage, bool]:
        """Keep an image; return it, and whether it is new.

        The file is written before the row, so a crash leaves at most a file without a row, which
        `delete_orphans` removes. Raises ObjectStoreError if the file cannot be written.
        """
        if existing := self._find_source(owner, job_id, index):
            return existing, False
        sha256, (width, height) = self.files.write(png)
        request = provenance.request
        image = KeptImage(
            owner=owner,
            job_id=job_id,
            image_index=index,
            operation=provenance.operation,
            words=_prompts(request).lower(),
            seed=provenance.seed,
            width=width,
            height=height,
            provenance=provenance.model_dump(mode="json"),
            sha256=sha256,
            link=secrets.token_urlsafe(16),
            created_at=datetime.now(UTC),
            kept_at=datetime.now(UTC),
        )
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                session.add(image)
        except IntegrityError:
            # Another request kept the same image in between.
            if existing := self._find_source(owner, job_id, index):
                return existing, False
            raise
        return image, True

    def get(self, owner: str, image_id: str) -> KeptImage:
        """Return a kept image. Raises NotFound if the owner has none with this id."""
        with Session(self.engine) as session:
            image = session.get(KeptImage, image_id)
            if image is None or image.owner != owner:
                raise _no_image(image_id)
            session.expunge(image)
            return image

    def get_by_link(self, image_id: str, link: str) -> KeptImage:
        """Return the kept image that a link opens. Raises NotFound if it opens none."""
        with Session(self.engine) as session:
            image = session.get(KeptImage, image_id)
            if image is None or not secrets.compare_digest(image.link.encode(), link.encode()):
                raise _no_image(image_id)
            session.expunge(image)
            return image

    def list(
        self, owner: str, wanted: Filter, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """Return a page of kept images, newest first. Raises InvalidRequest for a bad cursor."""
        query = select(KeptImage).where(KeptImage.owner == owner, *_conditions(owner, wanted))
        if cursor is not None:
            kept_at, image_id = _read_cursor(cursor)
            query = query.where(
                or_(
                    KeptImage.kept_at < kept_at,
                    and_(KeptImage.kept_at == kept_at, KeptImage.id < image_id),
                )
            )
        query = query.order_by(KeptImage.kept_at.desc(), KeptImage.id.desc()).limit(limit + 1)
        with Session(self.engine, expire_on_commit=False) as session:
            images = list(session.scalars(query))
        has_more = len(images) > limit
        images = images[:limit]
        return Page(images, _cursor(images[-1]) if has_more else None)

    def count(self, owner: str) -> int:
        """Return how many images an owner keeps."""
        with Session(self.engine) as session:
            query = select(func.count()).select_from(KeptImage).where(KeptImage.owner == owner)
            return session.scalar(query) or 0

    def rate(self, owner: str, image_id: str, stars: int | None) -> KeptImage:
        """Set an image's stars, None for no rating. Raises NotFound."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            image = session.get(KeptImage, image_id)
            if image is None or image.owner != owner:
                raise _no_image(image_id)
            image.stars = stars
            return image

    def delete(self, owner: str, image_id: str) -> None:
        """Delete a kept image. Raises NotFound if the owner has none with this id.

        The row goes before the file: a crash in between leaves an orphaned file, never a broken
        image.
        """
        with Session(self.engine) as session, session.begin():
            image = session.get(KeptImage, image_id)
            if image is None or image.owner != owner:
                raise _no_image(image_id)
            sha256 = image.sha256
            session.delete(image)
        if not self._is_used(sha256):
            self.files.delete(sha256)

    def delete_orphans(self, min_age_s: float = 3600.0) -> int:
        """Delete files without a row that are older than `min_age_s`; return their number."""
        orphans = [name for name in self.files.older_than(min_age_s) if not self._is_used(name)]
        for sha256 in orphans:
            self.files.delete(sha256)
        return len(orphans)

    def create_collection(self, owner: str, name: str) -> Collection:
        """Create a collection. Raises InvalidRequest if the owner has one of that name."""
        collection = Collection(owner=owner, name=name, created_at=datetime.now(UTC))
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                session.add(collection)
        except IntegrityError as error:
            message = f"there is a collection {name!r} already; choose another name"
            raise InvalidRequest.from_field("name", message) from error
        return collection

    def list_collections(self, owner: str) -> Sequence[tuple[Collection, int]]:
        """Return the owner's collections by name, each with the number of its images."""
        query = (
            select(Collection, func.count(CollectionImage.image_id))
            .outerjoin(CollectionImage, CollectionImage.collection_id == Collection.id)
            .where(Collection.owner == owner)
            .group_by(Collection.id)
            .order_by(Collection.name)
        )
        with Session(self.engine, expire_on_commit=False) as session:
            return [(collection, count) for collection, count in session.execute(query)]

    def delete_collection(self, owner: str, collection_id: str) -> None:
        """Delete a collection; its images stay in the gallery. Raises NotFound."""
        with Session(self.engine) as session, session.begin():
            session.delete(_get_collection(session, owner, collection_id))

    def add_to_collection(self, owner: str, collection_id: str, image_id: str) -> None:
        """Put an image into a collection; twice is the same as once. Raises NotFound."""
        with Session(self.engine) as session, session.begin():
            _get_collection(session, owner, collection_id)
            image = session.get(KeptImage, image_id)
            if image is None or image.owner != owner:
                raise _no_image(image_id)
            session.merge(CollectionImage(collection_id=collection_id, image_id=image_id))

    def remove_from_collection(self, owner: str, collection_id: str, image_id: str) -> None:
        """Take an image out of a collection. Raises NotFound if the collection is not there."""
        with Session(self.engine) as session, session.begin():
            _get_collection(session, owner, collection_id)
            session.execute(
                delete(CollectionImage).where(
                    CollectionImage.collection_id == collection_id,
                    CollectionImage.image_id == image_id,
                )
            )

    def _find_source(self, owner: str, job_id: str, index: int) -> KeptImage | None:
        query = select(KeptImage).where(
            KeptImage.owner == owner, KeptImage.job_id == job_id, KeptImage.image_index == index
        )
        with Session(self.engine, expire_on_commit=False) as session:
            return session.scalar(query)

    def _is_used(self, sha256: str) -> bool:
        with Session(self.engine) as session:
            return bool(session.scalar(select(exists().where(KeptImage.sha256 == sha256))))


def _get_collection(session: Session, owner: str, collection_id: str) -> Collection:
    collection = session.get(Collection, collection_id)
    if collection is None or collection.owner != owner:
        raise NotFound(f"There is no collection {collection_id[:80]!r}.")
    return collection


def _no_image(image_id: str) -> NotFound:
    return NotFound(f"There is no kept image {image_id[:80]!r}.")


def _prompts(request: dict[str, Any]) -> str:
    texts = [request.get(name) for name in PROMPT_FIELDS]
    texts += [part.get("prompt") for part in request.get("mix") or []]
    return "\n".join(text for text in texts if text)


def _conditions(owner: str, wanted: Filter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        KeptImage.words.contains(word, autoescape=True) for word in wanted.words.lower().split()
    ]
    if wanted.operation is not None:
        conditions.append(KeptImage.operation == wanted.operation)
    if wanted.min_stars is not None:
        conditions.append(KeptImage.stars >= wanted.min_stars)
    if wanted.day is not None:
        start = datetime(wanted.day.year, wanted.day.month, wanted.day.day, tzinfo=UTC)
        conditions += [KeptImage.kept_at >= start, KeptImage.kept_at < start + timedelta(days=1)]
    if wanted.parameter is not None:
        name, separator, value = wanted.parameter.partition(":")
        if not separator or not name:
            message = f"{wanted.parameter!r} is not name:value, such as sampler:ddim"
            raise InvalidRequest.from_field("parameter", message)
        stored = KeptImage.provenance["parameters"][name]
        number = _as_number(value)
        matches = stored.as_string() == value if number is None else stored.as_float() == number
        conditions.append(matches)
    if wanted.collection is not None:
        members = select(CollectionImage.image_id).where(
            CollectionImage.collection_id == wanted.collection
        )
        conditions.append(KeptImage.id.in_(members))
        owned = exists().where(Collection.id == wanted.collection, Collection.owner == owner)
        conditions.append(owned)
    return conditions


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cursor(image: KeptImage) -> str:
    text = json.dumps([image.kept_at.isoformat(), image.id])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        kept_at, image_id = json.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromisoformat(kept_at), str(image_id)
    except (ValueError, TypeError) as error:
        message = f"{cursor[:80]!r} is not valid; use the `next` value of the previous page"
        raise InvalidRequest.from_field("cursor", message) from error
