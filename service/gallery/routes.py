"""`/gallery`: keep images, search them, collect them, download them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy.exc import OperationalError

from contracts.provenance import read_provenance
from infra.object_store import ObjectStoreError
from service.api.openapi import PNG_CONTENT
from service.api.problems import responses
from service.dependencies import BaseUrlDep, OwnerDep, ServicesDep
from service.errors import ImageNotFound, NotFound, ObjectStoreDown, Unavailable
from service.gallery.archive import read_chunks, write_archive
from service.gallery.models import (
    CollectionInfo,
    CollectionRequest,
    ImageQuery,
    KeepRequest,
    KeptImageInfo,
    KeptImagePage,
    RateRequest,
)
from service.gallery.repository import Gallery
from service.gallery.schema import NO_OWNER
from service.storage_threads import StorageThreads

T = TypeVar("T")
log = logging.getLogger(__name__)
_FILE_THREADS = StorageThreads()
# An archive takes as long as its images.
_ARCHIVE_THREADS = StorageThreads(num_threads=2, deadline_s=None)
CACHE_CONTROL = "private, max-age=31536000, immutable"
router = APIRouter(prefix="/gallery", tags=["Gallery"])
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


async def get_gallery(services: ServicesDep) -> Gallery:
    """Return the gallery. Raises NotFound if the operator has none."""
    if services.gallery is None:
        raise NotFound("This service has no gallery. Set UNCLIP_GALLERY_URL to have one.")
    return services.gallery


async def get_owner_id(owner: OwnerDep) -> str:
    """Return whose images a request may see."""
    return owner.id if owner else NO_OWNER


async def _run(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run a blocking method of the database in a thread, and name what is unavailable."""
    return await _name_unavailable(run_in_threadpool(function, *args, **options))


