"""Export a finished run on synthetic scenes: a checkpoint folder with a card of its scores."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from models import UnCLIP
from models.checkpoints.checkpoint import DEFAULT_FOLDER, UPSAMPLERS, half_state_dict, save
from models.networks.clip import CLIP
from models.networks.upsampler import Upsampler
from training.data.degradation import degrade_crops
from training.data.solids.rendered_crops import render_crops
from training.data.solids.scene_source import SceneSource, draw_captions
from training.evaluation.metrics import psnr
from training.evaluation.solids.evaluate import measure_accuracy
from training.evaluation.solids.generation import stack_embeddings
from training.evaluation.solids.report import format_card_tables
from training.evaluation.solids.sample_grids import upsample
from training.evaluation.solids.scoring import CAPTION_TYPES, DETAIL_TYPES, draw_test_captions
from training.export.card import COMPARED_TYPES, format_card
from training.losses.captions import encode_captions_frozen
from training.presets import PRESETS, Preset
from training.run import CLASSIFIER, Run
from training.scenes.pixels import to_float
from training.scenes.solids.classifier import (
    CLASSIFIER_FILE,
    SceneClassifier,
    load_classifier,
)
from training.scenes.solids.render import render
from training.trainer.step import Step

MAX_BYTES = 64 * 1000 * 1000
TEST_CROPS = range(1 << 30, (1 << 30) + 64)  # scenes beyond those of every preset's training
EMBEDDINGS = 128
RETRIEVAL_IMAGES = 512


@torch.inference_mode()
def measure_upsampler(
    upsampler: Upsampler, clip: CLIP, size: int, mix: str, defaults: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Measure crops of new renderings, made small and enlarged again.

    Returns "psnr" in dB and "distance", 1 - cosine of the z_i on average, of the upsampler and of
    bicubic enlargement."""
    x_0 = to_float(torch.from_numpy(render_crops(TEST_CROPS, mix, size)))
    step = Step(0, len(x_0), x_0.device, torch.Generator().manual_seed(0))
    low = degrade_crops(x_0, size, step)
    bicubic = F.interpolate(
        low, x_0.shape[-2:], mode="bicubic", antialias=True, align_corners=False
    )
    z_i = clip.encode_image(x_0)
    enlarged = {
        "upsampler": upsample(upsampler, low, x_0.shape[-1], defaults),
        "bicubic": bicubic,
    }
    return {
        name: {
            "psnr": psnr(x, x_0),
            "distance": 1 - float((clip.encode_image(x) * z_i).sum(1).mean()),
        }
        for name, x in enlarged.items()
    }


@torch.inference_mode()
def measure_priors(
    pipeline: UnCLIP,
    classifier: SceneClassifier,
    mix: str,
    count: int,
    report: dict[str, Any],
) -> dict[str, Any]:
    """Measure each prior on the same captions and seeds, and z_t itself as "caption".

    "cosine" is the mean to the z_i of the caption's scene, "seconds" those of EMBEDDINGS
    embeddings, "right" the counts of `count` images of each of COMPARED_TYPES. `report` is the
    checkpoint's, with its default prior."""
    captions = draw_test_captions(CAPTION_TYPES["two in relation"], mix)
    pairs = list(islice(captions, EMBEDDINGS))
    texts = [caption.text for _, caption in pairs]
    images = render([scene for scene, _ in pairs], 64, device=str(pipeline.device))
    z_i = pipeline.clip.encode_image(images)
    z_t = encode_captions_frozen(pipeline.clip, texts).z_t
    priors = {}
    for prior in pipeline.priors:
        parameters = pipeline.resolve(size=64, prior=prior)
        rows = [
            pipeline.prompt_row(text, seed, parameters, prior=True)
            for seed, text in enumerate(texts)
        ]
        started = time.perf_counter()
        pipeline.run(rows)
        embeddings = stack_embeddings(rows)
        seconds = time.perf_counter() - started
        accuracy = report
        if prior != report["parameters"]["prior"]:
            counts = dict.fromkeys(COMPARED_TYPES, count)
            accuracy = measure_accuracy(pipeline, classifier, mix, counts, prior=prior)
        types = accuracy["caption types"]
        priors[prior] = {
            "cosine": float((embeddings * z_i).sum(1).mean()),
            "seconds": seconds,
            "right": {name: types[name]["prior"]["core"] for name in COMPARED_TYPES},
        }
    return {
        "caption": float((z_t * z_i).sum(1).mean()),
        "embeddings": EMBEDDINGS,
        "priors": priors,
    }


