"""Images and captions of the user's own: a folder, or webdataset shards.

An image is a file, and its caption the text file of the same name: `cat.jpg` and `cat.txt`. Files
are read when needed, one batch ahead. Memory holds two batches and, for shards, a shuffle buffer of
undecoded files.

A folder's batches are a function of the step's number, for any number of processes. Shards may be
remote, so they are read in sequence: each process has its own, and a resumed run begins a new pass
in another order.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.errors import DataError
from training.scenes.pixels import to_float
from training.trainer.step import Step

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif")
SHUFFLE_BUFFER = 1000  # undecoded files in memory, per process
# More unusable images than both limits end the run.
MAX_BAD_SHARE = 0.05
MAX_BAD_SAMPLES = 3
_STATISTICS_BATCH = 256

_StepKey = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """An image `[3, S, S]` uint8 and its caption."""

    image: Tensor
    caption: str


def crop_square(content: bytes | Path, size: int) -> Tensor:
    """Return the central square of an image file, uint8 `[3, size, size]`.

    EXIF rotation is applied, and transparency becomes white. Raises DataError if the image is
    unreadable or smaller than `size`."""
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            if min(image.size) < size:
                raise DataError(
                    f"has {image.width} x {image.height} pixels, and at least {size} x {size} are "
                    "needed"
                )
            # A JPEG is decoded no larger than necessary.
            image.draft("RGB", (size, size))
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            fitted = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be read: {error}") from error
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def read_caption(text: bytes) -> str:
    """Return a caption file's text on one line. Raises DataError if it is empty."""
    caption = " ".join(text.decode("utf-8", "replace").split())
    if not caption:
        raise DataError("has an empty caption")
    return caption


class BadSampleCounter:
    """Counts unusable images, and ends the run if there are too many."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.total = 0
        self.reasons = dict[str, str]()
        self.lock = threading.Lock()

    def accept(self) -> None:
        """Count a usable image."""
        with self.lock:
            self.total += 1

    def skip(self, name: str, reason: object) -> None:
        """Count and report an unusable image. Raises DataError if there are too many by now."""
        with self.lock:
            self.total += 1
            # A later epoch meets the same image again.
            if name not in self.reasons:
                self.reasons[name] = str(reason)
                print(f"{name} is skipped: it {reason}", flush=True)
            if len(self.reasons) > max(MAX_BAD_SAMPLES, MAX_BAD_SHARE * self.total):
                examples = "; ".join(
                    f"{name} {why}" for name, why in list(self.reasons.items())[:3]
                )
                raise DataError(
                    f"{len(self.reasons)} of the {self.total} images read so far from "
                    f"{self.source} are unusable: {examples}. Fix or remove them (up to "
                    f"{MAX_BAD_SAMPLES}, then {MAX_BAD_SHARE:.0%}, are tolerated)"
                )


class ImageTextSource:
    """Base of folder and shards: reads the next step's images while the current one trains."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        self.name = name
        self.size = size
        self.seed = seed
        self.bad_samples = BadSampleCounter(name)
        self.readers = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="images")
        self.prefetcher = ThreadPoolExecutor(1, thread_name_prefix="next-batch")
        self.prefetch: tuple[_StepKey, Future[list[Sample]]] | None = None

    def pairs(self, step: Step) -> tuple[Tensor, list[str]]:
        """Return this process' images of a step, `[B, 3, S, S]` in [-1, 1], and their captions."""
        if self.prefetch is None or self.prefetch[0] != _step_key(step):
            self.prefetch = (_step_key(step), self.prefetcher.submit(self.read_batch, step))
        samples = self.prefetch[1].result()
        following = replace(step, number=step.number + 1)
        self.prefetch = (_step_key(following), self.prefetcher.submit(self.read_batch, following))
        return _collate(samples, step.device)

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield about `count` images and captions in batches, the same in every process."""
        raise NotImplementedError

    def read_batch(self, step: Step) -> list[Sample]:
        """Return this process' samples of a step."""
        raise NotImplementedError


def _step_key(step: Step) -> _StepKey:
    return step.number, step.batch, step.rank, step.world_size


