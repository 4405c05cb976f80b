"""The evaluation of a checkpoint: one report in Markdown, plots and JSON.

It has caption fidelity by caption type and by claim, CLIP score, distances to renderings in CLIP's
space, diversity, and seconds. Two references accompany every score. Renderings of the captions' own
scenes are the upper limit, and show the scene classifier's accuracy. The decoder on text alone,
without z_i, is the baseline.
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
from torch import Tensor

from models import UnCLIP
from training.evaluation.metrics import clip_score, effective_number, frechet_distance, mmd, spread
from training.evaluation.solids import report
from training.evaluation.solids.generation import (
    RENDERINGS,
    build_evaluation_set,
    embed,
    embed_references,
    embed_text,
    find_scenes,
    generate,
    render_scenes,
    sample_plain_captions,
)
from training.evaluation.solids.scoring import CAPTION_TYPES, DETAIL_TYPES, CaptionType, score
from training.scenes.solids.classifier import CLASSIFIER_FILE, SceneClassifier, load_classifier
from training.scenes.solids.scene import MIXES

MODES = ("prior", "text")
SET_TYPES = ("one object", "two in relation")  # whose image sets are compared to renderings
REFERENCES = 2048  # renderings of each type
IMAGES_PER_CAPTION = 8  # for diversity
MAX_PLAIN_CAPTIONS = 32


def measure_accuracy(
    pipeline: UnCLIP,
    classifier: SceneClassifier,
    mix: str,
    counts: dict[str, int],
    modes: Sequence[str] = ("prior",),
    **parameters: Any,
) -> dict[str, Any]:
    """Count right images by caption type, in each mode and in renderings.

    `counts` has the number of captions of each type, `parameters` are those of `UnCLIP.resolve`."""
    started = time.perf_counter()
    results = {}
    for name, count in counts.items():
        captions = build_evaluation_set((name,), count, mix)
        images = {
            mode: generate(pipeline, captions.texts, captions.seeds, mode, name, **parameters)
            for mode in modes
        } | {RENDERINGS: captions.render()}
        caption_type = (CAPTION_TYPES | DETAIL_TYPES)[name]
        results[name] = {
            mode: _count(score(classifier, generated, captions.captions), caption_type)
            for mode, generated in images.items()
        }
    return {
        "checkpoint": pipeline.name,
        "mix": mix,
        "parameters": pipeline.resolve(size=64, **parameters).as_dict(),
        "caption types": results,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _count(right: dict[str, list[bool]], caption_type: CaptionType) -> dict[str, dict[str, int]]:
    """Count each question. "checked" is what the type is for: its questions, word or objects."""
    if caption_type.checked_questions:
        answers = zip(
            *(right[question] for question in caption_type.checked_questions), strict=True
        )
        checked = [all(each) for each in answers]
    else:
        checked = right["word" if caption_type.kind == "sign" else "core"]
    return {
        question: {"right": sum(values), "total": len(values)}
        for question, values in (right | {"checked": checked}).items()
    }


def measure_sets(
    pipeline: UnCLIP,
    classifier: SceneClassifier,
    mix: str,
    count: int,
    out: Path | None,
    **parameters: Any,
) -> dict[str, Any]:
    """Measure CLIP score, distances and diversity of image sets, with intervals.

    Uses `count` captions of each of SET_TYPES, and a quarter as many short ones for diversity.
    Writes a sheet of images to `out`."""
    captions = build_evaluation_set(SET_TYPES, count, mix)
    plain = sample_plain_captions(min(MAX_PLAIN_CAPTIONS, max(2, count // 4)))
    z_t = embed_text(pipeline, captions.texts)
    references = embed_references(pipeline, SET_TYPES, max(REFERENCES, count), mix)
    images = {
        mode: generate(pipeline, captions.texts, captions.seeds, mode, **parameters)
        for mode in MODES
    } | {RENDERINGS: captions.render()}
    repeated = _repeat_captions(pipeline, plain, mix, **parameters)
    if out is not None:
        report.save_samples(images, captions.texts, count, out)
    results = {}
    for mode, generated in images.items():
        z_i = embed(pipeline, generated)
        results[mode] = {
            "clip_score": asdict(clip_score(z_i, z_t)),
            "frechet": asdict(frechet_distance(z_i, references)),
            "mmd": asdict(mmd(z_i, references)),
            **_measure_diversity(pipeline, classifier, repeated[mode]),
        }
    return {
        "captions": len(captions.texts),
        "references": len(references),
        "short captions": len(plain),
        "images per caption": IMAGES_PER_CAPTION,
        "modes": results,
    }


def _repeat_captions(
    pipeline: UnCLIP, plain: Sequence[tuple[str, str]], mix: str, **parameters: Any
) -> dict[str, Tensor]:
    """Return IMAGES_PER_CAPTION images of each plain caption, by mode."""
    texts = [f"a {colour} {shape}" for colour, shape in plain for _ in range(IMAGES_PER_CAPTION)]
    seeds = range(len(texts))
    scenes = [
        scene
        for colour, shape in plain
        for scene in find_scenes(colour, shape, IMAGES_PER_CAPTION, mix)
    ]
    generated = {mode: generate(pipeline, texts, seeds, mode, **parameters) for mode in MODES}
    return generated | {RENDERINGS: render_scenes(scenes)}


def _measure_diversity(
    pipeline: UnCLIP, classifier: SceneClassifier, images: Tensor
) -> dict[str, Any]:
    places = [labels["place"] for labels in classifier.classify(images)]
    parts = (
        places[start : start + IMAGES_PER_CAPTION]
        for start in range(0, len(places), IMAGES_PER_CAPTION)
    )
    z_i = embed(pipeline, images).unflatten(0, (-1, IMAGES_PER_CAPTION))
    return {
        "spread": asdict(spread(z_i)),
        "places": statistics.fmean(map(effective_number, parts)),
    }


def measure_speed(
    pipeline: UnCLIP, runs: int = 3, batch: int = 16, **parameters: Any
) -> dict[str, Any]:
    """Measure median seconds of a single image by size, and per image of a 64² batch by mode.

    Those of renderings are the ray tracer's."""
    captions = build_evaluation_set(("one object",), batch)
    single = {
        str(size): _median_seconds(
            partial(pipeline.generate, captions.texts[:1], size=size, **parameters), runs
        )
        for size in pipeline.sizes
    }
    batched = {
        mode: _median_seconds(
            partial(generate, pipeline, captions.texts, captions.seeds, mode, **parameters), runs
        )
        / batch
        for mode in MODES
    }
    return {
        "device": str(pipeline.device),
        "threads": torch.get_num_threads(),
        "single": single,
        "batch": batch,
        "batched": batched | {RENDERINGS: _median_seconds(captions.render, runs) / batch},
    }


