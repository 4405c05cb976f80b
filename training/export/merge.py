"""`python -m training.export.merge RUN`: write a run and its original checkpoint to a folder.

For runs on the user's own images. Those on synthetic scenes are exported and measured by
`python -m training.export`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import CheckpointError
from models.checkpoints.checkpoint import (
    BASE_SIZE,
    PARTS,
    REQUIRED,
    UPSAMPLERS,
    build,
    save,
)
from training.errors import TrainingError
from training.evaluation.figures import markdown_table, wrap_markdown
from training.presets import PRESETS
from training.run import START_FILE, load_pca, load_start_network, start_config
from training.trainer.lora import merge_lora

CARD = """# {name}

{origin}

{networks}

Merged by `python -m training.export merge`. Nothing is measured here. The licences of the images \
and of the original checkpoint apply to this one.
"""


@dataclass(frozen=True)
class _Origin:
    """What a run began with: a checkpoint folder, or a preset from scratch."""

    start: Path | None
    lora: int
    preset: str | None

    @property
    def config(self) -> dict[str, Any]:
        if self.start is not None:
            return start_config(self.start)
        return dict(PRESETS[str(self.preset)].config)

    @property
    def sentence(self) -> str:
        if self.start is not None:
            return f"Continues the checkpoint folder `{self.start.name}`."
        return f"Trained from scratch by the preset `{self.preset}`."


def merge(folder: Path, out: Path, name: str, preset: str | None = None) -> dict[str, int]:
    """Write a run's averaged weights, and the other networks of its original checkpoint, to `out`.

    The run may be unfinished. `preset` is that of a run from scratch. Returns the steps by trained
    network. Raises TrainingError if `out` exists or something is missing."""
    if out.exists():
        raise TrainingError(f"{out} exists already: delete it, or name another folder by --out")
    states = {
        part: torch.load(path, map_location="cpu", weights_only=True)
        for part in PARTS
        if part != "pca" and (path := folder / f"{part}.pt").exists()
    }
    if not states:
        raise TrainingError(f"{folder} has no NETWORK.pt: train one by `python -m training` first")
    origin = _read_origin(folder, preset)
    config = origin.config
    networks: dict[str, nn.Module] = {}
    if (folder / "pca.pt").exists():
        pca = load_pca(folder / "pca.pt")
        networks["pca"] = pca
        config["pca"] = asdict(pca.config)
        config["ar_prior"] = config["ar_prior"] | {"components": pca.config.components}
    for part in PARTS:
        if part in config and part not in networks:
            network = _load(part, config[part], origin, states.get(part))
            if network is not None:
                networks[part] = network
    if missing := [part for part in REQUIRED if part not in networks]:
        raise TrainingError(
            f"{folder} has no {', '.join(missing)}, which a checkpoint needs: train them first"
        )
    steps = {part: int(state["step"]) for part, state in states.items()}
    card = _format_card(name, origin, steps)
    save(out, _limit_config(config, networks) | {"name": name}, networks, card)
    return steps


def _read_origin(folder: Path, preset: str | None) -> _Origin:
    path = folder / START_FILE
    if path.exists():
        start = json.loads(path.read_text())
        return _Origin(Path(start["checkpoint"]), int(start["lora"]), preset)
    if preset is None or not PRESETS[preset].config:
        presets = ", ".join(name for name, each in PRESETS.items() if each.config)
        raise TrainingError(f"{folder} was trained from scratch: name its --preset ({presets})")
    return _Origin(None, 0, preset)


def _load(
    part: str, config: dict[str, Any], origin: _Origin, state: dict[str, Any] | None
) -> nn.Module | None:
    """Return a trained network, or the original checkpoint's; None if there is neither."""
    network = None
    if origin.start is not None:
        network = load_start_network(origin.start, part, config, "cpu")
    if state is None:
        return network
    network = network or build(part, config)
    if origin.lora:
        return merge_lora(part, network, origin.lora, state["averaged"])
    network.load_state_dict(state["averaged"])
    return network


def _limit_config(config: dict[str, Any], networks: dict[str, nn.Module]) -> dict[str, Any]:
    """Return the config of the networks that exist, with a default size that they can generate."""
    config = {key: value for key, value in config.items() if key not in PARTS or key in networks}
    sizes = [BASE_SIZE, *(size for size, part in UPSAMPLERS.items() if part in networks)]
    size = min(config["defaults"]["size"], max(sizes))
    return config | {"defaults": config["defaults"] | {"size": size}}


def _format_card(name: str, origin: _Origin, steps: dict[str, int]) -> str:
    method = f"LoRA of rank {origin.lora}" if origin.lora else "all weights"
    rows = [[part, str(count), method] for part, count in steps.items()]
    table = markdown_table(["network", "steps", "trained"], rows)
    return wrap_markdown(CARD.format(name=name, origin=origin.sentence, networks=table))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a run's networks, and those of its original checkpoint, to a checkpoint folder."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export.merge", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--name", help="name of the checkpoint (default: the folder's)")
    parser.add_argument("--preset", choices=PRESETS, help="preset of a run from scratch")
    parsed = parser.parse_args(arguments)
    try:
        steps = merge(parsed.run, parsed.out, parsed.name or parsed.out.name, parsed.preset)
    except (CheckpointError, TrainingError) as error:
        sys.exit(str(error))
    trained = ", ".join(f"{part} ({count} steps)" for part, count in steps.items())
    print(f"{parsed.out} is ready, with {trained}: UNCLIP_CHECKPOINT={parsed.out.absolute()}")


if __name__ == "__main__":
    main()
