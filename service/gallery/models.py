"""Requests and responses of the gallery's routes."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from service.gallery.repository import Filter
from service.gallery.schema import Collection, KeptImage

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]


class KeepRequest(BaseModel):
    """Which image to keep."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: Id = Field(description="The job's id.")
    index: Annotated[int, Field(ge=0, lt=32)] = Field(0, description="Which of its images.")


class RateRequest(BaseModel):
    """An image's rating."""

    model_config = ConfigDict(extra="forbid", strict=True)

    stars: Annotated[int, Field(ge=1, le=5)] | None = Field(
        description="1 to 5, or null to remove the rating."
    )


class CollectionRequest(BaseModel):
    """A new collection."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name = Field(description="A name that no other collection has.")


class ImageQuery(BaseModel):
    """Which kept images to list."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field("", max_length=200, description="Words that a prompt must contain.")
    operation: str | None = Field(None, max_length=32, description="One operation only.")
    day: date | None = Field(None, description="The day on which they were kept, UTC.")
    collection: Id | None = Field(None, description="Id of a collection.")
    min_stars: int | None = Field(None, ge=1, le=5, description="Minimum number of stars.")
    parameter: str | None = Field(
        None, max_length=100, description="A parameter's value, as name:value."
    )
    limit: int = Field(50, ge=1, le=200, description="Maximum number of images of a page.")
    cursor: str | None = Field(
        None, max_length=300, description="The `next` value of the previous page."
    )

    def to_filter(self) -> Filter:
        """Return the conditions without the page."""
        return Filter(
            self.query,
            self.operation,
            self.day,
            self.collection,
            self.min_stars,
            self.parameter,
        )


class KeptImageInfo(BaseModel):
    """A kept image."""

    id: str
    job: str = Field(description="The job that generated it; it may have expired.")
    index: int
    operation: str
    prompt: str | None
    seed: int
    width: int
    height: int
    stars: int | None
    created_at: datetime
    kept_at: datetime
    url: str = Field(description="The PNG. The link in it opens it without an API key.")
    provenance: dict[str, Any]

    @classmethod
    def of(cls, image: KeptImage, base_url: str) -> Self:
        """Present a row of the database."""
        return cls(
            id=image.id,
            job=image.job_id,
            index=image.image_index,
            operation=image.operation,
            prompt=image.provenance.get("prompt"),
            seed=image.seed,
            width=image.width,
            height=image.height,
            stars=image.stars,
            created_at=image.created_at,
            kept_at=image.kept_at,
            url=f"{base_url}/gallery/images/{image.id}.png?link={image.link}",
            provenance=image.provenance,
        )


class KeptImagePage(BaseModel):
    """Kept images, newest first."""

    images: list[KeptImageInfo]
    next: str | None = Field(description="Cursor of the next page, null after the last.")


class CollectionInfo(BaseModel):
    """A collection and the number of its images."""

    id: str
    name: str
    images: int
    created_at: datetime

    @classmethod
    def of(cls, collection: Collection, images: int) -> Self:
        """Present a row of the database."""
        return cls(
            id=collection.id,
            name=collection.name,
            images=images,
            created_at=collection.created_at,
        )
