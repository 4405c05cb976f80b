"""The judge: reads names, style, colour, ground, number, worn things and relations from an image.

A network of its own on EfficientNet-Lite0's features, trained on scenes only; it shares nothing
with CLIP's heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.scenes.illustrated.scene import MAX_COUNT, RELATIONS, Scene
from training.scenes.illustrated.world import COLOURS, GROUND_COLOURS, PLACES, WORN, World

FEATURES = 1280
NONE = "none"
COLOUR_CLASSES = (NONE, *COLOURS)
GROUND_CLASSES = (NONE, *GROUND_COLOURS, *PLACES)
WORN_CLASSES = (NONE, *WORN)
RELATION_CLASSES = (NONE, *RELATIONS)
OPPOSITES = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
}


@dataclass(frozen=True)
class Labels:
    """What scenes show, as class numbers; -100 where a question does not apply."""

    names: Tensor  # [B, N] shares that sum to 1
    style: Tensor
    colour: Tensor
    ground: Tensor
    count: Tensor
    worn: Tensor
    relation: Tensor


class Judge(nn.Module):
    """Features `[B, 1280]` -> logits by question."""

    def __init__(self, names: int, sets: int, width: int = 1536) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(FEATURES),
            nn.Linear(FEATURES, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
        )
        sizes = {
            "names": names,
            "style": sets,
            "colour": len(COLOUR_CLASSES),
            "ground": len(GROUND_CLASSES),
            "count": MAX_COUNT,
            "worn": len(WORN_CLASSES),
            "relation": len(RELATION_CLASSES),
        }
        self.heads = nn.ModuleDict(
            {question: nn.Linear(width, size) for question, size in sizes.items()}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return logits `[B, classes]` of each question."""
        hidden = self.body(features)
        return {question: head(hidden) for question, head in self.heads.items()}


def shown_names(world: World, scene: Scene) -> list[int]:
    """Return the names that a scene shows, what is worn, held or ridden included."""
    labels = [label for part in scene.parts for label in [part.worn] if label]
    labels += [scene.extra] if scene.extra else []
    return [part.name for part in scene.parts] + [world.index(label) for label in labels]


def label_scenes(world: World, scenes: list[Scene]) -> Labels:
    """Return the truth about scenes."""
    names = torch.zeros(len(scenes), len(world.names))
    rows: dict[str, list[int]] = {
        question: [] for question in ("style", "colour", "ground", "count", "worn", "relation")
    }
    for row, scene in enumerate(scenes):
        visible = shown_names(world, scene)
        for name in visible:
            names[row, name] += 1 / len(visible)
        first = scene.parts[0]
        rows["style"].append(scene.art_set)
        rows["colour"].append(
            COLOUR_CLASSES.index(first.colour or NONE) if len(scene.parts) == 1 else -100
        )
        rows["ground"].append(GROUND_CLASSES.index(scene.ground or NONE))
        rows["count"].append(scene.count - 1 if len(scene.parts) == 1 and not scene.extra else -100)
        rows["worn"].append(
            WORN_CLASSES.index(first.worn or NONE) if len(scene.parts) == 1 else -100
        )
        rows["relation"].append(
            RELATION_CLASSES.index(canonical_relation(scene)) if scene.relation else -100
        )
    return Labels(names, **{question: torch.tensor(values) for question, values in rows.items()})


def canonical_relation(scene: Scene) -> str:
    """Return the relation of the part with the lower index to the other one."""
    assert scene.relation is not None
    first, second = scene.parts
    return scene.relation if first.name < second.name else OPPOSITES[scene.relation]


def judge_loss(judge: Judge, features: Tensor, labels: Labels) -> Tensor:
    """Return the sum of cross-entropies over the questions."""
    logits = judge(features)
    total = -(labels.names * F.log_softmax(logits["names"].float(), dim=1)).sum(1).mean()
    for question in ("style", "colour", "ground", "count", "worn", "relation"):
        target: Tensor = getattr(labels, question)
        if (target >= 0).any():
            total = total + 0.5 * F.cross_entropy(logits[question].float(), target)
    return total


@torch.inference_mode()
def read(judge: Judge, world: World, features: Tensor, scenes: list[Scene]) -> dict[str, Tensor]:
    """Return, of each question, which images are right `[B]`: 1, 0, or -1 where it does not apply.

    "names" is right when the names shown are the highest of as many; things that share their
    plainest word count as one. "first" is about the first thing alone, "five" whether it is among
    the five highest."""
    logits = judge(features)
    labels = label_scenes(world, scenes)
    words = [words[0] for words in world.words]
    top = logits["names"].topk(8, dim=1).indices.tolist()
    right: dict[str, list[int]] = {"names": [], "first": [], "five": []}
    for row, scene in enumerate(scenes):
        visible = {words[name] for name in shown_names(world, scene)}
        ranked = list(dict.fromkeys(words[name] for name in top[row]))
        right["names"].append(int(visible == set(ranked[: len(visible)])))
        right["first"].append(int(ranked[0] == words[scene.parts[0].name]))
        right["five"].append(int(words[scene.parts[0].name] in ranked[:5]))
    answers = {question: torch.tensor(values) for question, values in right.items()}
    for question in ("style", "colour", "ground", "count", "worn", "relation"):
        target: Tensor = getattr(labels, question)
        is_right = (logits[question].argmax(1) == target).int()
        answers[question] = torch.where(target >= 0, is_right, -1)
    return answers
