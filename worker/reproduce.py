"""Generate an image again from its own provenance, and compare: `python -m worker reproduce`."""

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
from models.operations import Phase, drive
from models.row import Row
from worker.jobs.images import decode_png, encode_png, to_pillow
from worker.jobs.operations import start_operation
from worker.jobs.provenance import describe_image
from worker.settings import Settings
from worker.startup import load_pipeline

# Largest difference of 255 levels between two runs of the same image, by rounding.
TOLERANCE = 2


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `reproduce` to the worker's command line."""
    command = commands.add_parser(
        "reproduce",
        help="generate an image again from its PNG, and compare",
        description=(
            "Generates an image again from the text chunk of its PNG, with the checkpoint and on "
            "the device of the worker's settings, and compares the two. Exit status: 0 if no "
            f"channel differs by more than {TOLERANCE} of 255, 1 if one does, 2 if the image "
            "cannot be generated."
        ),
    )
    command.add_argument("png", type=Path, help="a PNG that this service generated")
    command.add_argument("-o", "--output", type=Path, help="where to write the new image")
    command.add_argument(
        "--input",
        dest="inputs",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an input image or mask of the request, unchanged; repeat it for several",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Generate the image, write it, print the comparison, and return the exit status."""
    try:
        original_png = arguments.png.read_bytes()
        original = read_provenance(original_png)
        inputs = match_inputs(original.inputs, arguments.inputs)
        pipeline = load_pipeline(load_or_exit(Settings))
        row, index, parameters = regenerate(pipeline, original, inputs)
        if row.image is None:
            raise ValueError(f"operation {original.operation!r} generates no image")
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        print(f"Cannot reproduce {arguments.png}: {error}", file=sys.stderr)
        return 2
    provenance = describe_image(
        pipeline, original.operation, original.request, row, index, parameters, original.inputs
    )
    for difference in describe_differences(original, provenance):
        print(difference, file=sys.stderr)
    if arguments.output:
        arguments.output.write_bytes(encode_png(row.image, provenance.model_dump()))
    maximum, mean = _image_difference(original_png, to_pillow(row.image))
    verdict = "same image" if maximum <= TOLERANCE else "different image"
    print(f"{verdict}: maximum difference {maximum} of 255, mean {mean:.3f}")
    return 0 if maximum <= TOLERANCE else 1


def match_inputs(digests: Mapping[str, str], paths: Sequence[Path]) -> dict[str, bytes]:
    """Find the request's input images among files, and return them as PNG bytes by name.

    `digests`: SHA-256 of each input image by name. Raises ValueError if a file is none of them, or
    if one of them is missing.
    """
    kinds: tuple[Kind, ...] = ("image", "mask")
    by_digest: dict[str, bytes] = {}
    for path in paths:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
        contents = [normalize_image(upright, kind) for kind in kinds]
        candidates = {image_digest(content): content for content in contents}
        if not candidates.keys() & set(digests.values()):
            expected = ", ".join(f"{name} {sha}" for name, sha in digests.items()) or "none"
            raise ValueError(
                f"{path} is not an input image of the request (SHA-256 of those: {expected})"
            )
        by_digest |= candidates
    missing = [name for name, sha in digests.items() if sha not in by_digest]
    if missing:
        raise ValueError(
            f"input images are missing: {', '.join(missing)}. Pass each with --input FILE."
        )
    return {name: by_digest[sha] for name, sha in digests.items()}


def regenerate(
    pipeline: UnCLIP, original: Provenance, inputs: Mapping[str, bytes]
) -> tuple[Row, int, Parameters]:
    """Generate one image of a job, without the job's other images.

    Returns its finished row, its index in the job and the parameters. Raises ValueError if the
    checkpoint cannot generate it, RuntimeError if a row failed.
    """
    fields_class = OPERATIONS.get(original.operation)
    if fields_class is None:
        supported = ", ".join(OPERATIONS)
        raise ValueError(f"operation {original.operation!r} is unknown; supported: {supported}")
    seeds = {"seed": original.seed}
    if "n" in fields_class.model_fields:
        # Image i has seed + i. Rows before the images, such as a mix's prompts, have the first one.
        seeds = {"seed": original.seed - original.index, "n": original.index + 1}
    # A job's record holds the names of its input images in place of the images.
    names = {name: name for name in original.inputs if name in fields_class.model_fields}
    fields = fields_class.model_validate(original.request | seeds | names)
    parameters = pipeline.resolve(original.operation, **original.parameters)
    images = {name: decode_png(content) for name, content in inputs.items()}
    operation = start_operation(pipeline, original.operation, fields, images, parameters)
    last_rows: list[Row] = []

    def run_phase(phase: Phase) -> None:
        # The last phase generates the images, of which only this one is needed.
        last_rows[:] = [phase.rows[original.index]] if phase.progress == 1 else phase.rows
        pipeline.run(last_rows)

    drive(operation, run_phase)
    return last_rows[0], original.index, parameters


def describe_differences(original: Provenance, here: Provenance) -> list[str]:
    """Return what differs between the original's environment and this one, in sentences."""
    sentences = []
    checkpoints = [
        (provenance.checkpoint, provenance.checkpoint_digest) for provenance in (original, here)
    ]
    if checkpoints[0] != checkpoints[1]:
        sentences.append(
            f"DIFFERENT CHECKPOINT: the image is from {original.checkpoint!r} "
            f"(SHA-256 {original.checkpoint_digest}), this is {here.checkpoint!r} "
            f"({here.checkpoint_digest}). Set UNCLIP_CHECKPOINT and UNCLIP_UPSAMPLER."
        )
    for name in ("version", "torch", "device", "dtype"):
        before = getattr(original, name)
        now = getattr(here, name)
        if before != now:
            sentences.append(f"The {name} was {before} and is {now}: rounding may differ.")
    if original.prior_candidate != here.prior_candidate:
        sentences.append(
            f"The prior chose candidate {here.prior_candidate} instead of "
            f"{original.prior_candidate}."
        )
    return sentences


def _image_difference(original_png: bytes, image: Image.Image) -> tuple[int, float]:
    """Return the maximum and the mean difference of all channels, of 255."""
    original = Image.open(io.BytesIO(original_png)).convert("RGB")
    # The service delivers reduced images on request.
    if image.size != original.size:
        image = image.resize(original.size, Image.Resampling.LANCZOS)
    statistics = ImageStat.Stat(ImageChops.difference(image, original))
    return max(high for _, high in statistics.extrema), sum(statistics.mean) / 3
