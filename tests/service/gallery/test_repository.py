"""The gallery on SQLite and, where a server is installed, on PostgreSQL."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from support.images import provenance_fields

from contracts.provenance import Provenance
from devtools.ports import free_port
from devtools.wait import wait_until
from service.errors import InvalidRequest, NotFound
from service.gallery.database import open_database
from service.gallery.files import ImageFiles
from service.gallery.repository import Filter, Gallery
from service.gallery.schema import KeptImage

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)


def png_of(colour: str, side: int = 8) -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def provenance_of(prompt: str, **parameters: object) -> Provenance:
    """Return the provenance of a generated image."""
    fields = provenance_fields(prompt, 2**32 - 1, **{"eta": 0.7, **parameters})
    return Provenance.model_validate(fields)


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of this module."""
    if POSTGRES is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    folder = tmp_path_factory.mktemp("postgres")
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        for parent in (folder, *folder.parents):
            if parent == Path("/tmp") or not parent.is_relative_to("/tmp"):
                break
            parent.chmod(0o755)
        shutil.chown(folder, user)
    port = free_port()
    run = {"user": user, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    initdb = [str(POSTGRES / "initdb"), "-D", str(folder / "data"), "-U", "unclip", "-A", "trust"]
    subprocess.run(initdb, check=True, **run)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    server = subprocess.Popen(
        [str(POSTGRES / "postgres"), "-D", str(folder / "data"), *options.split()], **run
    )
    url = f"postgresql+psycopg://unclip@127.0.0.1:{port}/postgres"
    ready = [str(POSTGRES / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    wait_until(
        lambda: subprocess.run(ready, check=False, **run).returncode == 0, "PostgreSQL is ready"
    )
    yield url
    server.terminate()
    server.wait()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/gallery.db"
    url: str = request.getfixturevalue("postgres_url")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def gallery(engine: Engine, tmp_path: Path) -> Gallery:
    return Gallery(engine, ImageFiles(f"file://{tmp_path}/files"))


@pytest.fixture
def keep(gallery: Gallery) -> Callable[..., KeptImage]:
    """Return a function that keeps an image of a prompt."""

    def keep(prompt: str, owner: str = "ann", index: int = 0, **parameters: object) -> KeptImage:
        job_id = prompt.encode().hex()[:32]
        provenance = provenance_of(prompt, **parameters)
        return gallery.keep(owner, job_id, index, png_of("red"), provenance)[0]

    return keep


def test_a_kept_image_has_its_file_and_provenance(gallery: Gallery) -> None:
    """Both come back as they were, the seed too, which needs more than 32 bits with a sign."""
    content = png_of("blue", side=16)
    image, is_new = gallery.keep("ann", "job", 2, content, provenance_of("a blue dog"))
    assert is_new
    loaded = gallery.get("ann", image.id)
    assert gallery.files.read(loaded.sha256) == content
    assert loaded.seed == 2**32 - 1
    assert (loaded.width, loaded.height) == (16, 16)
    assert loaded.provenance["prompt"] == "a blue dog"
    assert loaded.kept_at.tzinfo is not None


def test_keeping_twice_keeps_once(gallery: Gallery) -> None:
    """The second time returns the first image."""
    first, _ = gallery.keep("ann", "job", 0, png_of("red"), provenance_of("a dog"))
    second, is_new = gallery.keep("ann", "job", 0, png_of("red"), provenance_of("a dog"))
    assert not is_new
    assert second.id == first.id
    assert gallery.count("ann") == 1


def test_owners_see_their_own_images_only(gallery: Gallery, keep: Callable[..., KeptImage]) -> None:
    """Another owner's image does not exist for all methods."""
    image = keep("a dog", owner="ann")
    collection = gallery.create_collection("ben", "pets")
    assert gallery.list("ben", Filter()).images == []
    for use in (
        lambda: gallery.get("ben", image.id),
        lambda: gallery.rate("ben", image.id, 3),
        lambda: gallery.delete("ben", image.id),
        lambda: gallery.add_to_collection("ben", collection.id, image.id),
        lambda: gallery.delete_collection("ann", collection.id),
        lambda: gallery.get_by_link(image.id, "wrong"),
    ):
        with pytest.raises(NotFound):
            use()
    assert gallery.get_by_link(image.id, image.link).id == image.id


@pytest.mark.parametrize(
    ("wanted", "prompts"),
    [
        (Filter(words="dog"), ["a dog on grass", "A Red DOG"]),
        (Filter(words="RED dog"), ["A Red DOG"]),
        (Filter(words="100%"), ["100% cotton"]),
        (Filter(operation="variations"), []),
        (Filter(parameter="sampler:heun"), ["a cat"]),
        (Filter(parameter="eta:0.7"), ["100% cotton", "a dog on grass", "A Red DOG"]),
        (Filter(min_stars=4), ["a cat"]),
        (Filter(day=date(2000, 1, 1)), []),
        (Filter(collection="nothing"), []),
    ],
)
def test_a_search_finds_what_matches(
    gallery: Gallery, keep: Callable[..., KeptImage], wanted: Filter, prompts: list[str]
) -> None:
    """By words in any case and order, operation, parameter, stars, day and collection."""
    keep("A Red DOG")
    keep("a dog on grass")
    keep("100% cotton")
    gallery.rate("ann", keep("a cat", sampler="heun", eta=0.1).id, 5)
    matches = gallery.list("ann", wanted).images
    assert [image.provenance["prompt"] for image in matches] == prompts


def test_today_is_the_day_of_keeping(gallery: Gallery, keep: Callable[..., KeptImage]) -> None:
    """In UTC."""
    image = keep("a dog")
    today = image.kept_at.date()
    assert len(gallery.list("ann", Filter(day=today)).images) == 1
    assert gallery.list("ann", Filter(day=today - timedelta(days=1))).images == []


def test_pages_cover_all_images_once(gallery: Gallery, keep: Callable[..., KeptImage]) -> None:
    """Newest first, also when images are added in between."""
    ids = [keep(f"image {number}").id for number in range(7)]
    page = gallery.list("ann", Filter(), limit=3)
    keep("a late image")
    seen = [image.id for image in page.images]
    while page.next:
        page = gallery.list("ann", Filter(), limit=3, cursor=page.next)
        seen += [image.id for image in page.images]
    assert seen == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "bm90IGpzb24=", "WzEsIDJd"])
def test_a_broken_cursor_is_refused(gallery: Gallery, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        gallery.list("ann", Filter(), cursor=cursor)


def test_collections_hold_images(gallery: Gallery, keep: Callable[..., KeptImage]) -> None:
    """Adding twice is adding once; deleting a collection keeps its images, and the reverse."""
    dog, cat = keep("a dog"), keep("a cat")
    pets = gallery.create_collection("ann", "pets")
    for image in (dog, dog, cat):
        gallery.add_to_collection("ann", pets.id, image.id)
    assert [count for _, count in gallery.list_collections("ann")] == [2]
    gallery.remove_from_collection("ann", pets.id, cat.id)
    listed = gallery.list("ann", Filter(collection=pets.id)).images
    assert [image.id for image in listed] == [dog.id]
    gallery.delete("ann", dog.id)
    assert [count for _, count in gallery.list_collections("ann")] == [0]
    gallery.delete_collection("ann", pets.id)
    assert gallery.list_collections("ann") == []
    assert gallery.count("ann") == 1


def test_a_collections_name_is_unique_to_its_owner(gallery: Gallery) -> None:
    gallery.create_collection("ann", "pets")
    gallery.create_collection("ben", "pets")
    with pytest.raises(InvalidRequest, match="pets"):
        gallery.create_collection("ann", "pets")


def test_equal_images_share_a_file_until_the_last_goes(
    gallery: Gallery, keep: Callable[..., KeptImage]
) -> None:
    first, second = keep("one"), keep("two")
    assert first.sha256 == second.sha256
    gallery.delete("ann", first.id)
    assert gallery.files.read(first.sha256) is not None
    gallery.delete("ann", second.id)
    assert gallery.files.read(first.sha256) is None


def test_a_file_without_a_row_is_deleted_after_a_while(gallery: Gallery) -> None:
    """As a crash between the file and the row leaves it; a young one may still get its row."""
    sha256, _ = gallery.files.write(png_of("green"))
    image, _ = gallery.keep("ann", "job", 0, png_of("red"), provenance_of("a dog"))
    assert gallery.delete_orphans(min_age_s=3600) == 0
    assert gallery.delete_orphans(min_age_s=-1) == 1
    assert gallery.files.read(sha256) is None
    assert gallery.files.read(image.sha256) is not None


def test_migrations_run_once_and_refuse_later_versions(database_url: str) -> None:
    """A database of this version opens again; one of a later version is left alone."""
    open_database(database_url).dispose()
    engine = open_database(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ValueError, match="9999.*update the service"):
        open_database(database_url)


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite+nothing:///x.db"])
def test_an_unusable_url_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///file.db"):
        open_database(url)


def test_a_locked_database_fails_within_its_timeout(tmp_path: Path) -> None:
    """Another process holds the write lock: the error comes after five seconds, not never."""
    url = f"sqlite:///{tmp_path}/gallery.db"
    gallery = Gallery(open_database(url), ImageFiles(f"file://{tmp_path}/files"))
    other = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(OperationalError, match="locked"):
        gallery.keep("ann", "job", 0, png_of("red"), provenance_of("a dog"))
    assert time.monotonic() - started < 10
    other.execute("ROLLBACK")
    assert gallery.keep("ann", "job", 0, png_of("red"), provenance_of("a dog"))[1]
    other.close()


def test_ten_thousand_images_are_listed_and_searched_quickly(gallery: Gallery) -> None:
    """p95 of a page and of a search stays under 50 ms."""
    now = datetime.now(UTC)
    rows = [
        KeptImage(
            owner="ann",
            job_id=f"{number:032x}",
            image_index=0,
            operation="generate",
            words=f"a {'dog' if number % 50 == 0 else 'cat'} number {number}",
            seed=number,
            width=256,
            height=256,
            provenance={"prompt": f"number {number}", "parameters": {"sampler": "ddim"}},
            sha256="0" * 64,
            link="x",
            created_at=now,
            kept_at=now - timedelta(seconds=number),
        )
        for number in range(10_000)
    ]
    with Session(gallery.engine) as session, session.begin():
        session.add_all(rows)
    times_s = []
    for wanted in (Filter(), Filter(words="dog 50"), Filter(words="9999")) * 7:
        started = time.perf_counter()
        gallery.list("ann", wanted)
        times_s.append(time.perf_counter() - started)
    assert sorted(times_s)[int(0.95 * len(times_s))] < 0.05
