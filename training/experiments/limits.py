"""The limits that the paper names (§7, Fig. 14 to 17): binding, counting, crowded scenes, text on signs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.figures import percent, sheet, table, wrapped
from training.evaluation.generation import WAYS, drawings, embed, embed_text
from training.evaluation.metrics import Estimate, share
from training.evaluation.scoring import judged
from training.experiments.harness import Bench, below, embedded, verdict
from training.scenes.classifier import agree, asked
from training.scenes.solids.captions import NUMBERS, PLACE_WORDS, TIME_WORDS, Caption
from training.scenes.solids.scene import (
    COLOUR_NAMES,
    MATERIALS,
    MAX_COUNT,
    PLACES,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    Thing,
    several,
    stand,
)

COMPARED = ("prior", "text")
SHOWN = 12
WORDED = {"above": "on top of", "left": "left of", "front": "in front of"}


@dataclass(frozen=True)
class Trial:
    """A caption, a scene that it is true of, and what a mixed-up image of it would show."""

    said: Caption
    scene: Scene
    swapped: Caption | None = None


def binding(count: int, rng: random.Random, *, alike: bool) -> list[Trial]:
    """ "a red cube on top of a blue cube": two colours, one above, left of or in front of the other; of one shape or two."""
    found = []
    for _ in range(count):
        relation = rng.choice(list(WORDED))
        colours = rng.sample(COLOUR_NAMES, 2)
        shapes = rng.sample(SHAPES, 2)
        if alike:
            shapes = [shapes[0]] * 2
        first, second = (
            Thing(s, c, "large", "matte", yaw=0.3) for s, c in zip(shapes, colours, strict=True)
        )
        shown = Scene(
            "pair",
            stand(rng, first, second, relation),
            relation,
            rng.choice(PLACES),
            "day",
            "photo",
        )
        claims = tuple({"colour": c, "shape": s} for c, s in zip(colours, shapes, strict=True))
        mixed = tuple(
            {"colour": c, "shape": s} for c, s in zip(reversed(colours), shapes, strict=True)
        )
        text, other = (
            f"a {c[0]} {shapes[0]} {WORDED[relation]} a {c[1]} {shapes[1]}"
            for c in (colours, colours[::-1])
        )
        base = {"kind": "pair", "relation": relation}
        found.append(
            Trial(
                Caption(text, base | {"things": claims}),
                shown,
                Caption(other, base | {"things": mixed}),
            )
        )
    return found


def counting(number: int, count: int, rng: random.Random) -> list[Trial]:
    """ "three red spheres"."""
    found = []
    for _ in range(count):
        thing = Thing(rng.choice(SHAPES), rng.choice(COLOUR_NAMES), "small", rng.choice(MATERIALS))
        things = tuple(
            replace(t, shape=thing.shape, colour=thing.colour) for t in several(rng, number)
        )
        claims = {
            "kind": "count",
            "count": number,
            "things": ({"colour": thing.colour, "shape": thing.shape},),
        }
        said = Caption(f"{NUMBERS[number]} {thing.colour} {thing.shape}s", claims)
        found.append(Trial(said, Scene("count", things, None, rng.choice(PLACES), "day", "photo")))
    return found


def crowded(details: int, count: int, rng: random.Random) -> list[Trial]:
    """Two things in relation and so many details of them told: colours and shapes (4), then sizes (6), materials (8), place and time "
    "(10)."""
    found = []
    for trial in binding(count, rng, alike=False):
        things = tuple(
            replace(t, size=rng.choice(SIZES), material=rng.choice(MATERIALS))
            for t in trial.scene.things
        )
        told = ["size"] * (details >= 6) + ["material"] * (details >= 8)
        nouns = [
            " ".join([*(str(getattr(t, what)) for what in told), t.colour, t.shape]) for t in things
        ]
        text = f"a {nouns[0]} {WORDED[str(trial.scene.relation)]} a {nouns[1]}"
        claims = trial.said.claims | {
            "things": tuple({w: getattr(t, w) for w in (*told, "colour", "shape")} for t in things)
        }
        time = rng.choice(("day", "night"))
        if details >= 10:
            text += f" {PLACE_WORDS[trial.scene.place]} {TIME_WORDS[time]}"
            claims |= {"place": trial.scene.place, "time": time}
        stood = stand(rng, things[0], things[1], str(trial.scene.relation))
        found.append(Trial(Caption(text, claims), replace(trial.scene, things=stood, time=time)))
    return found


