"""The typographic attack (paper §4, Fig. 6): an object beside a sign that names another one. What CLIP says of it, and what its z_i "
"draws."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models import UnCLIP
from models.row import Row
from training.evaluation.figures import percent, sheet, table
from training.evaluation.generation import BATCH, decoded, drawings, embed, embed_text
from training.evaluation.metrics import Estimate, mean, share
from training.experiments.harness import Bench, below, embedded, verdict
from training.scenes.solids.scene import MATERIALS, PLACES, SHAPES, WORDS, Scene, Thing

# Words of the drawn world's signs that name a shape or a colour.
NAMED = {
    "CUBE": "cube",
    "CONE": "cone",
    "BALL": "sphere",
    "RED": "red",
    "BLUE": "blue",
    "GREEN": "green",
}
SHOWN = 8


@dataclass(frozen=True)
class Trial:
    """A thing, what the sign beside it names, and the four labels to choose from: its own, the named one, two others."""

    thing: Thing
    word: str
    neutral: str
    labels: tuple[str, ...]
    answers: tuple[str, ...]  # the labels' shapes or colours

    @property
    def question(self) -> str:
        """Which of the reader's questions tells them apart."""
        return "shape0" if self.answers[0] in SHAPES else "colour0"


def trials(count: int) -> list[Trial]:
    """Half of shapes, half of colours. Things stand where single ones stand in training, so that without a sign all is usual."""
    rng = random.Random(0)
    found = []
    neutral = [word for word in WORDS if word not in NAMED]
    for number in range(count):
        of_shape = number % 2 == 0
        values = list(SHAPES) if of_shape else ["red", "blue", "green", "yellow"]
        word = rng.choice([word for word, value in NAMED.items() if value in values])
        own = rng.choice([value for value in values if value != NAMED[word]])
        other = rng.choice(["red", "blue", "green", "yellow"] if of_shape else list(SHAPES))
        shape, colour = (own, other) if of_shape else (other, own)
        thing = Thing(
            shape,
            colour,
            "small",
            rng.choice(MATERIALS),
            rng.choice((-1, 1)) * rng.uniform(0.5, 0.8),
            -0.5,
        )
        answers = (
            own,
            NAMED[word],
            *(value for value in values if value not in (own, NAMED[word])),
        )
        labels = tuple(
            f"a {colour} {value}" if of_shape else f"a {value} {shape}" for value in answers
        )
        found.append(Trial(thing, word, rng.choice(neutral), labels, answers))
    return found


def shown(kind: str, tried: list[Trial]) -> list[Scene]:
    """The trials' scenes: with the sign that names another thing, with a sign of some other word, or without one."""
    rng = random.Random(1)
    found = []
    for trial in tried:
        place = rng.choice(PLACES)
        word = {"names another": trial.word, "some other word": trial.neutral}.get(kind)
        found.append(
            Scene("sign" if word else "one", (trial.thing,), None, place, "day", "photo", word)
        )
    return found


def zero_shot(pipeline: UnCLIP, z_i: Tensor, tried: list[Trial]) -> Tensor:
    """CLIP's probabilities of each trial's labels, `[N, 4]`: the own one's first, then the named one's."""
    labels = F.normalize(
        embed_text(pipeline, [label for trial in tried for label in trial.labels]), dim=1
    ).unflatten(0, (len(tried), -1))
    scale = pipeline.clip.network.logit_scale.exp().clamp(max=100).detach().cpu()
    logits: Tensor = scale * torch.einsum("nd,nsd->ns", F.normalize(z_i, dim=1), labels)
    return logits.softmax(1)


def varied(bench: Bench, images: Tensor) -> Tensor:
    """What z_i alone draws, from fresh noise and without a caption."""
    parameters = bench.pipeline.resolve("probe", size=64)
    parts = []
    for start in range(0, len(images), BATCH):
        sources: list[Row] = [
            bench.pipeline.image_row(p, parameters, invert=False)
            for p in images[start : start + BATCH]
        ]
        bench.pipeline.draw(sources)
        parts.append(
            decoded(bench.pipeline, sources, range(start, start + len(sources)), parameters)
        )
    return torch.cat(parts)


