"""Images and captions of one's own: from a folder, or from webdataset shards.

Either way an image is a file and its caption the text file of the same name: `cat.jpg` and `cat.txt`. Both are read as they are
needed, one batch ahead, so that memory holds two batches and, of shards, a shuffle buffer of undecoded files.

A folder's batches are a function of the step's number, however many processes share them. Shards are read one after another, as
they may lie behind a network: each process has its own, and a run that goes on begins a new pass in another order.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.data.scene_cache import to_float
from training.errors import DataError
from training.trainer.trainer import Step

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif")
SHUFFLED = 1000  # undecoded files that a process holds of its shards
# unusable ones beyond both end the run
MAX_BAD_SHARE = 0.05
ALWAYS_BORNE = 3


@dataclass(frozen=True)
class Pair:
    """An image as uint8 `[3, S, S]`, and what it shows."""

    image: Tensor
    caption: str


def square(content: bytes | Path, size: int) -> Tensor:
    """The middle square of an image file, turned upright, on white, as uint8 `[3, size, size]`. DataError for one that cannot be
    read or is smaller."""
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            if min(image.size) < size:
                raise DataError(
                    f"has {image.width} x {image.height} pixels, and {size} x {size} are needed"
                )
            image.draft("RGB", (size, size))  # a JPEG is decoded no larger than need be
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            fitted = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read: {error}") from error
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def folded(text: bytes) -> str:
    """A caption file's text on one line. DataError where there is none."""
    caption = " ".join(text.decode("utf-8", "replace").split())
    if not caption:
        raise DataError("has an empty caption")
    return caption


class Tally:
    """Counts what could not be used, and ends the run where that is much of it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.met = 0
        self.bad = dict[str, str]()
        self.lock = threading.Lock()

    def good(self) -> None:
        """One more that was used."""
        with self.lock:
            self.met += 1

    def spoilt(self, name: str, why: object) -> None:
        """One more that was not. DataError where there are too many by now."""
        with self.lock:
            self.met += 1
            if name not in self.bad:  # else it is an old acquaintance, from the epoch before
                self.bad[name] = str(why)
                print(f"{name} is left out: it {why}", flush=True)
            if len(self.bad) > max(ALWAYS_BORNE, MAX_BAD_SHARE * self.met):
                few = "; ".join(f"{name} {why}" for name, why in list(self.bad.items())[:3])
                raise DataError(
                    f"{len(self.bad)} of the {self.met} images met so far in {self.where} cannot be used: {few}. Mend or remove "
                    f"them; {ALWAYS_BORNE} are borne, and beyond that {MAX_BAD_SHARE:.0%}"
                )


class Own:
    """What folder and shards share: a step's images and captions, read one step ahead."""

    def __init__(self, where: str, size: int, seed: int) -> None:
        self.where = where
        self.size = size
        self.seed = seed
        self.tally = Tally(where)
        self.readers = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="images")
        self.ahead = ThreadPoolExecutor(1, thread_name_prefix="next-batch")
        self.coming: tuple[tuple[int, ...], Future[list[Pair]]] | None = None

    def pairs(self, step: Step) -> tuple[Tensor, list[str]]:
        """This process' share of a step's images, `[B, 3, S, S]` in [-1, 1], and their captions."""
        if self.coming is None or self.coming[0] != _key(step):
            self.coming = (_key(step), self.ahead.submit(self.batch, step))
        found = self.coming[1].result()
        following = replace(step, number=step.number + 1)
        self.coming = (_key(following), self.ahead.submit(self.batch, following))
        return _stacked(found, step.device)

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        """About `count` images and their captions in batches, the same in every process, for statistics."""
        raise NotImplementedError

    def batch(self, step: Step) -> list[Pair]:
        """This process' share of a step."""
        raise NotImplementedError


def _key(step: Step) -> tuple[int, ...]:
    return step.number, step.batch, step.rank, step.ranks


def _stacked(pairs: list[Pair], device: torch.device) -> tuple[Tensor, list[str]]:
    return to_float(torch.stack([pair.image for pair in pairs])).to(device), [
        pair.caption for pair in pairs
    ]


class Folder(Own):
    """Images in a folder and those below it. One that cannot be used is replaced by the next."""

    def __init__(self, folder: Path, size: int, seed: int = 0) -> None:
        super().__init__(str(folder), size, seed)
        every = sorted(
            path for path in folder.rglob("*") if path.suffix.lower().lstrip(".") in SUFFIXES
        )
        if not every:
            raise DataError(
                f"{folder} has no images: {', '.join(SUFFIXES)} are looked for, and shards are named by their .tar files"
            )
        self.paths = [path for path in every if path.with_suffix(".txt").exists()]
        bare = [path for path in every if not path.with_suffix(".txt").exists()]
        for path in bare[: 1 + ALWAYS_BORNE]:
            print(
                f"{path} is left out: it has no caption, which would be {path.with_suffix('.txt').name}",
                flush=True,
            )
        if len(bare) > max(ALWAYS_BORNE, MAX_BAD_SHARE * len(every)) or not self.paths:
            raise DataError(
                f"{len(bare)} of the {len(every)} images in {folder} have no caption, {bare[0].name} for one: write it into "
                f"{bare[0].with_suffix('.txt').name} beside it"
            )
        self.epochs: dict[int, Tensor] = {}

    def batch(self, step: Step) -> list[Pair]:
        places = torch.arange(step.number * step.batch, (step.number + 1) * step.batch)
        return list(
            self.readers.map(self._usable, [self._index(int(place)) for place in step.own(places)])
        )

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        for start in range(0, min(count, len(self.paths)), 256):
            yield _stacked(
                list(
                    self.readers.map(
                        self._usable, range(start, min(start + 256, count, len(self.paths)))
                    )
                ),
                device,
            )

    def _index(self, place: int) -> int:
        """Which image comes at a place of the endless row of epochs, each in an order of its own."""
        epoch, within = divmod(place, len(self.paths))
        if epoch not in self.epochs:
            shuffled = torch.randperm(
                len(self.paths),
                generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch),
            )
            self.epochs = {key: order for key, order in self.epochs.items() if key == epoch - 1} | {
                epoch: shuffled
            }
        return int(self.epochs[epoch][within])

    def _usable(self, index: int) -> Pair:
        for place in itertools.chain(range(index, len(self.paths)), range(index)):
            path = self.paths[place]
            try:
                pair = Pair(square(path, self.size), folded(path.with_suffix(".txt").read_bytes()))
            except (DataError, OSError) as error:
                self.tally.spoilt(str(path), error)
            else:
                self.tally.good()
                return pair
        raise DataError(f"none of the {len(self.paths)} images in {self.where} can be used")


