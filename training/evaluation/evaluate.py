"""`python -m training.evaluation.evaluate`: one report of a checkpoint, in Markdown, plots and JSON.

How often its images show what the caption says, by sort of caption and by claim; CLIP score; the distances of its images from
drawings, in CLIP's space; how much images of one caption differ; seconds. Beside it stand the scenes' own drawings, which are the upper
limit and say what the scene reader is worth, and the decoder on the text alone, z_i withheld, which is the lower anchor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models import UnCLIP
from training.evaluation import report as told
from training.evaluation.generation import (
    draw,
    drawings,
    embed,
    embed_text,
    matching,
    plain_captions,
    reference,
    subjects,
)
from training.evaluation.metrics import clip_score, frechet_distance, kinds, mmd, spread
from training.evaluation.scoring import DETAILS, READER, SORTS, Sort, judged, load_reader
from training.scenes.classifier import Reader
from training.scenes.solids.scene import MIXES

COMPARED = ("one object", "two in relation")  # of which sets of images are held against drawings
REFERENCES = 2048  # drawings of each
EACH = 8  # images of one caption, for diversity


def accuracy(
    pipeline: UnCLIP,
    reader: Reader,
    mix: str,
    counts: dict[str, int],
    ways: Sequence[str] = ("prior",),
    **parameters: Any,
) -> dict[str, Any]:
    """For each sort of caption (SORTS, DETAILS) counts of what is right in the images of so many, in each way, and in the drawings."""
    found: dict[str, Any] = {
        "checkpoint": pipeline.name,
        "mix": mix,
        "parameters": pipeline.resolve(size=64, **parameters).as_dict(),
        "sorts": {},
    }
    started = time.perf_counter()
    for name, count in counts.items():
        of = subjects((name,), count, mix)
        sort = (SORTS | DETAILS)[name]
        images = {
            way: draw(pipeline, of.texts, of.seeds, way, name, **parameters) for way in ways
        } | {"drawings": of.images()}
        found["sorts"][name] = {
            way: _counted(judged(reader, drawn, of.captions), sort) for way, drawn in images.items()
        }
    found["seconds"] = round(time.perf_counter() - started, 1)
    return found


def _counted(right: dict[str, list[bool]], sort: Sort) -> dict[str, dict[str, int]]:
    """Counts of each question; "told" is what the sort is there for: its own questions, a sign's word, or else the things."""
    if sort.told:
        asked = [
            all(answers)
            for answers in zip(*(right[question] for question in sort.told), strict=True)
        ]
    else:
        asked = right["word" if sort.kind == "sign" else "core"]
    return {
        question: {"right": sum(values), "of": len(values)}
        for question, values in (right | {"told": asked}).items()
    }


def sets(
    pipeline: UnCLIP,
    reader: Reader,
    mix: str,
    count: int,
    ways: Sequence[str],
    out: Path | None,
    **parameters: Any,
) -> dict[str, Any]:
    """Of `count` captions of each COMPARED sort and a quarter as many short ones: CLIP score, distances from other drawings, and diversity,
    with intervals. With a folder also a sheet of images."""
    of = subjects(COMPARED, count, mix)
    plain = plain_captions(min(32, max(2, count // 4)))
    texts = [f"a {colour} {shape}" for colour, shape in plain for _ in range(EACH)]
    z_t = embed_text(pipeline, of.texts)
    given = reference(pipeline, COMPARED, max(REFERENCES, count), mix)
    images = {way: draw(pipeline, of.texts, of.seeds, way, **parameters) for way in ways} | {
        "drawings": of.images()
    }
    several = {way: draw(pipeline, texts, range(len(texts)), way, **parameters) for way in ways}
    several["drawings"] = drawings(
        [shown for colour, shape in plain for shown in matching(colour, shape, EACH, mix)]
    )
    if out is not None:
        told.samples(images, of.texts, count, out)
    measured = {}
    for way, drawn in images.items():
        z_i = embed(pipeline, drawn)
        places = [answers["place"] for answers in reader.read(several[way])]
        measured[way] = {
            "clip_score": asdict(clip_score(z_i, z_t)),
            "frechet": asdict(frechet_distance(z_i, given)),
            "mmd": asdict(mmd(z_i, given)),
            "spread": asdict(spread(embed(pipeline, several[way]).unflatten(0, (-1, EACH)))),
            "places": statistics.fmean(
                kinds(places[k : k + EACH]) for k in range(0, len(places), EACH)
            ),
        }
    return {
        "captions": len(of.texts),
        "references": len(given),
        "short captions": len(plain),
        "each": EACH,
        "ways": measured,
    }


def speed(pipeline: UnCLIP, runs: int = 3, batch: int = 16, **parameters: Any) -> dict[str, Any]:
    """Median seconds of one image alone, by size, and of each of `batch` at 64² by way; the drawings' own are the ray tracer's."""

    def seconds(work: Callable[[], object], of: int = 1) -> float:
        taken = []
        for _ in range(runs + 1):  # the first warms up
            started = time.perf_counter()
            work()
            taken.append((time.perf_counter() - started) / of)
        return statistics.median(taken[1:])

    of = subjects(("one object",), batch)
    batched = {
        way: seconds(partial(draw, pipeline, of.texts, of.seeds, way, **parameters), batch)
        for way in ("prior", "text")
    }
    return {
        "device": str(pipeline.device),
        "threads": torch.get_num_threads(),
        "alone": {
            str(size): seconds(partial(pipeline.generate, of.texts[:1], size=size, **parameters))
            for size in pipeline.sizes
        },
        "batch": batch,
        "batched": batched | {"drawings": seconds(of.images, batch)},
    }


def evaluate(
    pipeline: UnCLIP,
    reader: Reader,
    mix: str,
    count: int,
    out: Path | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """The whole report, of `count` captions of each sort: `accuracy`'s with "sets" and "speed" beside."""
    ways = ("prior", "text")
    found = accuracy(
        pipeline, reader, mix, dict.fromkeys(SORTS | DETAILS, count), ways, **parameters
    )
    return found | {
        "sets": sets(pipeline, reader, mix, count, ways, out, **parameters),
        "speed": speed(pipeline, **parameters),
    }


def main() -> None:
    """Draw, count, and write report.md, report.json and the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.evaluate", description=main.__doc__
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=None,
        help="checkpoint folder (default: the embedded one)",
    )
    parser.add_argument("--reader", type=Path, default=READER)
    parser.add_argument(
        "--mix",
        choices=MIXES,
        default="whole",
        help="of the scenes: the one that the checkpoint learned from",
    )
    parser.add_argument("--count", type=int, default=128, help="captions of each sort")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="decoder_num_inference_steps (default: the checkpoint's)",
    )
    parser.add_argument(
        "--prior", default=None, help="diffusion or autoregressive (default: the checkpoint's)"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=None,
        help="decoder_guidance_scale (default: the checkpoint's)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), help="folder of the report"
    )
    arguments = parser.parse_args()
    given = {
        "prior": arguments.prior,
        "decoder_num_inference_steps": arguments.steps,
        "decoder_guidance_scale": arguments.guidance,
    }
    pipeline = UnCLIP.load(arguments.checkpoint, arguments.device)
    pipeline.pack()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = evaluate(
        pipeline,
        load_reader(arguments.reader),
        arguments.mix,
        arguments.count,
        arguments.out,
        **given,
    )
    (arguments.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    told.plots(found, arguments.out)
    text = told.markdown(found)
    (arguments.out / "report.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
