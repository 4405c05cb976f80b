"""Download Karlo from the hub and convert it into a checkpoint folder of our layout.

The download is pinned to a commit, which the folder's config.json and card name. An interrupted
download resumes. Each file is checked against the size that the hub lists, and against its SHA-256
if the hub has one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.checkpoints import karlo
from models.checkpoints.checkpoint import save_texts

TEXT_TO_IMAGE = "kakaobrain/karlo-v1-alpha"
# Has the image encoder.
VARIATIONS = "kakaobrain/karlo-v1-alpha-image-variations"

CARD = """# Karlo-v1-alpha

The unCLIP model of Kakao Brain (https://github.com/kakaobrain/karlo): 3.4 billion parameters and an
image encoder of 304 million, CLIP ViT-L/14, images up to 256². Trained on 115 million pairs of
images and captions (the better part of COYO-100M, CC3M, CC12M).

Converted by `python -m models pull` from

{sources}

Tensors are {precision}. They have other names and another order; nothing else changed.

The weights' licence is CreativeML OpenRAIL-M. It binds those who use the weights, and their users,
to its restrictions (https://huggingface.co/spaces/CompVis/stable-diffusion-license). Karlo's
authors recommend a safety checker; this folder has none.
"""

T = TypeVar("T")


class PullError(RuntimeError):
    """A download failed; the message names the file, the fault and the remedy."""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, with its files' sizes (bytes) and, if known, SHA-256 hashes."""

    repository: str
    commit: str
    sizes: dict[str, int]
    hashes: dict[str, str]


def pull(
    out: Path,
    revision: str = "main",
    image_revision: str = "main",
    *,
    half: bool = False,
    keep: bool = False,
) -> None:
    """Download Karlo into `OUT.download`, convert it to `out`, and delete the download.

    `half` rounds the weights to fp16, and `keep` keeps the download. Raises PullError, and
    CheckpointError for weights that differ from Karlo's."""
    if out.exists():
        raise PullError(f"{out} exists: delete it, or name another folder by --out")
    download = out.with_name(out.name + ".download")
    listings = [list_files(TEXT_TO_IMAGE, revision), list_files(VARIATIONS, image_revision)]
    files = [(listing, name) for listing in listings for name in select_files(listing)]
    _check_disk_space(download, sum(listing.sizes[name] for listing, name in files))
    for listing, name in files:
        fetch(listing, name, download)
    commits = {listing.repository: listing.commit for listing in listings}
    convert(download, out, commits, half=half)
    if not keep:
        shutil.rmtree(download)


def list_files(repository: str, revision: str) -> Listing:
    """List a repository's files at a revision, which is resolved once to a commit."""
    hub = _hub()
    info = _request(
        f"{repository} at {revision!r}",
        lambda: hub.HfApi().model_info(repository, revision=revision, files_metadata=True),
    )
    siblings = info.siblings or []
    return Listing(
        repository,
        str(info.sha),
        {file.rfilename: file.size for file in siblings if file.size is not None},
        {file.rfilename: file.lfs.sha256 for file in siblings if file.lfs is not None},
    )


def select_files(listing: Listing) -> list[str]:
    """Return the files that a conversion reads: each network's config and its weights.

    Of several files of weights only one is selected. Raises PullError if a file is missing."""
    if listing.repository == VARIATIONS:
        parts = [karlo.OPTIONAL]
        names = []
    else:
        parts = [part for parts in karlo.PARTS.values() for part in parts if part != karlo.OPTIONAL]
        names = [
            "model_index.json",
            *(f"{scheduler}/scheduler_config.json" for scheduler in karlo.SCHEDULERS),
        ]
    choices = [[name] for name in names]
    for part in parts:
        choices += [[f"{part}/config.json"], [f"{part}/{name}" for name in karlo.WEIGHTS]]
    missing = [" or ".join(names) for names in choices if not listing.sizes.keys() & set(names)]
    if missing:
        raise PullError(
            f"{listing.repository} at {listing.commit} lacks {'; '.join(missing)}: "
            "name a commit that has it by --revision"
        )
    return [next(name for name in names if name in listing.sizes) for names in choices]


def fetch(listing: Listing, name: str, folder: Path) -> None:
    """Download a file, or the missing rest of it, into `folder`, and check it.

    Raises PullError for a file that differs from the listing."""
    hub = _hub()
    _request(
        f"{name} of {listing.repository}",
        lambda: hub.HfApi().hf_hub_download(
            listing.repository, name, revision=listing.commit, local_dir=folder
        ),
    )
    path = folder / name
    fault = _find_fault(listing, name, path)
    if fault is not None:
        # Otherwise the next attempt would treat it as complete.
        path.unlink()
        raise PullError(f"{path} {fault}. It is deleted: run this command again to download it")


def _find_fault(listing: Listing, name: str, path: Path) -> str | None:
    size = path.stat().st_size
    if size != listing.sizes[name]:
        return f"has {size} bytes, and the hub lists {listing.sizes[name]}"
    if name in listing.hashes:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listing.hashes[name]:
                return "has another SHA-256 than the hub lists"
    return None


def convert(source: Path, out: Path, commits: dict[str, str], *, half: bool = False) -> None:
    """Write Karlo's folder in our layout, with tensors as they are stored, or in fp16.

    `out` appears only when it is complete."""
    config = karlo.read_config(source)
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, network, read in karlo.translate(source, config):
        print(f"Converting {name}", flush=True)
        tensors = {key: _copy(read(key), half) for key in network.state_dict()}
        save_file(tensors, unfinished / f"{name}.safetensors")
    sources = "\n".join(
        f"- `{repository}`, commit `{commit}`" for repository, commit in commits.items()
    )
    precision = "rounded to fp16" if half else "as they are stored there"
    card = CARD.format(sources=sources, precision=precision)
    save_texts(unfinished, config | {"source": commits}, card)
    unfinished.rename(out)


def _copy(tensor: Tensor, half: bool) -> Tensor:
    """Copy a tensor out of its mapped file."""
    return tensor.to(
        dtype=torch.float16 if half else tensor.dtype,
        copy=True,
        memory_format=torch.contiguous_format,
    )


def _hub() -> ModuleType:
    """Import huggingface_hub, an optional dependency."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise PullError(
            "huggingface_hub is not installed: run pip install huggingface_hub"
        ) from error
    return huggingface_hub


def _request(subject: str, call: Callable[[], T]) -> T:
    """Return the hub's answer.

    Its client's exceptions depend on its version; each becomes a PullError that names the subject.
    """
    try:
        return call()
    except Exception as error:
        kind = type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        missing = (
            "RepositoryNotFoundError",
            "RevisionNotFoundError",
            "RemoteEntryNotFoundError",
        )
        if kind in missing or status in (401, 403, 404):
            advice = (
                "it does not exist or is not public: check the name and the revision, or log in "
                "by `hf auth login`"
            )
        else:
            advice = "check the network, and run this command again to resume"
        raise PullError(
            f"cannot download {subject} from {_hub().constants.ENDPOINT}: {advice} "
            f"({kind}: {str(error).splitlines()[0]})"
        ) from error


def _check_disk_space(folder: Path, size: int) -> None:
    """Raise PullError unless the download, and its converted copy, fit on the disk."""
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    needed = 2 * size - present
    free = shutil.disk_usage(parent).free
    print(f"{size / 1e9:.1f} GB in total, {present / 1e9:.1f} GB already present", flush=True)
    if free < needed:
        raise PullError(
            f"{parent} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed: "
            "name a folder on another disk by --out"
        )