class Shards(Own):
    """webdataset's .tar files, on disk or behind any address that webdataset opens. `urls` may have braces: `{0000..0127}.tar`."""

    def __init__(self, urls: str, size: int, seed: int = 0) -> None:
        super().__init__(urls, size, seed)
        wds = _webdataset()
        self.urls: list[str] = [
            url for part in urls.split("::") for url in wds.shardlists.expand_urls(part)
        ]
        if gone := [url for url in self.urls if ":" not in url and not Path(url).exists()]:
            raise DataError(
                f"{len(gone)} of the {len(self.urls)} shards that {urls} names are not there, {gone[0]} for one"
            )
        self.reading: tuple[tuple[int, ...], Iterator[dict[str, Any]]] | None = None

    def batch(self, step: Step) -> list[Pair]:
        if self.reading is None or self.reading[0] != _key(step):
            mine = self.urls[step.rank :: step.ranks]
            if not mine:
                raise DataError(
                    f"{self.where} names {len(self.urls)} shards for {step.ranks} processes: each needs one of its own"
                )
            self.reading = (_key(step), self._stream(mine, self.seed * 1_000_003 + step.number))
        wanted = step.batch // step.ranks
        stream = self.reading[1]
        found: list[Pair] = []
        while len(found) < wanted:
            read = self.readers.map(self._pair, itertools.islice(stream, wanted - len(found)))
            found += [pair for pair in read if pair is not None]
        self.reading = (_key(replace(step, number=step.number + 1)), stream)
        return found

    def first(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        stream = self._stream(self.urls, self.seed)
        for _ in range(0, count, 256):
            read = self.readers.map(self._pair, itertools.islice(stream, min(256, count)))
            if found := [pair for pair in read if pair is not None]:
                yield _stacked(found, device)

    def _stream(self, urls: list[str], seed: int) -> Iterator[dict[str, Any]]:
        """Samples for ever, each once a pass, shuffled by shards and, as far as the buffer reaches, among each other. DataError for
        what is no shard, and for a pass without any sample."""
        order = random.Random(seed)
        while True:
            sample = None
            shuffled = _webdataset().shuffle(SHUFFLED, initial=SHUFFLED, seed=order.getrandbits(62))
            for sample in shuffled(self._samples(order.sample(urls, len(urls)))):
                yield sample
            if sample is None:
                raise DataError(
                    f"the {len(urls)} shards of {self.where} that this process reads hold nothing"
                )

    def _samples(self, urls: list[str]) -> Iterator[dict[str, Any]]:
        """The samples of shards, one after another."""
        wds = _webdataset()
        for url in urls:
            try:
                with closing(wds.gopen(url)) as stream:  # webdataset itself would leave it open
                    yield from wds.tariterators.group_by_keys(
                        wds.tariterators.tar_file_expander([{"url": url, "stream": stream}])
                    )
            except (OSError, ValueError, EOFError, tarfile.TarError) as error:
                raise DataError(f"the shard {url} cannot be read: {error}") from error

    def _pair(self, sample: dict[str, Any]) -> Pair | None:
        name = f"{sample['__key__']} in {sample['__url__']}"
        try:
            content = next((sample[suffix] for suffix in SUFFIXES if suffix in sample), None)
            if content is None or "txt" not in sample:
                raise DataError(f"has no {'caption (.txt)' if content else 'image'}")
            pair = Pair(square(content, self.size), folded(sample["txt"]))
        except DataError as error:
            self.tally.spoilt(name, error)
            return None
        self.tally.good()
        return pair


def open_images(data: str, size: int, seed: int = 0) -> Folder | Shards:
    """A folder's images or the shards that an address names, as squares of `size` pixels. A folder of .tar files is its shards."""
    path = Path(data)
    if not path.is_dir():
        if ".tar" not in data:
            raise DataError(
                f"{data} is neither a folder nor names .tar shards: for example images/ or 'shards/{{0000..0127}}.tar'"
            )
        return Shards(data, size, seed)
    tars = sorted(str(tar) for tar in path.glob("*.tar"))
    return Shards("::".join(tars), size, seed) if tars else Folder(path, size, seed)


def _webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise DataError(
            "shards need webdataset, which is not installed: pip install '.[data]'"
        ) from error
    return webdataset
