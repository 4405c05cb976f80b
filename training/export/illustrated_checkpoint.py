"""`python -m training.export.illustrated_checkpoint RUN`: write a run of the illustrated world as a
checkpoint folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoints.checkpoint import WORDPIECES, save
from models.networks.decoder import Decoder, DecoderConfig
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig
from models.networks.upsampler import Upsampler, UpsamplerConfig
from models.vocabulary import DrawnName, Vocabulary, normalize, save_vocabulary
from training.errors import TrainingError
from training.illustrated import IllustratedRun
from training.illustrated_presets import PRESETS
from training.scenes.illustrated.captions import NUMBERS
from training.scenes.illustrated.fetch import notice
from training.scenes.illustrated.world import COLOURS, GROUND_COLOURS, STYLE_WORDS

MAX_BYTES = 140 * 1000 * 1000
NAME = "illustrated-world"
# Words that captions use beside the names of things.
CONNECTIVES = [
    "a",
    "an",
    "the",
    "of",
    "on",
    "in",
    "at",
    "to",
    "with",
    "and",
    "or",
    "left",
    "right",
    "above",
    "below",
    "under",
    "underneath",
    "over",
    "top",
    "front",
    "behind",
    "next",
    "wearing",
    "holding",
    "riding",
    "sign",
    "says",
    "saying",
    "that",
    "word",
    "white",
    "plain",
    "background",
    "ground",
    "style",
    "sticker",
    "emoji",
    "picture",
    "image",
    "drawing",
    "illustration",
    "icon",
    "clipart",
    "cute",
    "draw",
    "one",
    "two",
    "three",
    "four",
    "five",
    "grass",
    "meadow",
    "lawn",
    "sand",
    "beach",
    "desert",
    "snow",
    "wooden",
    "wood",
    "floor",
    "checkered",
    "tiles",
    "water",
    "sea",
    "space",
    "outer",
    "sunset",
    "dusk",
    "night",
    "day",
    "during",
    "by",
    "its",
    "is",
    "are",
    "my",
    "your",
    "this",
]
DEFAULTS: dict[str, Any] = {
    "size": 256,
    "prior": "diffusion",
    "prior_sampler": "ddpm",
    "prior_num_candidates": 2,
    "prior_num_inference_steps": 12,
    "prior_guidance_scale": 1.0,
    "prior_temperature": 1.0,
    "prior_top_p": 1.0,
    "negative_prompt": "",
    "sampler": "dpm++",
    "eta": 0.0,
    "decoder_num_inference_steps": 12,
    "decoder_guidance_scale": 1.0,
    "upsampler_sampler": "ddim",
    "upsampler_num_inference_steps": 2,
}


def gather_networks(run: IllustratedRun) -> dict[str, nn.Module]:
    """Return the run's networks with their averaged weights, finished or not.

    Raises TrainingError when one has not begun."""
    networks = run.preset.networks
    built: dict[str, nn.Module] = {
        "prior": DiffusionPrior(DiffusionPriorConfig(**networks["prior"])),
        "decoder": Decoder(DecoderConfig(**networks["decoder"])),
        "upsampler_256": Upsampler(UpsamplerConfig(**networks["upsampler_256"])),
        "upsampler_1024": Upsampler(UpsamplerConfig(**networks["upsampler_1024"])),
    }
    for name, network in built.items():
        path = run.folder / f"{name}.pt"
        if not path.exists():
            raise TrainingError(
                f"the training of {name} has not begun: run `python -m training.illustrated {name}`"
            )
        network.load_state_dict(
            torch.load(path, map_location="cpu", weights_only=True)["averaged"], strict=False
        )
    return {"clip": run.clip, **built}


def build_vocabulary(run: IllustratedRun) -> Vocabulary:
    """Return what the run's decoder draws, and the nouns that stand for it."""
    world = run.world
    full = run.full_world
    names = tuple(
        DrawnName(
            world.names[index].label,
            world.names[index].group,
            world.words[index],
            world.names[index].translations,
        )
        for index in world.tier
    )
    drawn = {full.names[index].label for index in range(len(full.names))} & {
        name.label for name in names
    }
    nouns = {
        normalize(noun): full.words[index][0]
        for noun, index in run.nouns.items()
        if full.names[index].label in drawn
    }
    words = {*CONNECTIVES, *COLOURS, *GROUND_COLOURS, *NUMBERS.values()}
    words |= {
        part
        for several in STYLE_WORDS.values()
        for word in several
        for part in normalize(word).split()
    }
    return Vocabulary(names, nouns, frozenset(normalize(word) for word in words))


def export(run: IllustratedRun, out: Path, card: str) -> int:
    """Write the checkpoint folder and return its size in bytes."""
    networks = gather_networks(run)
    config = {
        "name": NAME,
        **{name: run.preset.networks[name] for name in networks},
        "defaults": DEFAULTS,
    }
    save(out, config, networks, card)
    pieces = run.clip.tokenizer.vocabulary
    (out / WORDPIECES).write_text(
        json.dumps(pieces, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    save_vocabulary(out, build_vocabulary(run))
    (out / "NOTICE").write_text(notice(), encoding="utf-8")
    return sum(path.stat().st_size for path in out.iterdir() if path.is_file())


def main() -> None:
    """Write a checkpoint folder from a run."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export.illustrated_checkpoint", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--art", type=Path, default=Path("runs/art"))
    arguments = parser.parse_args()
    try:
        size = export(
            IllustratedRun(PRESETS[arguments.preset], arguments.run, arguments.art),
            arguments.out,
            "Not evaluated yet.\n",
        )
    except (TrainingError, OSError) as error:
        sys.exit(f"Cannot export {arguments.run}: {error}")
    if size > MAX_BYTES:
        sys.exit(
            f"The checkpoint has {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB: "
            "use smaller networks."
        )
    print(f"{size / 1e6:.1f} MB in {arguments.out}")


if __name__ == "__main__":
    main()