async def _run_on_files(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run a blocking method that reads or writes files, as `_run` does, in other threads."""
    return await _name_unavailable(_FILE_THREADS.run(function, *args, **options))


async def _name_unavailable(call: Awaitable[T]) -> T:
    try:
        return await call
    except (ObjectStoreError, TimeoutError) as error:
        log.warning("the gallery's files are unavailable: %s", error)
        raise ObjectStoreDown("The gallery's files are unavailable. Retry shortly.") from error
    except OperationalError as error:
        log.warning("the gallery's database is unavailable: %s", error.orig)
        raise Unavailable(
            "The gallery's database is locked or unavailable. Nothing was changed. Retry shortly."
        ) from error


GalleryDep = Annotated[Gallery, Depends(get_gallery)]
OwnerIdDep = Annotated[str, Depends(get_owner_id)]


@router.post(
    "/images",
    status_code=201,
    summary="Keep an image",
    responses={
        200: {"model": KeptImageInfo, "description": "It is kept already."},
        201: {"model": KeptImageInfo},
        **responses(404, 422, 503),
    },
)
async def keep_image(
    request: KeepRequest,
    gallery: GalleryDep,
    services: ServicesDep,
    owner_id: OwnerIdDep,
    base_url: BaseUrlDep,
) -> JSONResponse:
    """Keep an image of a job until it is deleted, with its provenance."""
    job = await services.jobs.get_owned(request.job, owner_id or None)
    png = await services.images.read(job.record, request.index)
    try:
        provenance = read_provenance(png)
    # A worker of another version generated it.
    except ValueError as error:
        raise ImageNotFound(f"The image has no readable provenance: {error}") from error
    image, is_new = await _run_on_files(
        gallery.keep, owner_id, request.job, request.index, png, provenance
    )
    info = KeptImageInfo.of(image, base_url)
    return JSONResponse(info.model_dump(mode="json"), 201 if is_new else 200)


@router.get("/images", summary="List kept images", responses=responses(404, 422, 503))
async def list_images(
    gallery: GalleryDep,
    owner_id: OwnerIdDep,
    base_url: BaseUrlDep,
    query: Annotated[ImageQuery, Query()],
) -> KeptImagePage:
    """Return a page of kept images, newest first. All conditions must hold."""
    page = await _run(
        gallery.list, owner_id, query.to_filter(), limit=query.limit, cursor=query.cursor
    )
    images = [KeptImageInfo.of(image, base_url) for image in page.images]
    return KeptImagePage(images=images, next=page.next)


@router.get(
    "/images/{image_id}.png",
    response_class=Response,
    summary="Get a kept image's file",
    responses={200: {"content": PNG_CONTENT}, **responses(404, 422, 503)},
)
async def get_file(
    image_id: Id,
    gallery: GalleryDep,
    owner_id: OwnerIdDep,
    link: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Return the PNG. The `link` of its URL opens it without an API key."""
    if link is None:
        image = await _run(gallery.get, owner_id, image_id)
    else:
        image = await _run(gallery.get_by_link, image_id, link)
    content = await _run_on_files(gallery.files.read, image.sha256)
    if content is None:
        raise ImageNotFound("The image's file is gone. Restore it from a backup, or delete it.")
    return Response(content, media_type="image/png", headers={"Cache-Control": CACHE_CONTROL})


@router.get("/images/{image_id}", summary="Get a kept image", responses=responses(404, 422, 503))
async def get_image(
    image_id: Id, gallery: GalleryDep, owner_id: OwnerIdDep, base_url: BaseUrlDep
) -> KeptImageInfo:
    """Return a kept image with its provenance."""
    image = await _run(gallery.get, owner_id, image_id)
    return KeptImageInfo.of(image, base_url)


@router.patch("/images/{image_id}", summary="Rate an image", responses=responses(404, 422, 503))
async def rate_image(
    image_id: Id,
    request: RateRequest,
    gallery: GalleryDep,
    owner_id: OwnerIdDep,
    base_url: BaseUrlDep,
) -> KeptImageInfo:
    """Set or remove an image's stars."""
    image = await _run(gallery.rate, owner_id, image_id, request.stars)
    return KeptImageInfo.of(image, base_url)


@router.delete(
    "/images/{image_id}",
    status_code=204,
    summary="Delete a kept image",
    responses=responses(404, 422, 503),
)
async def delete_image(image_id: Id, gallery: GalleryDep, owner_id: OwnerIdDep) -> None:
    """Delete an image from the gallery and from all collections."""
    await _run_on_files(gallery.delete, owner_id, image_id)


@router.get(
    "/archive.zip",
    response_class=StreamingResponse,
    summary="Download kept images",
    responses={200: {"content": {"application/zip": {}}}, **responses(404, 422, 503)},
)
async def get_archive(
    gallery: GalleryDep, owner_id: OwnerIdDep, query: Annotated[ImageQuery, Query()]
) -> StreamingResponse:
    """Return all images that match as a zip file, with metadata.json."""
    file = await _name_unavailable(
        _ARCHIVE_THREADS.run(write_archive, gallery, owner_id, query.to_filter())
    )
    headers = {"Content-Disposition": 'attachment; filename="gallery.zip"'}
    return StreamingResponse(read_chunks(file), headers=headers, media_type="application/zip")


@router.get("/collections", summary="List collections", responses=responses(404, 503))
async def list_collections(gallery: GalleryDep, owner_id: OwnerIdDep) -> list[CollectionInfo]:
    """Return all collections by name."""
    collections = await _run(gallery.list_collections, owner_id)
    return [CollectionInfo.of(collection, images) for collection, images in collections]


@router.post(
    "/collections",
    status_code=201,
    summary="Create a collection",
    responses=responses(404, 422, 503),
)
async def create_collection(
    request: CollectionRequest, gallery: GalleryDep, owner_id: OwnerIdDep
) -> CollectionInfo:
    """Create an empty collection."""
    collection = await _run(gallery.create_collection, owner_id, request.name.strip())
    return CollectionInfo.of(collection, 0)


@router.delete(
    "/collections/{collection_id}",
    status_code=204,
    summary="Delete a collection",
    responses=responses(404, 422, 503),
)
async def delete_collection(collection_id: Id, gallery: GalleryDep, owner_id: OwnerIdDep) -> None:
    """Delete a collection. Its images stay in the gallery."""
    await _run(gallery.delete_collection, owner_id, collection_id)


@router.put(
    "/collections/{collection_id}/images/{image_id}",
    status_code=204,
    summary="Add an image to a collection",
    responses=responses(404, 422, 503),
)
async def add_to_collection(
    collection_id: Id, image_id: Id, gallery: GalleryDep, owner_id: OwnerIdDep
) -> None:
    """Put a kept image into a collection."""
    await _run(gallery.add_to_collection, owner_id, collection_id, image_id)


@router.delete(
    "/collections/{collection_id}/images/{image_id}",
    status_code=204,
    summary="Remove an image from a collection",
    responses=responses(404, 422, 503),
)
async def remove_from_collection(
    collection_id: Id, image_id: Id, gallery: GalleryDep, owner_id: OwnerIdDep
) -> None:
    """Take an image out of a collection; it stays in the gallery."""
    await _run(gallery.remove_from_collection, owner_id, collection_id, image_id)