def _median_seconds(work: Callable[[], object], runs: int) -> float:
    work()  # warm-up
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def evaluate(
    pipeline: UnCLIP,
    classifier: SceneClassifier,
    mix: str,
    count: int,
    out: Path | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Return the whole report of `count` captions of each type: accuracy, "sets" and "speed"."""
    counts = dict.fromkeys(CAPTION_TYPES | DETAIL_TYPES, count)
    accuracy = measure_accuracy(pipeline, classifier, mix, counts, MODES, **parameters)
    return accuracy | {
        "sets": measure_sets(pipeline, classifier, mix, count, out, **parameters),
        "speed": measure_speed(pipeline, **parameters),
    }


def main() -> None:
    """Generate and score images, and write report.md, report.json and the figures."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluation", description=main.__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder (default: the bundled one)"
    )
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER_FILE, help="its weights")
    parser.add_argument(
        "--mix",
        choices=MIXES,
        default="whole",
        help="mix of scenes: use the one that the checkpoint learned from",
    )
    parser.add_argument("--count", type=int, default=128, help="captions of each type")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--steps", type=int, help="decoder_num_inference_steps (default: the checkpoint's)"
    )
    parser.add_argument("--prior", help="diffusion or autoregressive (default: the checkpoint's)")
    parser.add_argument(
        "--guidance", type=float, help="decoder_guidance_scale (default: the checkpoint's)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/evaluation"), help="folder of the report"
    )
    arguments = parser.parse_args()
    pipeline = UnCLIP.load(arguments.checkpoint, arguments.device)
    pipeline.prepack()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = evaluate(
        pipeline,
        load_classifier(arguments.classifier),
        arguments.mix,
        arguments.count,
        arguments.out,
        prior=arguments.prior,
        decoder_num_inference_steps=arguments.steps,
        decoder_guidance_scale=arguments.guidance,
    )
    (arguments.out / "report.json").write_text(json.dumps(results, indent=2) + "\n")
    report.save_plots(results, arguments.out)
    text = report.format_report(results)
    (arguments.out / "report.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
