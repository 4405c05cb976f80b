"""Karlo from the hub, as a checkpoint folder of ours: fetched once, converted once.

What is fetched is pinned to a commit, which the folder's config.json and card name. An interrupted download goes on where it
was, and each file is checked against the size, and where the hub knows it the SHA-256, that the hub lists.
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
VARIATIONS = "kakaobrain/karlo-v1-alpha-image-variations"  # has the image encoder

CARD = """# Karlo-v1-alpha

The unCLIP model of Kakao Brain (https://github.com/kakaobrain/karlo): 3.4 billion parameters and an image encoder of 304 million,
CLIP ViT-L/14, images up to 256². Trained on 115 million pairs of images and captions (COYO-100M's better part, CC3M, CC12M).

Converted by `python -m models pull` from

{sources}

with the tensors {precision}, under other names and in another order, and nothing else changed.

The weights' licence is CreativeML OpenRAIL-M, which binds those who use them and those they serve to its restrictions of use
(https://huggingface.co/spaces/CompVis/stable-diffusion-license). Karlo's authors advise a safety checker; there is none in this folder.
"""

T = TypeVar("T")


class PullError(RuntimeError):
    """What was to be fetched is not there or not whole; the message says which file, and what would do."""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, and its files' sizes and SHA-256s, where the hub knows them."""

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
    """Fetch Karlo into `OUT.download`, convert it to `out`, and delete the download unless `keep`. PullError, or CheckpointError
    for weights that are not as Karlo is made."""
    if out.exists():
        raise PullError(f"{out} exists already: delete it, or name another folder by --out")
    download = out.with_name(out.name + ".download")
    listings = {
        repository: listed(repository, at)
        for repository, at in ((TEXT_TO_IMAGE, revision), (VARIATIONS, image_revision))
    }
    wanted = {repository: files_of(listing) for repository, listing in listings.items()}
    _check_room(
        download,
        sum(
            listings[repository].sizes[name]
            for repository, names in wanted.items()
            for name in names
        ),
    )
    for repository, names in wanted.items():
        for name in names:
            fetch(listings[repository], name, download)
    convert(
        download,
        out,
        {listing.repository: listing.commit for listing in listings.values()},
        half=half,
    )
    if not keep:
        shutil.rmtree(download)


def listed(repository: str, revision: str) -> Listing:
    """A repository's files at a revision, whose commit is found out once, so that all files are of the same."""
    hub = _hub()
    info = _asked(
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


def files_of(listing: Listing) -> list[str]:
    """The files that a conversion reads, and no others: of each network its config and the first kind of weights there is."""
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
            f"{listing.repository} at {listing.commit} lacks {'; '.join(missing)}: name a commit that has it by --revision"
        )
    return [next(name for name in names if name in listing.sizes) for names in choices]


def fetch(listing: Listing, name: str, folder: Path) -> None:
    """A file of a repository into `folder`, or what of it is not there yet; checked."""
    hub = _hub()
    _asked(
        f"{name} of {listing.repository}",
        lambda: hub.HfApi().hf_hub_download(
            listing.repository, name, revision=listing.commit, local_dir=folder
        ),
    )
    path = folder / name
    size = listing.sizes[name]
    fault = (
        f"has {path.stat().st_size} bytes, and the hub lists {size}"
        if path.stat().st_size != size
        else None
    )
    if fault is None and name in listing.hashes:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listing.hashes[name]:
                fault = "has another SHA-256 than the hub lists"
    if fault is not None:
        path.unlink()  # or the next try would take it for whole
        raise PullError(f"{path} {fault}. It is deleted: run this again to fetch it anew")


def convert(source: Path, out: Path, commits: dict[str, str], *, half: bool = False) -> None:
    """Write Karlo's folder as one of ours, tensors as they are stored, or in fp16. `out` is there when all of it is."""
    config = karlo.read_config(source)
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, network, value_of in karlo.translated(source, config):
        print(f"Converting {name}", flush=True)
        save_file(
            {key: _copied(value_of(key), half) for key in network.state_dict()},
            unfinished / f"{name}.safetensors",
        )
    sources = "\n".join(
        f"- `{repository}`, commit `{commit}`" for repository, commit in commits.items()
    )
    card = CARD.format(
        sources=sources, precision="rounded to fp16" if half else "as they are stored there"
    )
    save_texts(unfinished, config | {"source": commits}, card)
    unfinished.rename(out)


def _copied(tensor: Tensor, half: bool) -> Tensor:
    """A tensor out of the file that it lies in, which is let go of."""
    return tensor.to(
        dtype=torch.float16 if half else tensor.dtype,
        copy=True,
        memory_format=torch.contiguous_format,
    )


def _hub() -> ModuleType:
    """huggingface_hub, which nothing else here needs."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise PullError(
            "fetching needs huggingface_hub, which is not installed: pip install huggingface_hub"
        ) from error
    return huggingface_hub


def _asked(what: str, ask: Callable[[], T]) -> T:
    """What the hub answers. Its client's errors differ by its version; each becomes one that says what was asked for."""
    try:
        return ask()
    except Exception as error:
        kind = type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if kind in (
            "RepositoryNotFoundError",
            "RevisionNotFoundError",
            "RemoteEntryNotFoundError",
        ) or status in (401, 403, 404):
            advice = "there is no such thing, or it is not for everybody: look at the name and the revision, or log in by `hf auth login`"
        else:
            advice = "is the network up? What has been fetched is kept: run this again to go on"
        raise PullError(
            f"{what} did not come from {_hub().constants.ENDPOINT}: {advice} ({kind}: {str(error).splitlines()[0]})"
        ) from error


def _check_room(folder: Path, size: int) -> None:
    """PullError unless the download and as much again for what it is converted to find room on the disk."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    needed = 2 * size - there
    free = shutil.disk_usage(parent).free
    print(f"{size / 1e9:.1f} GB to fetch, of which {there / 1e9:.1f} GB are there", flush=True)
    if free < needed:
        raise PullError(
            f"{parent} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed: name another place by --out"
        )
