"""`python -m training.export.default_checkpoint RUN`: a finished run becomes a checkpoint folder, with a card that says what it can and cannot do."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from models import UnCLIP
from models.checkpoints.checkpoint import DEFAULT_FOLDER, UPSAMPLERS, halved, save
from models.networks.clip import CLIP
from models.networks.upsampler import Upsampler
from training.data.crops import corrupt, draw_crops
from training.data.scene_cache import to_float
from training.data.sources import World
from training.evaluation.evaluate import accuracy
from training.evaluation.report import for_card, per_cent
from training.evaluation.sample_grids import upsample
from training.evaluation.scoring import DETAILS, READER, SORTS, captioned, load_reader
from training.losses.contrastive import retrieval_accuracy
from training.losses.diffusion import encoded
from training.presets import PRESETS
from training.run import Run
from training.scenes.classifier import Reader
from training.scenes.solids.render import render
from training.trainer.trainer import Step

MAX_BYTES = 64 * 1000 * 1000
COMPARED = ("one object", "two in relation")  # what both priors are asked to draw
FRESH_CROPS = range(1 << 30, (1 << 30) + 64)  # scenes that no preset's training reaches


def psnr(images: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    return float(10 * torch.log10(4 / (images - truth).square().mean()))


@torch.inference_mode()
def upsampler_figures(
    upsampler: Upsampler, clip: CLIP, size: int, mix: str, defaults: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Of crops of fresh drawings, made small and large again by the upsampler and by bicubic enlargement: PSNR in dB, and how far their z_i
    are from the crops' own, 1 - cosine on average."""
    x_0 = to_float(torch.from_numpy(draw_crops(FRESH_CROPS, mix, size)))
    low = corrupt(x_0, size, Step(0, len(x_0), x_0.device, torch.Generator().manual_seed(0)))
    enlarged = F.interpolate(
        low, x_0.shape[-2:], mode="bicubic", antialias=True, align_corners=False
    )
    z_i = clip.encode_image(x_0)
    made = {"upsampler": upsample(upsampler, low, x_0.shape[-1], defaults), "bicubic": enlarged}
    return {
        name: {
            "psnr": psnr(x, x_0),
            "distance": 1 - float((clip.encode_image(x) * z_i).sum(1).mean()),
        }
        for name, x in made.items()
    }


@torch.inference_mode()
def prior_figures(
    pipeline: UnCLIP,
    reader: Reader,
    mix: str,
    count: int,
    report: dict[str, Any],
    embeddings: int = 128,
) -> dict[str, Any]:
    """Of each prior, on the same captions and seeds: mean cosine of its z_i to that of the scene which the caption tells of, seconds
    for those embeddings, and how many of `count` images of each sort in COMPARED are right. Beside them z_t's own cosine.
    `report` is the checkpoint's, with its default prior."""
    source = captioned(SORTS["two in relation"], mix)
    pairs = [next(source) for _ in range(embeddings)]
    z_i = pipeline.clip.encode_image(
        render([shown for shown, _ in pairs], 64, device=str(pipeline.device))
    )
    z_t = encoded(pipeline.clip, [said.text for _, said in pairs]).z_t
    figures: dict[str, Any] = {
        "caption": float((z_t * z_i).sum(1).mean()),
        "embeddings": embeddings,
        "priors": {},
    }
    for prior in pipeline.priors:
        parameters = pipeline.resolve(size=64, prior=prior)
        rows = [
            pipeline.prompt_row(said.text, seed, parameters, prior=True)
            for seed, (_, said) in enumerate(pairs)
        ]
        started = time.perf_counter()
        pipeline.run(rows)
        drawn = torch.stack(
            [
                row.conditioning.z_i
                for row in rows
                if row.conditioning is not None and row.conditioning.z_i is not None
            ]
        )
        seconds = time.perf_counter() - started
        own = prior == report["parameters"]["prior"]
        sorts = (
            report["sorts"]
            if own
            else accuracy(pipeline, reader, mix, dict.fromkeys(COMPARED, count), prior=prior)[
                "sorts"
            ]
        )
        figures["priors"][prior] = {
            "cosine": float((drawn * z_i).sum(1).mean()),
            "seconds": seconds,
            "right": {sort: sorts[sort]["prior"]["core"] for sort in COMPARED},
        }
    return figures


def prior_table(figures: dict[str, Any]) -> str:
    """The priors side by side as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = [
        "prior",
        "cosine to z_i",
        *(f"{sort}: things right" for sort in COMPARED),
        f"s for {figures['embeddings']} embeddings",
    ]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, found in figures["priors"].items():
        lines.append(
            line(
                [
                    name,
                    f"{found['cosine']:.3f}",
                    *(per_cent(found["right"][sort]) for sort in COMPARED),
                    f"{found['seconds']:.1f}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def card(
    report: dict[str, Any], figures: dict[str, Any], sizes: dict[str, int], preset: str
) -> str:
    """CARD.md."""
    pieces = "\n".join(
        f"| {name} | {count / 1e6:.2f} M | {figures['steps'][name]} |"
        for name, count in sizes.items()
    )
    scaled = "\n".join(
        f"- {name}: {of['upsampler']['psnr']:.1f} dB on crops of fresh drawings, bicubic enlargement {of['bicubic']['psnr']:.1f} dB; in "
        f"CLIP's space {of['upsampler']['distance']:.3f} from the crops (1 - cosine), bicubic {of['bicubic']['distance']:.3f}."
        for name, of in figures["upsamplers"].items()
    )
    steps, guidance = (
        report["parameters"][f"decoder_{what}"]
        for what in ("num_inference_steps", "guidance_scale")
    )
    found = 100 * figures["retrieval"]
    return f"""# {report["checkpoint"]}

