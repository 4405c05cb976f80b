"""Downloads of art: digests, layouts, and errors that say what to do."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest

from tests.training.scenes.illustrated.fake_art import make_name, make_tarball
from training.errors import TrainingError
from training.scenes.illustrated.art import packages
from training.scenes.illustrated.art.art_sets import ART_SETS, find_sprites, slug
from training.scenes.illustrated.art.atlas import load_atlas, render_set, set_paths
from training.scenes.illustrated.art.names import is_drawable, read_names

pytest.importorskip("resvg_py")
DISC = '<circle cx="8" cy="8" r="6" fill="#f00"/>'


def integrity_of(path):
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_an_archive_with_another_digest_is_refused(tmp_path):
    archive = tmp_path / packages.archive_name(packages.NOTO)
    archive.write_bytes(b"something else")
    with pytest.raises(TrainingError, match="does not match the pinned sha512"):
        packages.fetch(packages.NOTO, tmp_path)


def test_a_verified_archive_needs_no_download(tmp_path, monkeypatch):
    archive = tmp_path / packages.archive_name(packages.NOTO)
    archive.write_bytes(b"the archive")
    package = replace(packages.NOTO, integrity=integrity_of(archive))
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    assert packages.fetch(package, tmp_path) == archive


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(TrainingError, match=r"npm is not installed.*apt-get install npm"):
        packages.fetch(packages.NOTO, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'getaddrinfo ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(packages.shutil, "which", lambda _: str(npm))
    cache = tmp_path / "cache"
    with pytest.raises(TrainingError, match=r"ENOTFOUND[\s\S]*registry mirror"):
        packages.fetch(packages.NOTO, cache)
    assert list(cache.iterdir()) == []


def make_icons(tmp_path, names):
    icons = {slug(name.label): {"body": DISC} for name in names}
    contents = {"package/icons.json": {"icons": icons, "width": 16, "height": 16}}
    return make_tarball(tmp_path / packages.archive_name(packages.NOTO), contents)


def test_sprites_are_rendered_and_cached(tmp_path):
    names = [make_name("cat"), make_name("hot dog")]
    make_icons(tmp_path, names)
    render_set(ART_SETS[0], tmp_path, names, 16)
    sprites_path, codes_path = set_paths(tmp_path, "noto", 16)
    assert sprites_path.exists()
    assert codes_path.exists()
    before = sprites_path.stat().st_mtime_ns
    render_set(ART_SETS[0], tmp_path, names, 16)
    assert sprites_path.stat().st_mtime_ns == before


def test_a_changed_layout_is_an_error(tmp_path):
    archive = make_tarball(tmp_path / "noto.tgz", {"package/other.json": {}})
    with pytest.raises(TrainingError, match="unexpected layout"):
        find_sprites(ART_SETS[0], archive, [make_name("cat")])


def test_a_set_that_shows_hardly_any_name_is_an_error(tmp_path):
    names = [make_name(f"thing {number}") for number in range(120)]
    archive = make_icons(tmp_path, names[:20])
    with pytest.raises(TrainingError, match="has only 20 of 120 names"):
        find_sprites(ART_SETS[0], archive, names)


def test_no_art_names_the_command(tmp_path):
    with pytest.raises(TrainingError, match=r"training\.scenes\.illustrated\.fetch"):
        load_atlas(tmp_path)


def test_names_are_read_with_translations(tmp_path):
    record = {"label": "dog", "hexcode": "1F415", "tags": ["pet"], "group": 3, "subgroup": 34}
    clock = {"label": "one o’clock", "hexcode": "1F550", "group": 5, "subgroup": 59}
    members = {
        "package/en/messages.json": {
            "groups": [{"order": 3, "key": "animals-nature"}, {"order": 5, "key": "travel-places"}],
            "subgroups": [],
        },
        "package/en/data.json": [record, clock],
    }
    languages = ("de", "es", "fr", "it", "pt", "nl", "ru", "zh", "ja", "ko")
    members |= {
        f"package/{language}/data.json": [{"hexcode": "1F415", "label": f"{language} dog"}]
        for language in languages
    }
    (name,) = read_names(make_tarball(tmp_path / "names.tgz", members))
    assert name.label == "dog"
    assert name.translations["de"] == "de dog"


@pytest.mark.parametrize(
    ("label", "is_drawn"), [("dog", True), ("woman cook", False), ("three o’clock", False)]
)
def test_which_names_are_drawn(label, is_drawn):
    assert is_drawable(label, "animals-nature", "") == is_drawn
