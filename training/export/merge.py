"""`python -m training.export.merge RUN`: what a run has learned, and the rest of the checkpoint that it began with, as a checkpoint folder.

For runs on one's own images; those on the drawn world are baked (training.export.default_checkpoint), which also measures them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoints.checkpoint import (
    BASE_SIZE,
    PARTS,
    REQUIRED,
    UPSAMPLERS,
    CheckpointError,
    build,
    save,
)
from training.errors import TrainingError
from training.presets import PRESETS
from training.run import kept_pca, start_config, start_network
from training.trainer.lora import merged

CARD = """# {name}

{origin}

| network | steps | learned |
| --- | --- | --- |
{networks}

Merged by `python -m training.export.merge`. Nothing is measured here. The licence of the images, and of the checkpoint that was begun with,
binds what was made of them.
"""


def merge(folder: Path, out: Path, name: str, preset: str | None = None) -> dict[str, int]:
    """Write the run's averaged weights, as far as they have come, and of the other networks those that it began with, to the folder
    `out`. `preset` is that of a run from nothing. Gives the steps of what was learned. TrainingError where something is missing."""
    if out.exists():
        raise TrainingError(f"{out} exists already: delete it, or name another folder by --out")
    paths = {
        part: path for part in PARTS if (path := folder / f"{part}.pt").exists() and part != "pca"
    }
    if not paths:
        raise TrainingError(
            f"{folder} has no training in it: `python -m training` writes NETWORK.pt there"
        )
    told = folder / "run.json"
    begun: dict[str, Any] = (
        json.loads(told.read_text()) if told.exists() else {"checkpoint": None, "lora": 0}
    )
    start = Path(begun["checkpoint"]) if begun["checkpoint"] else None
    lora = int(begun["lora"])
    if start is None and (preset is None or not PRESETS[preset].config):
        raise TrainingError(
            f"{folder} was begun from nothing: say by which --preset, {', '.join(n for n, p in PRESETS.items() if p.config)}"
        )
    config = start_config(start) if start is not None else dict(PRESETS[str(preset)].config)
    networks: dict[str, nn.Module] = {}
    if (folder / "pca.pt").exists():
        networks["pca"] = pca = kept_pca(folder / "pca.pt")
        config["pca"] = asdict(pca.config)
        config["ar_prior"] = config["ar_prior"] | {"components": pca.config.components}
    states = {
        part: torch.load(path, map_location="cpu", weights_only=True)
        for part, path in paths.items()
    }
    for part in (part for part in PARTS if part in config and part not in networks):
        begun_with = start_network(start, part, config[part], "cpu") if start is not None else None
        if part in states:
            networks[part] = _learned(
                part, begun_with or build(part, config[part]), states[part]["averaged"], lora
            )
        elif begun_with is not None:
            networks[part] = begun_with
    if missing := [part for part in REQUIRED if part not in networks]:
        raise TrainingError(
            f"{folder} has no {', '.join(missing)}, which a checkpoint needs: train them first"
        )
    config = {
        key: value for key, value in config.items() if key not in PARTS or key in networks
    } | {"name": name}
    sizes = [BASE_SIZE, *(size for size, part in UPSAMPLERS.items() if part in networks)]
    config["defaults"] = config["defaults"] | {"size": min(config["defaults"]["size"], max(sizes))}
    steps = {part: int(state["step"]) for part, state in states.items()}
    how = f"LoRA of rank {lora}" if lora else "all weights"
    lines = "\n".join(f"| {part} | {count} | {how} |" for part, count in steps.items())
    origin = (
        f"Begun with the checkpoint folder `{start.name}`."
        if start is not None
        else f"Trained from nothing by the preset `{preset}`."
    )
    save(out, config, networks, CARD.format(name=name, origin=origin, networks=lines))
    return steps


def _learned(part: str, network: nn.Module, state: dict[str, torch.Tensor], lora: int) -> nn.Module:
    if lora:
        return merged(part, network, lora, state)
    network.load_state_dict(state)
    return network


def main() -> None:
    """Read the command line and do as it says."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export.merge", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint folder to write")
    parser.add_argument("--name", help="of the checkpoint (default: the folder's)")
    parser.add_argument("--preset", choices=PRESETS, help="of a run that began from nothing")
    arguments = parser.parse_args()
    try:
        steps = merge(
            arguments.run, arguments.out, arguments.name or arguments.out.name, arguments.preset
        )
    except (CheckpointError, TrainingError) as error:
        sys.exit(str(error))
    learned = ", ".join(f"{part} ({count} steps)" for part, count in steps.items())
    print(f"{arguments.out} is ready, with {learned}: UNCLIP_CHECKPOINT={arguments.out.absolute()}")


if __name__ == "__main__":
    main()
