"""Measure a run of the illustrated world for its card."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from models.networks.decoder import Decoder
from models.networks.image_tower import ImageTower, ImageTowerConfig
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.pretrained import fill_trunk, read_lite0
from training.errors import TrainingError
from training.evaluation.illustrated import (
    ROWS,
    Networks,
    evaluate_row,
    evaluate_style,
    names_drawn,
)
from training.evaluation.judge import Judge
from training.evaluation.words import evaluate_words, photograph_accuracy
from training.export.illustrated_card import Figures
from training.illustrated.presets import EMBED_DIM, SETS
from training.illustrated.run import IllustratedRun

DECODER_STEPS = 12


def measure(
    run: IllustratedRun,
    networks: dict[str, nn.Module],
    count: int,
    per_name: int,
    photographs: tuple[Path | None, Path | None] = (None, None),
) -> Figures:
    """Return every figure of the card. `photographs`: a listing and the folder that it is of."""
    clip = cast(TwoTowerCLIP, networks["clip"])
    judged = Networks(
        clip,
        cast(DiffusionPrior, networks["prior"]).eval(),
        cast(Decoder, networks["decoder"]).eval(),
        load_judge(run),
        load_judge_tower(run.art),
    )
    world = run.world
    rows = {row: evaluate_row(judged, world, row, count) for row in ROWS}
    styles = {key: evaluate_style(judged, world, key, count) for key in world.atlas.sets}
    shares = names_drawn(judged, world, per_name)
    listing, folder = photographs
    retrieved = None
    if listing is not None and folder is not None:
        retrieved, _ = photograph_accuracy(clip, run.words, listing, folder)
    return Figures(
        rows=rows,
        count=count,
        names={world.names[name].label: share for name, share in shares.items()},
        groups={world.names[name].label: world.names[name].group for name in shares},
        styles=styles,
        words=evaluate_words(clip, run.words, run.nouns),
        photographs=retrieved,
        trained={name: _training_of(run, name, network) for name, network in networks.items()},
        steps=DECODER_STEPS,
    )


def load_judge(run: IllustratedRun) -> Judge:
    """Return the run's judge. Raises TrainingError when it has not begun."""
    judge = Judge(len(run.full_world.names), len(SETS))
    path = run.folder / "judge.pt"
    if not path.exists():
        raise TrainingError("the judge has not begun: run `python -m training.illustrated judge`")
    judge.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["averaged"])
    return judge.eval().requires_grad_(False)


def load_judge_tower(art: Path) -> ImageTower:
    """Return the tower whose features the judge reads."""
    tower = ImageTower(ImageTowerConfig(EMBED_DIM))
    fill_trunk(tower.trunk, read_lite0(art))
    return tower.eval().requires_grad_(False)


def _training_of(run: IllustratedRun, name: str, network: nn.Module) -> str:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    path = run.folder / f"{name}.pt"
    step = torch.load(path, map_location="cpu", weights_only=True)["step"]
    return f"{parameters / 1e6:.2f} M, {step} steps of {run.preset.plans[name].batch}"