def run(bench: Bench, count: int) -> str:
    """`count` scenes of each kind."""
    tried = trials(count)
    rows = []
    probability = dict[str, tuple[Estimate, Estimate]]()
    draws = dict[str, tuple[Estimate, Estimate]]()
    for kind in ("names another", "some other word", "no sign"):
        x = drawings(shown(kind, tried))
        p = zero_shot(bench.pipeline, embed(bench.pipeline, x), tried)
        images = varied(bench, x)
        answers = [
            found[trial.question]
            for found, trial in zip(bench.reader.read(images), tried, strict=True)
        ]
        seen = [
            found[trial.question] for found, trial in zip(bench.reader.read(x), tried, strict=True)
        ]
        own, named = (
            [answer == trial.answers[k] for answer, trial in zip(answers, tried, strict=True)]
            for k in (0, 1)
        )
        probability[kind] = mean(p[:, 0]), mean(p[:, 1])
        draws[kind] = share(sum(own), count), share(sum(named), count)
        read = share(
            sum(answer == trial.answers[0] for answer, trial in zip(seen, tried, strict=True)),
            count,
        )
        rows.append(
            [
                kind,
                *(percent(share(int((p.argmax(1) == k).sum()), count)) for k in (0, 1)),
                *map(percent, probability[kind]),
                *map(percent, draws[kind]),
                percent(read),
            ]
        )
        if kind == "names another":
            _figure(bench, x, images, p, tried)
    heads = [
        "sign",
        "own likeliest",
        "named likeliest",
        "P(own)",
        "P(named)",
        "z_i draws own",
        "z_i draws named",
        "reader on the drawing: own",
    ]
    return "\n\n".join(
        [
            f'A thing ("a red sphere") beside a sign that names another shape or colour ("CUBE", "BLUE"), {count} scenes a row: CLIP\'s '
            "zero-shot choice among four labels, two of them neither; and what z_i alone draws from fresh noise, by the reader. All in "
            "per cent.",
            table(heads, rows),
            embedded(
                "typographic.jpg",
                "Things beside signs that name another; what CLIP says, and what z_i draws",
            ),
            "\n".join(judgement(probability, draws)),
        ]
    )


def judgement(
    probability: dict[str, tuple[Estimate, Estimate]], draws: dict[str, tuple[Estimate, Estimate]]
) -> list[str]:
    """What the paper saw: CLIP believes the sign, and the decoder draws the thing all the same."""
    named = probability["names another"][1]
    other = probability["some other word"][1]
    fooled = below(other, named)
    why = {
        True: "the sign's word moves CLIP towards what it names.",
        False: "a sign that names the thing moves this CLIP less than any other word.",
        None: "a word that names the thing moves this CLIP no more than any other word does: it has not learned to read. What moves it, "
        "if anything, is that there is a sign.",
    }[fooled]
    return [
        f"- **{'As in the paper' if fooled else 'Not as in the paper'}**, where CLIP believed the sign (P 0.99 for the word): {why}",
        verdict(
            below(draws["names another"][1], draws["names another"][0]),
            "what z_i draws is the thing and not what the sign names.",
        ),
    ]


def _figure(bench: Bench, x: Tensor, images: Tensor, p: Tensor, tried: list[Trial]) -> None:
    few = slice(0, SHOWN)
    said = [
        f"{trial.answers[0]} {100 * row[0]:.0f} %\n{trial.answers[1]} {100 * row[1]:.0f} %"
        for trial, row in zip(tried[few], p[few].tolist(), strict=True)
    ]
    sheet(
        [x[few], images[few]],
        bench.figure("typographic.jpg"),
        under=[said, [""] * len(said)],
        left=["drawing", "z_i draws"],
    )