def _collate(samples: list[Sample], device: torch.device) -> tuple[Tensor, list[str]]:
    images = to_float(torch.stack([sample.image for sample in samples])).to(device)
    return images, [sample.caption for sample in samples]


class Folder(ImageTextSource):
    """The images of a folder and its subfolders. An unusable image is replaced by the next one."""

    def __init__(self, folder: Path, size: int, seed: int = 0) -> None:
        """List the images. Raises DataError if there are none, or too many without caption."""
        super().__init__(str(folder), size, seed)
        images = sorted(
            path for path in folder.rglob("*") if path.suffix.lower().lstrip(".") in SUFFIXES
        )
        if not images:
            raise DataError(
                f"{folder} has no images ({', '.join(SUFFIXES)}): for shards, name their .tar files"
            )
        self.paths = [path for path in images if path.with_suffix(".txt").exists()]
        self._report_missing_captions(
            [path for path in images if not path.with_suffix(".txt").exists()], len(images)
        )
        self.epochs: dict[int, Tensor] = {}

    def read_batch(self, step: Step) -> list[Sample]:
        places = torch.arange(step.number * step.batch, (step.number + 1) * step.batch)
        indices = [self._index(int(place)) for place in step.local(places)]
        return list(self.readers.map(self._read, indices))

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        end = min(count, len(self.paths))
        for start in range(0, end, _STATISTICS_BATCH):
            indices = range(start, min(start + _STATISTICS_BATCH, end))
            yield _collate(list(self.readers.map(self._read, indices)), device)

    def _report_missing_captions(self, bare: list[Path], total: int) -> None:
        for path in bare[: 1 + MAX_BAD_SAMPLES]:
            caption = path.with_suffix(".txt").name
            print(f"{path} is skipped: it has no caption ({caption})", flush=True)
        if len(bare) > max(MAX_BAD_SAMPLES, MAX_BAD_SHARE * total) or not self.paths:
            raise DataError(
                f"{len(bare)} of the {total} images in {self.name} have no caption, for example "
                f"{bare[0].name}: write it into {bare[0].with_suffix('.txt').name} in its folder"
            )

    def _index(self, place: int) -> int:
        """Return the image at a place in the sequence of epochs, each with its own order."""
        epoch, within = divmod(place, len(self.paths))
        if epoch not in self.epochs:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.paths), generator=generator)
            # Only the epoch before can still be in use.
            previous = {key: value for key, value in self.epochs.items() if key == epoch - 1}
            self.epochs = previous | {epoch: order}
        return int(self.epochs[epoch][within])

    def _read(self, index: int) -> Sample:
        for place in itertools.chain(range(index, len(self.paths)), range(index)):
            path = self.paths[place]
            try:
                caption_file = path.with_suffix(".txt")
                sample = Sample(
                    crop_square(path, self.size), read_caption(caption_file.read_bytes())
                )
            except (DataError, OSError) as error:
                self.bad_samples.skip(str(path), error)
            else:
                self.bad_samples.accept()
                return sample
        raise DataError(f"none of the {len(self.paths)} images in {self.name} is usable")


