"""The frozen joint space: CLIP's weights in fp16 and what goes with them, as files of a folder.

Everything that is trained on z_i reads it from here, so that a machine without the pretrained
packages can train too.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.checkpoint import WORDPIECES, half_state_dict, load_network
from models.networks.two_tower_clip import TwoTowerCLIP
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.errors import TrainingError


@dataclass(frozen=True)
class JointSpace:
    """CLIP, frozen, and pseudo-photographs with the label of the thing at or above each class (""
    for none)."""

    clip: TwoTowerCLIP
    photographs: PseudoPhotographs
    class_labels: list[str]


def save_joint_space(folder: Path, space: JointSpace, config: dict[str, Any]) -> None:
    """Write the space. `config` is CLIP's, without its vocabulary. The folder's `config.json` is
    written last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(half_state_dict(space.clip), folder / "clip.safetensors")
    photographs = {
        "mean": space.photographs.mean,
        "spread": space.photographs.spread,
        "directions": space.photographs.directions,
    }
    save_file(
        {key: value.half().contiguous() for key, value in photographs.items()},
        folder / "photographs.safetensors",
    )
    (folder / WORDPIECES).write_text(
        json.dumps(space.clip.tokenizer.vocabulary, ensure_ascii=False), encoding="utf-8"
    )
    part = folder / "config.part"
    part.write_text(json.dumps({"clip": config, "class_labels": space.class_labels}))
    os.replace(part, folder / "config.json")


def load_joint_space(folder: Path, device: str = "cpu") -> JointSpace:
    """Read the space, ready to embed. Raises TrainingError when it was not saved."""
    path = folder / "config.json"
    if not path.exists():
        raise TrainingError(
            f"{folder} holds no joint space: run `python -m training.illustrated freeze` first"
        )
    config = json.loads(path.read_text())
    clip = cast(TwoTowerCLIP, load_network(folder, "clip", config["clip"], device, torch.float32))
    tensors = {
        key: value.float() for key, value in load_file(folder / "photographs.safetensors").items()
    }
    return JointSpace(clip, PseudoPhotographs(**tensors), config["class_labels"])