@torch.inference_mode()
def measure_retrieval(clip: CLIP, source: SceneSource) -> float:
    """Return the share of captions whose own image is the nearest of RETRIEVAL_IMAGES."""
    step = Step(0, RETRIEVAL_IMAGES, clip.mean.device, torch.Generator().manual_seed(1))
    indices = source.draw_indices(step)
    scenes = source.draw_scenes(indices)
    z_i = clip.encode_image(source.load_images(indices, scenes, step.device))
    z_t = clip.encode_text(clip.tokenize(draw_captions(scenes, step))[0]).z_t
    nearest = (z_t @ z_i.T).argmax(1)
    own = torch.arange(RETRIEVAL_IMAGES, device=nearest.device)
    return float((nearest == own).float().mean())


def measure(
    run: Run, pipeline: UnCLIP, classifier: SceneClassifier, mix: str, report: dict[str, Any]
) -> dict[str, Any]:
    """Return the card's other figures; `report` is that of measure_accuracy with its "count"."""
    preset = run.preset
    defaults = preset.config["defaults"]
    return {
        "steps": {name: f"{plan.steps} x {plan.batch}" for name, plan in preset.plans.items()},
        "retrieval": measure_retrieval(pipeline.clip, SceneSource(mix, split="test")),
        "components": run.pca.config.components,
        "dimensions": run.pca.config.embed_dim,
        "prior": measure_priors(pipeline, classifier, mix, report["count"], report),
        "upsamplers": {
            part: measure_upsampler(pipeline.upsamplers[size], pipeline.clip, size, mix, defaults)
            for size, part in UPSAMPLERS.items()
        },
    }


def write_checkpoint(run: Run, out: Path, classifier_file: Path) -> dict[str, nn.Module]:
    """Write the run's networks to a checkpoint folder, and the scene classifier to its file.

    Returns the trained networks. Exits if the folder is larger than MAX_BYTES."""
    save_file(half_state_dict(run.finished(CLASSIFIER)), classifier_file)
    networks = {name: run.finished(name) for name in run.preset.plans if name != CLASSIFIER}
    config = run.preset.config | {
        "pca": asdict(run.pca.config),
        "ar_prior": run.config("ar_prior"),
    }
    save(out, config, networks | {"pca": run.pca}, "Export in progress.\n")
    total = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    if total > MAX_BYTES:
        raise SystemExit(
            f"the checkpoint has {total / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:.0f} MB that "
            "the repository accepts"
        )
    return networks


def export(
    preset_name: str,
    preset: Preset,
    folder: Path,
    out: Path,
    classifier_file: Path,
    count: int,
    device: str,
) -> str:
    """Export a finished run, measure it with `count` captions of each type, and write its card.

    Returns the card's tables. The run's folder receives report.json."""
    assert preset.mix is not None
    run = Run(preset, folder, device)
    networks = write_checkpoint(run, out, classifier_file)
    pipeline = UnCLIP.load(out, device)
    pipeline.prepack()
    classifier = load_classifier(classifier_file)
    counts = dict.fromkeys(CAPTION_TYPES | DETAIL_TYPES, count)
    report = measure_accuracy(pipeline, classifier, preset.mix, counts) | {"count": count}
    figures = measure(run, pipeline, classifier, preset.mix, report)
    sizes = {
        name: sum(parameter.numel() for parameter in network.parameters())
        for name, network in networks.items()
    }
    (out / "CARD.md").write_text(format_card(report, figures, sizes, preset_name))
    (folder / "report.json").write_text(json.dumps({**report, "figures": figures}, indent=2) + "\n")
    return format_card_tables(report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the checkpoint folder of a finished run, evaluate it, and write its card."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=main.__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    presets = [name for name, preset in PRESETS.items() if preset.mix]
    parser.add_argument("--preset", choices=presets, default="cpu")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder to write")
    parser.add_argument(
        "--classifier", type=Path, default=CLASSIFIER_FILE, help="file of the scene classifier"
    )
    parser.add_argument("--count", type=int, default=512, help="captions of each type to evaluate")
    parser.add_argument("--device", default="cpu")
    parsed = parser.parse_args(arguments)
    tables = export(
        parsed.preset,
        PRESETS[parsed.preset],
        parsed.run,
        parsed.out,
        parsed.classifier,
        parsed.count,
        parsed.device,
    )
    print(tables, f"{parsed.out} is ready: UNCLIP_CHECKPOINT={parsed.out.absolute()}", sep="\n")