class Shards(ImageTextSource):
    """webdataset's .tar files, on disk or at any address that webdataset can open.

    An address is a text, which may have braces (`{0000..0127}.tar`); `::` separates several. The
    files of a folder are a list of paths: their names are never read as addresses, because
    webdataset runs `pipe:` as a shell command."""

    def __init__(self, shards: str | Sequence[Path], size: int, seed: int = 0) -> None:
        """List the shards. Raises DataError if local ones are missing, or webdataset is."""
        wds = _import_webdataset()
        if isinstance(shards, str):
            urls = shards
            parts = (wds.shardlists.expand_urls(part) for part in shards.split("::"))
            self.urls: list[str | Path] = list(itertools.chain.from_iterable(parts))
        else:
            urls = str(shards[0].parent)
            self.urls = list(shards)
        super().__init__(urls, size, seed)
        missing = [
            url
            for url in self.urls
            if (isinstance(url, Path) or ":" not in url) and not Path(url).exists()
        ]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(self.urls)} shards of {urls} do not exist, for "
                f"example {missing[0]}"
            )
        self.reading: tuple[_StepKey, Iterator[dict[str, Any]]] | None = None

    def read_batch(self, step: Step) -> list[Sample]:
        if self.reading is None or self.reading[0] != _step_key(step):
            local = self.urls[step.rank :: step.world_size]
            if not local:
                raise DataError(
                    f"{self.name} has {len(self.urls)} shards for {step.world_size} processes: use "
                    "at least one shard a process"
                )
            stream = self._stream(local, self.seed * 1_000_003 + step.number)
            self.reading = (_step_key(step), stream)
        stream = self.reading[1]
        count = step.batch // step.world_size
        samples: list[Sample] = []
        while len(samples) < count:
            samples += self._decode(itertools.islice(stream, count - len(samples)))
        self.reading = (_step_key(replace(step, number=step.number + 1)), stream)
        return samples

    def first_batches(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, list[str]]]:
        stream = self._stream(self.urls, self.seed)
        for _ in range(0, count, _STATISTICS_BATCH):
            samples = self._decode(itertools.islice(stream, min(_STATISTICS_BATCH, count)))
            if samples:
                yield _collate(samples, device)

    def _decode(self, files: Iterable[dict[str, Any]]) -> list[Sample]:
        """Decode samples in parallel, without the unusable ones."""
        return [sample for sample in self.readers.map(self._read, files) if sample is not None]

    def _stream(self, urls: list[str | Path], seed: int) -> Iterator[dict[str, Any]]:
        """Yield undecoded samples endlessly, each once a pass, shuffled by shard and in a buffer.

        Raises DataError for an unreadable shard, and for a pass without samples."""
        rng = random.Random(seed)
        wds = _import_webdataset()
        while True:
            shuffle = wds.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, seed=rng.getrandbits(62))
            sample = None
            for sample in shuffle(self._samples(rng.sample(urls, len(urls)))):
                yield sample
            if sample is None:
                raise DataError(f"the {len(urls)} shards of {self.name} for this process are empty")

    def _samples(self, urls: list[str | Path]) -> Iterator[dict[str, Any]]:
        """Yield the undecoded samples of shards in sequence."""
        wds = _import_webdataset()
        for url in urls:
            try:
                # webdataset itself would leave the stream open.
                opened = url.open("rb") if isinstance(url, Path) else wds.gopen(url)
                with closing(opened) as stream:
                    yield from wds.tariterators.group_by_keys(
                        wds.tariterators.tar_file_expander([{"url": str(url), "stream": stream}])
                    )
            except (OSError, ValueError, EOFError, tarfile.TarError) as error:
                raise DataError(f"the shard {url} cannot be read: {error}") from error

    def _read(self, files: dict[str, Any]) -> Sample | None:
        name = f"{files['__key__']} in {files['__url__']}"
        try:
            content = next((files[suffix] for suffix in SUFFIXES if suffix in files), None)
            if content is None or "txt" not in files:
                raise DataError(f"has no {'caption (.txt)' if content else 'image'}")
            sample = Sample(crop_square(content, self.size), read_caption(files["txt"]))
        except DataError as error:
            self.bad_samples.skip(name, error)
            return None
        self.bad_samples.accept()
        return sample


def open_images(data: str, size: int, seed: int = 0) -> Folder | Shards:
    """Open a folder of images or the shards of an address, as squares of `size` pixels.

    A folder with .tar files is its shards. Raises DataError if `data` is neither."""
    path = Path(data)
    if not path.is_dir():
        if ".tar" not in data:
            raise DataError(
                f"{data} is neither a folder nor an address of .tar shards: use images/ or "
                "'shards/{0000..0127}.tar' for example"
            )
        return Shards(data, size, seed)
    tars = sorted(path.glob("*.tar"))
    return Shards(tars, size, seed) if tars else Folder(path, size, seed)


def _import_webdataset() -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise DataError("shards need webdataset: pip install '.[data]'") from error
    return webdataset
