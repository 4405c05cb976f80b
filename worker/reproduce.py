"""`python -m worker redraw out.png -o again.png`: draw an image again from what it says of itself, and compare the two."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageOps, ImageStat

from contracts.images import Kind, image_digest, normalize_image
from contracts.operations import OPERATIONS
from contracts.provenance import Provenance, read_provenance
from infra.settings import load_or_exit
from models import Parameters, UnCLIP
from models.row import Row
from worker.jobs.images import pillow, png, tensor
from worker.jobs.operations import begin
from worker.jobs.provenance import provenance
from worker.settings import Settings
from worker.startup import load

PROMISED = 2  # of 255: how far the same image may be from itself, by rounding
Files = Mapping[str, bytes]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the worker's own."""
    command = commands.add_parser(
        "redraw",
        help="draw an image again from its own PNG, and compare",
        description="Draws an image again from the text chunk in its PNG, with the checkpoint and on the device that the worker's "
        f"settings name, and compares. Ends with 0 where no channel differs by more than {PROMISED} of 255, with 1 where one does, "
        "with 2 where the image could not be drawn.",
    )
    command.add_argument("png", type=Path, help="a PNG that was drawn here")
    command.add_argument("-o", "--output", type=Path, help="where to write the new image")
    told = "an image or mask that came with the request, as it was sent; may be repeated"
    command.add_argument(
        "--input", dest="inputs", type=Path, action="append", default=[], metavar="FILE", help=told
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw, write, compare, and tell; gives the exit status."""
    try:
        original = arguments.png.read_bytes()
        told = read_provenance(original)
        files = matched(told.inputs, arguments.inputs)
        pipeline = load(load_or_exit(Settings))
        row, index, parameters = redrawn(pipeline, told, files)
        assert row.image is not None
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        print(f"{arguments.png} could not be drawn again: {error}", file=sys.stderr)
        return 2
    again = provenance(pipeline, told.operation, told.request, row, index, parameters, told.inputs)
    for difference in differences(told, Provenance.model_validate(again)):
        print(difference, file=sys.stderr)
    if arguments.output:
        arguments.output.write_bytes(png(row.image, again))
    now = pillow(row.image)
    before = Image.open(io.BytesIO(original)).convert("RGB")
    if now.size != before.size:  # the service gives images out reduced, where it is asked to
        now = now.resize(before.size, Image.Resampling.LANCZOS)
    apart = ImageStat.Stat(ImageChops.difference(now, before))
    highest = max(high for _, high in apart.extrema)
    mean = sum(apart.mean) / 3
    verdict = "the same image" if highest <= PROMISED else "another image"
    print(f"{verdict}: it differs by {highest} of 255 at most, by {mean:.3f} in the mean")
    return 0 if highest <= PROMISED else 1


def matched(inputs: Mapping[str, str], paths: Sequence[Path]) -> dict[str, bytes]:
    """The request's images by name, as the worker was given them, found among files by their digests. ValueError where one is not
    there, or a file is none of them."""
    kinds: tuple[Kind, ...] = ("image", "mask")
    known: dict[str, bytes] = {}
    for path in paths:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
        found = {
            image_digest(content): content
            for content in (normalize_image(upright, kind) for kind in kinds)
        }
        if not found.keys() & set(inputs.values()):
            wanted = ", ".join(f"{name} {sha}" for name, sha in inputs.items()) or "none"
            raise ValueError(
                f"{path} is none of the images that it was drawn from (by SHA-256: {wanted})"
            )
        known |= found
    missing = [name for name, sha in inputs.items() if sha not in known]
    if missing:
        raise ValueError(
            f"it was drawn from images that it does not hold: give {', '.join(missing)}, each by --input FILE"
        )
    return {name: known[sha] for name, sha in inputs.items()}


def redrawn(pipeline: UnCLIP, told: Provenance, files: Files) -> tuple[Row, int, Parameters]:
    """The row of the image, drawn; its place among its job's; and the parameters. Of the job's other images only what this one needs
    is drawn. ValueError where the checkpoint cannot, RuntimeError where a row failed."""
    kind = OPERATIONS.get(told.operation)
    if kind is None:
        raise ValueError(
            f"its operation is {told.operation!r}: this version knows {', '.join(OPERATIONS)}"
        )
    several = (
        "n" in kind.model_fields
    )  # image i from seed + i; what goes before them, such as a mix's captions, from the first seed
    seeds = (
        {"seed": told.seed - told.index, "n": told.index + 1} if several else {"seed": told.seed}
    )
    fields = kind.model_validate(told.request | seeds)
    parameters = pipeline.resolve(told.operation, **told.parameters)
    operation = begin(
        pipeline,
        told.operation,
        fields,
        {name: tensor(content) for name, content in files.items()},
        parameters,
    )
    while True:
        phase = next(operation)
        if phase.progress == 1:  # the images themselves
            row = phase.rows[told.index]
            pipeline.run([row])
            return row, told.index, parameters
        pipeline.run(phase.rows)


def differences(told: Provenance, here: Provenance) -> list[str]:
    """What is not as it was, in sentences."""
    found = []
    if (told.checkpoint, told.checkpoint_digest) != (here.checkpoint, here.checkpoint_digest):
        found.append(
            f"This is ANOTHER CHECKPOINT: it was drawn by {told.checkpoint!r} (SHA-256 {told.checkpoint_digest}), "
            f"and here is {here.checkpoint!r} ({here.checkpoint_digest}). Name the right one by UNCLIP_CHECKPOINT and UNCLIP_UPSAMPLER."
        )
    for what in ("version", "torch", "device", "dtype"):
        was = getattr(told, what)
        now = getattr(here, what)
        if was != now:
            found.append(f"Then the {what} was {was}, now it is {now}: roundings may differ.")
    if told.prior_candidate != here.prior_candidate:
        found.append(
            f"The prior kept its candidate {here.prior_candidate}, and {told.prior_candidate} then."
        )
    return found
