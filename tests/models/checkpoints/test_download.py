"""Download Karlo from a local hub that has a tiny Karlo."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from models import UnCLIP
from models.__main__ import main
from models.checkpoints.download import TEXT_TO_IMAGE, VARIATIONS, PullError, pull

REFERENCE: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("karlo_reference.py")))
COMMITS = {TEXT_TO_IMAGE: "a1" * 20, VARIATIONS: "b2" * 20}
CHUNK = 65_536
LARGE = "text_encoder/model.safetensors"


class Hub(ThreadingHTTPServer):
    """Two repositories over HTTP.

    `sent` counts the bytes of each file. `cut` ends the connection after a number of bytes of a
    file, and further requests get 503. `listed` overrides a file's listing; None hides it."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[tuple[str, str], bytes] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                name = str(path.relative_to(folder))
                self.files[
                    VARIATIONS if name.startswith("image_encoder") else TEXT_TO_IMAGE, name
                ] = path.read_bytes()
        self.sent: Counter[str] = Counter()
        self.cut: dict[str, int] = {}
        self.listed: dict[str, dict[str, Any] | None] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if listing:
            self.listing(*listing.groups())
        elif file and COMMITS.get(file[1]) == file[2]:
            self.file(file[1], file[3])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def listing(self, repository: str, revision: str) -> None:
        if repository not in COMMITS or revision not in ("main", COMMITS[repository]):
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        siblings = []
        for (holder, name), content in self.server.files.items():
            override = self.server.listed.get(name, {})
            if holder == repository and override is not None:
                entry: dict[str, Any] = {
                    "rfilename": name,
                    "size": len(content),
                    "blobId": "0" * 40,
                }
                if name.endswith(".safetensors"):
                    entry["lfs"] = {
                        "size": len(content),
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "pointerSize": 130,
                    }
                siblings.append(entry | override)
        body = {
            "id": repository,
            "sha": COMMITS[repository],
            "siblings": siblings,
            "private": False,
            "tags": [],
            "downloads": 0,
        }
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def file(self, repository: str, name: str) -> None:
        content = self.server.files[repository, name]
        cut = self.server.cut.get(name)
        if self.command == "GET" and cut is not None and self.server.sent[name] >= cut:
            self.answer(503)
            return
        etag = hashlib.sha256(content).hexdigest()
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": COMMITS[repository],
            "Accept-Ranges": "bytes",
        }
        first = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[0])
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        body = content[first:]
        if self.command == "HEAD":
            self.answer(200, **headers, Content_Length=str(len(content)))
            return
        whole = len(body)
        body = body if cut is None else body[: cut - self.server.sent[name]]
        self.server.sent[name] += len(body)
        self.answer(206 if first else 200, body, **headers, Content_Length=str(whole))
        self.close_connection = len(body) < whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Karlo, with further files that its repositories have."""
    folder = tmp_path_factory.mktemp("karlo")
    REFERENCE["write_folder"](folder, image_encoder=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "README.md").write_text("# Karlo")
    (folder / "prior" / "diffusion_pytorch_model.bin").write_bytes(b"the same weights")
    return folder


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    # huggingface_hub derives it from the endpoint at import.
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    # An incomplete chunk is discarded, and these files are small.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_pulled_checkpoint_generates_the_same_image(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the commits, has no unneeded file, and leaves no download."""
    out = tmp_path / "karlo"
    main(["pull", "karlo-v1-alpha", "--out", str(out)])
    assert f"UNCLIP_CHECKPOINT={out}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["karlo"]
    assert json.loads((out / "config.json").read_text())["source"] == COMMITS
    assert all(commit in (out / "CARD.md").read_text() for commit in COMMITS.values())
    assert not {"README.md", "prior/diffusion_pytorch_model.bin"} & hub.sent.keys()
    theirs = UnCLIP.load(folder)
    ours = UnCLIP.load(out)
    steps = {f"{part}_num_inference_steps": 2 for part in ("prior", "decoder", "upsampler")}
    assert torch.equal(
        theirs.generate(["a red cube"], size=256, **steps),
        ours.generate(["a red cube"], size=256, **steps),
    )
    images = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(theirs.clip.encode_image(images), ours.clip.encode_image(images))


def test_an_interrupted_download_resumes(hub: Hub, tmp_path: Path) -> None:
    """No byte is sent twice."""
    hub.cut = {LARGE: 10 * CHUNK}
    with pytest.raises(PullError, match="run this command again to resume"):
        pull(tmp_path / "karlo")
    assert hub.sent[LARGE] == 10 * CHUNK
    hub.cut.clear()
    pull(tmp_path / "karlo", half=True)
    sizes = {name: len(content) for (_, name), content in hub.files.items()}
    assert hub.sent == {name: sizes[name] for name in hub.sent}
    assert LARGE in hub.sent
    assert UnCLIP.load(tmp_path / "karlo").sizes == (64, 256)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            {LARGE: {"size": 17}},
            "model.safetensors has [0-9]+ bytes, and the hub lists 17. It is deleted",
        ),
        (
            {LARGE: {"lfs": {"size": 17, "sha256": "0" * 64, "pointerSize": 130}}},
            "has another SHA-256 than the hub lists",
        ),
        (
            {"decoder/config.json": None},
            f"{TEXT_TO_IMAGE} at {'a1' * 20} lacks decoder/config.json: name a commit that has it",
        ),
        (
            {LARGE: None},
            "lacks text_encoder/diffusion_pytorch_model.safetensors or text_encoder/model",
        ),
    ],
)
def test_a_file_that_differs_from_its_listing_is_an_error(
    hub: Hub, tmp_path: Path, listed: dict[str, Any], message: str
) -> None:
    """The bad file is deleted, and no checkpoint folder appears."""
    hub.listed = listed
    with pytest.raises(PullError, match=message):
        pull(tmp_path / "karlo")
    assert not (tmp_path / "karlo").exists()
    assert not (tmp_path / "karlo.download" / LARGE).exists()


def test_a_revision_is_pinned(hub: Hub, tmp_path: Path) -> None:
    """The message names a revision that does not exist."""
    with pytest.raises(
        PullError,
        match=r"cannot download kakaobrain/karlo-v1-alpha at 'v9' from .*it does not exist",
    ):
        pull(tmp_path / "karlo", "v9")
    pull(tmp_path / "karlo", COMMITS[TEXT_TO_IMAGE], keep=True)
    assert (tmp_path / "karlo.download" / "model_index.json").exists()
    with pytest.raises(PullError, match="exists: delete it"):
        pull(tmp_path / "karlo")


def test_an_unreachable_hub_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SystemExit, match="cannot download .* from http://127.0.0.1:9: check the network"
    ):
        main(["pull", "karlo-v1-alpha", "--out", str(tmp_path / "karlo")])


def test_a_missing_client_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PullError, match="pip install huggingface_hub"):
        pull(tmp_path / "karlo")
