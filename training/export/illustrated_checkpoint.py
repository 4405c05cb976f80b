"""`python -m training.export.illustrated_checkpoint RUN`: write a run of the illustrated world as a
checkpoint folder."""

from __future__ import annotations

import argparse
import json
import random
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
from training.evaluation.contact_sheet import PROMPTS
from training.export.illustrated_card import write_card
from training.export.illustrated_figures import measure
from training.illustrated.presets import PRESETS
from training.illustrated.run import IllustratedRun
from training.scenes.illustrated.captions import ARTICLES, draw_caption
from training.scenes.illustrated.fetch import notice
from training.scenes.illustrated.scene import draw_scene

MAX_BYTES = 140 * 1000 * 1000
NAME = "illustrated-world"
# Captions drawn to learn which words they use beside the names of things.
CAPTION_SCENES = 4000
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
    # Variations sample a z_i by the prior, so they need neither inversion nor its many steps.
    "operations": {
        "variations": {"sampler": "dpm++", "eta": 0.0, "decoder_num_inference_steps": 12},
    },
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
    names = tuple(
        DrawnName(name.label, name.group, world.words[index], name.translations)
        for index in world.tier
        for name in (world.names[index],)
    )
    tier = set(world.tier)
    nouns = {
        normalize(noun): world.words[index][0] for noun, index in run.nouns.items() if index in tier
    }
    return Vocabulary(names, nouns, caption_words(run), PROMPTS)


def caption_words(run: IllustratedRun) -> frozenset[str]:
    """Return every word of a few thousand captions, names included, and foreign articles."""
    words = {article for articles in ARTICLES.values() for article in articles}
    for index in range(CAPTION_SCENES):
        scene = draw_scene(run.world, index, "full")
        if scene.word is None:
            caption = draw_caption(run.world, scene, random.Random(index), style_share=1.0)
            words.update(normalize(caption).split())
    return frozenset(words)


def export(run: IllustratedRun, out: Path, card: str) -> int:
    """Write the checkpoint folder and return its size in bytes."""
    networks = gather_networks(run)
    config = {
        "name": NAME,
        **{name: run.preset.networks[name] for name in networks},
        "image_prior": True,
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


def main(arguments: list[str] | None = None) -> None:
    """Write a checkpoint folder from a run, measured and with its card."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export illustrated", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--art", type=Path, default=Path("runs/art"))
    parser.add_argument(
        "--count", type=int, default=1000, help="captions a row; 0: measure nothing"
    )
    parser.add_argument("--per-name", type=int, default=20, help="images of each name")
    parser.add_argument("--photographs", type=Path, help="list of photographs to retrieve")
    parser.add_argument("--photograph-folder", type=Path, help="where they are")
    options = parser.parse_args(arguments)
    run = IllustratedRun(PRESETS[options.preset], options.run, options.art)
    try:
        card = "Not measured yet.\n"
        if options.count:
            photographs = (options.photographs, options.photograph_folder)
            figures = measure(
                run, gather_networks(run), options.count, options.per_name, photographs
            )
            card = write_card(figures)
        size = export(run, options.out, card)
    except (TrainingError, OSError) as error:
        sys.exit(f"Cannot export {options.run}: {error}")
    if size > MAX_BYTES:
        sys.exit(
            f"The checkpoint has {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB: "
            "use smaller networks."
        )
    print(f"{size / 1e6:.1f} MB in {options.out}")


if __name__ == "__main__":
    main()
