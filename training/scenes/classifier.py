"""The scene reader: the judge that names what is in an image, trained on drawings.

It answers the questions that a caption's claims ask, each by a head of its own, and is used on samples only: nothing that is
trained sees it. Its own accuracy on fresh drawings belongs beside every figure it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.sources import World
from training.scenes.solids.captions import Caption
from training.scenes.solids.scene import (
    COLOUR_NAMES,
    KINDS,
    MATERIALS,
    MAX_COUNT,
    MAX_WORD,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    TIMES,
    Scene,
)
from training.trainer.trainer import Loss, Step

LETTERS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_THING = {"shape": SHAPES, "colour": COLOUR_NAMES, "size": SIZES, "material": MATERIALS}
# Question -> possible answers. Things are asked in the scene's order: left, upper or front one first.
QUESTIONS: dict[str, Sequence[object]] = {
    "kind": KINDS,
    "relation": RELATIONS,
    "count": range(1, MAX_COUNT + 1),
    "place": PLACES,
    "time": TIMES,
    "style": STYLES,
    **{f"{what}{slot}": values for slot in range(2) for what, values in _THING.items()},
    **{f"letter{place}": LETTERS for place in range(MAX_WORD)},
}
UNSEEN = -100  # cross_entropy's own mark for "do not ask"


def truths(scene: Scene) -> dict[str, object]:
    """The answers that a drawing of this scene shows; a question that it does not show is left out."""
    seen: dict[str, object] = {"kind": scene.kind, "style": scene.style}
    sketch = scene.style == "pencil sketch"
    if not sketch:
        seen |= {"place": scene.place, "time": scene.time}
    if scene.relation:
        seen["relation"] = scene.relation
    if scene.kind in ("one", "count"):
        seen["count"] = len(scene.things)
    for slot, thing in enumerate(scene.things if scene.kind == "pair" else scene.things[:1]):
        seen |= {
            f"{what}{slot}": getattr(thing, what)
            for what in _THING
            if not (sketch and what == "material")
        }
    for place, letter in enumerate((scene.word or "").ljust(MAX_WORD)):
        if scene.word:
            seen[f"letter{place}"] = letter
    return seen


def asked(said: Caption) -> dict[str, object]:
    """A caption's claims as questions and the answers that make them true."""
    claims = said.claims
    wanted: dict[str, object] = {
        key: claims[key]
        for key in ("kind", "relation", "count", "place", "time", "style")
        if key in claims
    }
    for slot, thing in enumerate(cast("tuple[dict[str, str], ...]", claims.get("things", ()))):
        wanted |= {f"{what}{slot}": value for what, value in thing.items()}
    if claims.get("word"):
        wanted |= {
            f"letter{place}": letter
            for place, letter in enumerate(str(claims["word"]).ljust(MAX_WORD))
        }
    return wanted


class Reader(nn.Module):
    """A small residual network with one linear head a question. It keeps the last map's positions: where things stand
    is half of what it is asked."""

    def __init__(self, widths: tuple[int, ...] = (96, 128, 192)) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, widths[0], 3, padding=1),
            _Residual(widths[0]),
        ]  # 16²
        for width, wider in zip(widths, widths[1:], strict=False):
            layers += [
                _Residual(width),
                _Residual(width),
                nn.Conv2d(width, wider, 3, stride=2, padding=1),
            ]
        self.trunk = nn.Sequential(
            *layers,
            _Residual(widths[-1]),
            _Residual(widths[-1]),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * 16, 256), nn.ReLU(), nn.Dropout(0.1)
        )
        self.heads = nn.Linear(256, sum(len(values) for values in QUESTIONS.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images `[B, 3, 64, 64]` in [-1, 1] -> question: logits `[B, answers]`."""
        logits = self.heads(self.hidden(self.trunk(images)))
        return dict(
            zip(QUESTIONS, logits.split([len(v) for v in QUESTIONS.values()], dim=1), strict=True)
        )

    @torch.inference_mode()
    def read(self, images: Tensor) -> list[dict[str, object]]:
        """The likeliest answer to every question, for each image."""
        answers = {question: logits.argmax(1).tolist() for question, logits in self(images).items()}
        return [{q: QUESTIONS[q][answers[q][row]] for q in QUESTIONS} for row in range(len(images))]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def answers_of(scenes: Sequence[Scene]) -> Tensor:
    """Of each scene's drawing what the answers are, `[B, questions]`: indices into QUESTIONS' values, UNSEEN where it shows none."""
    rows = [truths(shown) for shown in scenes]
    return torch.tensor(
        [
            [
                list(of).index(row[question]) if question in row else UNSEEN
                for question, of in QUESTIONS.items()
            ]
            for row in rows
        ]
    )


class Answered(Protocol):
    """Drawings with what they show: World's are drawn as they are needed, table.Table's lie on the device."""

    def answered(self, step: Step) -> tuple[Tensor, Tensor]:
        """This process' share of a step: `[B, 3, 64, 64]` in [-1, 1], and answers as `answers_of` gives them."""


@dataclass(frozen=True)
class Drawings:
    """A world's."""

    world: World

    def answered(self, step: Step) -> tuple[Tensor, Tensor]:
        indices = step.own(self.world.indices(step))
        scenes = self.world.scenes(indices)
        return self.world.images(indices, scenes, step.device), answers_of(scenes).to(step.device)


def reader_loss(reader: Reader, drawings: Answered) -> Loss:
    """Cross entropy over the questions a drawing answers, on images a little blurred and noisy, as samples are."""

    def loss(step: Step) -> Tensor:
        images, answers = drawings.answered(step)
        soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
        mix = step.uniform(1, 1, 1) * 0.6
        grain = step.normal(*images.shape[1:]) * 0.03
        logits = reader(images * (1 - mix) + soft * mix + grain)
        total = torch.zeros((), device=step.device)
        for question, target in zip(QUESTIONS, answers.unbind(1), strict=True):
            total = total + F.cross_entropy(
                logits[question], target, ignore_index=UNSEEN, reduction="sum"
            ) / len(images)
        return total

    return loss


def agree(answers: dict[str, object], wanted: dict[str, object]) -> bool:
    """True where every wanted answer was given."""
    return all(answers[question] == value for question, value in wanted.items())