def signs(count: int, rng: random.Random) -> list[Trial]:
    """ "a sign that says HELLO"."""
    found = []
    for _ in range(count):
        word = rng.choice(WORDS)
        said = Caption(f"a sign that says {word}", {"kind": "sign", "word": word})
        found.append(Trial(said, Scene("sign", (), None, rng.choice(PLACES), "day", "photo", word)))
    return found


@dataclass(frozen=True)
class Judged:
    """Images of trials, and for each whether it is right."""

    images: Tensor
    right: list[bool]

    @property
    def share(self) -> Estimate:
        return share(sum(self.right), len(self.right))


def judge(bench: Bench, tried: Sequence[Trial], way: str, what: str = "core") -> Judged:
    """Draw the trials in a way ("drawings": their own scenes) and judge them."""
    texts = [trial.said.text for trial in tried]
    images = (
        drawings([trial.scene for trial in tried])
        if way == "drawings"
        else bench.draw(texts, range(len(texts)), way)
    )
    return Judged(images, judged(bench.reader, images, [trial.said for trial in tried])[what])


def run(bench: Bench, count: int) -> str:
    """`count` captions of each sort of limit; half as many of each number and each amount of detail."""
    rng = random.Random(0)
    half = max(1, count // 2)
    failures: list[tuple[Tensor, str]] = []

    def keep(tried: Sequence[Trial], found: Judged) -> None:
        wrong = [
            (found.images[k], trial.said.text)
            for k, trial in enumerate(tried)
            if not found.right[k]
        ]
        failures.extend(wrong[: SHOWN // 4])

    parts = [
        "Captions here are as plain as can be, and training may have read them.",
        *_binding(bench, count, rng, keep),
    ]
    numbers = {n: counting(n, half, rng) for n in range(2, MAX_COUNT + 1)}
    opening = "**Counting**, which the paper does not speak of."
    parts += _compared(
        bench,
        opening,
        "things",
        {str(n): tried for n, tried in numbers.items()},
        "core",
        keep,
        papers=False,
    )
    details = {str(n): crowded(n, half, rng) for n in (4, 6, 8, 10)}
    parts += _compared(
        bench,
        "**Crowded scenes** (Fig. 17, where detail was lost). Two things in relation, and ever more said of them; right is all that was "
        "said.",
        "details said",
        details,
        "all",
        keep,
    )
    parts += _signs(bench, signs(count, rng), keep)
    parts.append(_failures(bench, failures))
    return "\n\n".join(parts)


Keep = Callable[[Sequence[Trial], Judged], None]


def _binding(bench: Bench, count: int, rng: random.Random, keep: Keep) -> list[str]:
    """Fig. 14: how often the colours are swapped, through the prior and from text only; and whether CLIP tells the two captions apart."""
    rows = []
    swaps = dict[str, Estimate]()
    for name, alike in (("one shape, two colours", True), ("two shapes, two colours", False)):
        tried = binding(count, rng, alike=alike)
        for way in (*COMPARED, "drawings"):
            found = judge(bench, tried, way)
            answers = bench.reader.read(found.images)
            mixed = [
                agree(a, asked(trial.swapped))
                for a, trial in zip(answers, tried, strict=True)
                if trial.swapped is not None
            ]
            swapped = share(sum(mixed), count)
            if not alike:
                swaps[way] = swapped
            if way == "prior":
                keep(tried, found)
            rows.append(
                [name, WAYS.get(way, "the drawings"), percent(found.share), percent(swapped)]
            )
        told = share(_told(bench, tried), count)
        rows.append(
            [
                name,
                "CLIP, of the drawing",
                percent(told),
                percent(Estimate(1 - told.value, 1 - told.high, 1 - told.low)),
            ]
        )
    return [
        '**Binding** (Fig. 14). "A red cube on top of a blue cube": images with the things as said, and with their colours swapped, '
        "in per "
        f"cent of {count}. CLIP's line: which of the two captions is nearer to the drawing.",
        table(["captions", "by", "as said", "swapped"], rows),
        verdict(
            below(swaps["text"], swaps["prior"]),
            "text only, which attends to the words, swaps colours less often than unCLIP, which goes through one z_i.",
        ),
    ]


def _told(bench: Bench, tried: Sequence[Trial]) -> int:
    """How many drawings CLIP holds for the right one of the caption and the one with swapped colours."""
    z_i = F.normalize(embed(bench.pipeline, drawings([trial.scene for trial in tried])), dim=1)
    right, wrong = (
        F.normalize(embed_text(bench.pipeline, [said.text for said in captions]), dim=1)
        for captions in (
            [trial.said for trial in tried],
            [trial.swapped for trial in tried if trial.swapped is not None],
        )
    )
    return int(((z_i * right).sum(1) > (z_i * wrong).sum(1)).sum())


def _compared(
    bench: Bench,
    opening: str,
    head: str,
    groups: dict[str, list[Trial]],
    what: str,
    keep: Keep,
    *,
    papers: bool = True,
) -> list[str]:
    """A table of groups of trials by the share that is right, and whether it falls from the first to the last."""
    rows = []
    shares = list[Estimate]()
    for name, tried in groups.items():
        found = judge(bench, tried, "prior", what)
        own = judge(bench, tried, "drawings", what)
        keep(tried, found)
        shares.append(found.share)
        rows.append([name, str(len(tried)), percent(found.share), percent(own.share)])
    first, *_, last = groups
    return [
        opening,
        table([head, "of", "right, %", "the drawings"], rows),
        verdict(
            below(shares[-1], shares[0]),
            f"at {last} {head} fewer images are right ({100 * shares[-1].value:.0f} %) than at {first} ({100 * shares[0].value:.0f} %).",
            papers=papers,
        ),
    ]


def _signs(bench: Bench, tried: list[Trial], keep: Keep) -> list[str]:
    """Fig. 16."""
    rows = []
    words = dict[str, Estimate]()
    for way in (*COMPARED, "drawings"):
        found = judge(bench, tried, way, "word")
        boards = [answers["kind"] == "sign" for answers in bench.reader.read(found.images)]
        words[way] = found.share
        if way == "prior":
            keep(tried, found)
        rows.append(
            [
                WAYS.get(way, "the drawings"),
                percent(share(sum(boards), len(boards))),
                percent(found.share),
            ]
        )
    lengths = [len(word) for word in WORDS]
    blind = sum(1 / lengths.count(len(str(trial.scene.word))) for trial in tried) / len(tried)
    return [
        f"**Text** (Fig. 16). {len(tried)} signs with a word: that there is a sign, and that its board is more like the drawing of that "
        "word "
        f"than of any other of {len(WORDS)}, in per cent. Who knew a word's length and no letter would be right in {100 * blind:.0f}.",
        table(["by", "a sign", "its word"], rows),
        verdict(
            below(words["prior"], words["drawings"]), "words are not written as they should be."
        ),
        f"- {'More than by chance, all the same' if words['prior'].low > blind else 'No more than by chance'}: "
        f"{100 * words['prior'].value:.0f} % of unCLIP's can be told from other words.",
    ]


def _failures(bench: Bench, failures: list[tuple[Tensor, str]]) -> str:
    """The contact sheet."""
    if not failures:
        return "None of the images was wrong."
    shown = failures[: 2 * SHOWN]
    columns = 8
    rows = [shown[k : k + columns] for k in range(0, len(shown), columns)]
    sheet(
        [torch.stack([image for image, _ in row]) for row in rows],
        bench.figure("failures.jpg"),
        under=[[wrapped(text) for _, text in row] for row in rows],
    )
    return "Failures of each sort, as they came:\n\n" + embedded(
        "failures.jpg", "Images that are not what their caption says"
    )