The embedded default: a small unCLIP pipeline (CLIP, both priors, 64² decoder, upsamplers to 256² and 1024²) for a world of spheres,
cubes, cylinders and cones. It is here so that a fresh machine draws what a caption says within seconds; it knows nothing else.

## Data

Scenes drawn by `training/scenes/solids/render.py`, mix `{report["mix"]}`, with the captions of `training/scenes/solids/captions.py`. No photographs, no
people, no downloaded data. One caption in sixteen (by checksum) and one (colour, shape, relation) in eleven were kept out of training.

## Networks

Trained by `python -m training {preset}`; baked by `python -m training.export.default_checkpoint`.

| network | parameters | steps x batch |
| --- | --- | --- |
{pieces}

## Figures

Counted by the scene reader on captions never trained on, each of a fresh scene of the mix `{report["mix"]}`, at 64² with
{steps} decoder steps and guidance {guidance}. What captions ask for are the things (kind, colours, shapes, relation and
count), a sign's word, or what the sort is called after. The last columns are the same counts over the scenes' own
drawings: what the reader is worth. Reproduce: `python -m training.evaluation.evaluate --count {report["count"]}`.

{for_card(report)}
- CLIP: {found:.1f} % of captions find their own image among 512 fresh ones; near twins are among those, and many
  captions fit several.
- {figures["components"]} principal components keep 99 % of the variance of z_i, of {figures["dimensions"]} dimensions.
{scaled}

Both priors on the same captions and seeds, and the mean cosine of their z_i to that of the scene's drawing; the
caption's own z_t has {figures["prior"]["caption"]:.3f}. Reproduce: `python -m training.evaluation.evaluate --prior autoregressive`.

{prior_table(figures["prior"])}
## Limits

It draws the things, colours, relations and places named in `training/scenes/solids/scene.py`, in the words of `training/scenes/solids/captions.py`; other words are
accepted and mean little to it. The tables say how far it got. It attends to the first 77 tokens of a prompt.

## Licence

Apache-2.0, as the rest of the project.
"""


def main() -> None:
    """Gather the networks, write the folder, evaluate it, and write its card."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export.default_checkpoint", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--preset", choices=[name for name, preset in PRESETS.items() if preset.mix], default="cpu"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--reader", type=Path, default=READER, help="where the scene reader goes")
    parser.add_argument("--count", type=int, default=512, help="captions of each sort to evaluate")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    mix = preset.mix
    assert mix is not None
    run = Run(preset, arguments.run, arguments.device)
    save_file(halved(run.finished("reader")), arguments.reader)
    networks = {name: run.finished(name) for name in preset.plans if name != "reader"}
    networks["pca"] = run.pca
    config = preset.config | {"pca": asdict(run.pca.config), "ar_prior": run.config("ar_prior")}
    save(arguments.out, config, networks, "Being baked.\n")
    weight = sum(path.stat().st_size for path in arguments.out.glob("*.safetensors"))
    if weight > MAX_BYTES:
        raise SystemExit(
            f"the checkpoint has {weight / 1e6:.1f} MB, and at most {MAX_BYTES / 1e6:.0f} MB may go into the repository"
        )
    pipeline = UnCLIP.load(arguments.out, arguments.device)
    pipeline.prepack()
    reader = load_reader(arguments.reader)
    report = accuracy(pipeline, reader, mix, dict.fromkeys(SORTS | DETAILS, arguments.count)) | {
        "count": arguments.count
    }
    figures = {
        "steps": {name: f"{plan.steps} x {plan.batch}" for name, plan in preset.plans.items()},
        "retrieval": retrieval_accuracy(pipeline.clip, World(mix, split="fresh")),
        "components": run.pca.config.components,
        "dimensions": run.pca.config.embed_dim,
        "prior": prior_figures(pipeline, reader, mix, arguments.count, report),
        "upsamplers": {
            part: upsampler_figures(
                pipeline.upsamplers[size], pipeline.clip, size, mix, preset.config["defaults"]
            )
            for size, part in UPSAMPLERS.items()
        },
    }
    sizes = {
        name: sum(p.numel() for p in networks[name].parameters())
        for name in preset.plans
        if name != "reader"
    }
    (arguments.out / "CARD.md").write_text(card(report, figures, sizes, arguments.preset))
    (arguments.run / "report.json").write_text(
        json.dumps({**report, "figures": figures}, indent=2) + "\n"
    )
    print(for_card(report), f"{weight / 1e6:.1f} MB in {arguments.out}", sep="\n")


if __name__ == "__main__":
    main()
