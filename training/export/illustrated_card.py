"""The card of the illustrated world's checkpoint: what it draws, how often, and its sources."""

from __future__ import annotations

from dataclasses import dataclass

from training.evaluation.illustrated import ROWS
from training.evaluation.words import Accuracy
from training.scenes.illustrated.fetch import notice

GOOD_SHARE = 0.8  # a name counts as drawn when this share of its images is right


@dataclass(frozen=True)
class Figures:
    """Everything that the card reports, all of it measured."""

    rows: dict[
        str, dict[str, dict[str, float]]
    ]  # row -> "images" and "renders" -> question -> share
    count: int  # captions of each row
    names: dict[str, float]  # label -> share of right images of "a LABEL"
    groups: dict[str, str]  # label -> group
    styles: dict[str, dict[str, float]]  # style -> question -> share
    words: dict[str, Accuracy]
    photographs: Accuracy | None
    trained: dict[str, str]  # network -> "parameters, steps x batch"
    steps: int  # denoising steps of the decoder


def per_cent(share: float | None) -> str:
    """Return a share as a whole number of per cent, a dash for none."""
    return "–" if share is None else f"{100 * share:.0f} %"


def write_card(figures: Figures) -> str:
    """Return CARD.md."""
    good_names = sorted(label for label, share in figures.names.items() if share >= GOOD_SHARE)
    return f"""# illustrated-world

The bundled checkpoint: a small unCLIP pipeline for things people know, drawn as stickers in four
styles. Its CLIP starts from MiniLM and EfficientNet-Lite0, so it understands words that it never
saw in a caption.

## What it draws

{len(good_names)} of {len(figures.names)} names are right in {per_cent(GOOD_SHARE)} or more of their
images: {", ".join(good_names)}.

{_group_table(figures)}

## Accuracy on captions of fresh scenes

{figures.count} captions a row, 64² images, {figures.steps} steps, no guidance. The judge is a
network of its own; its accuracy on the scenes' renders is the upper bound of each figure.

{_row_table(figures)}

| style | name right | style right |
| --- | --- | --- |
{_style_lines(figures)}

## Words

| words | nearest label | among five | count |
| --- | --- | --- | --- |
{_word_lines(figures)}

Nouns kept back are in no training text. Photographs are of single things on white; no photograph
was trained on.

## Networks

| network | parameters and training |
| --- | --- |
{chr(10).join(f"| {name} | {text} |" for name, text in figures.trained.items())}

## Limits

It draws the things in `vocabulary.json`. Other nouns are drawn as the nearest thing, and the job
reports it. Letters on signs, more than five things, and actions are beyond it.

## Data and licences

{notice()}
The art itself is not part of this checkpoint. Apache-2.0, as the rest of the project.
"""


def _group_table(figures: Figures) -> str:
    lines = ["| group | names | drawn |", "| --- | --- | --- |"]
    for group in dict.fromkeys(figures.groups.values()):
        shares = [figures.names[label] for label, one in figures.groups.items() if one == group]
        lines.append(
            f"| {group} | {len(shares)} | {sum(share >= GOOD_SHARE for share in shares)} |"
        )
    return "\n".join(lines)


def _row_table(figures: Figures) -> str:
    questions = ("all", "names", "first", "five", "style", "colour", "count", "worn", "relation")
    lines = [
        f"| captions | {' | '.join(questions)} | judge, all |",
        "| --- |" + " --- |" * (len(questions) + 1),
    ]
    for row in ROWS:
        if row in figures.rows:
            shares = figures.rows[row]["images"]
            cells = [per_cent(shares.get(question)) for question in questions]
            lines.append(
                f"| {row} | {' | '.join(cells)} | {per_cent(figures.rows[row]['renders']['all'])} |"
            )
    return "\n".join(lines)


def _style_lines(figures: Figures) -> str:
    return "\n".join(
        f"| {style} | {per_cent(shares.get('first'))} | {per_cent(shares.get('style'))} |"
        for style, shares in figures.styles.items()
    )


def _word_lines(figures: Figures) -> str:
    accuracies = dict(figures.words)
    if figures.photographs is not None:
        accuracies["photographs"] = figures.photographs
    return "\n".join(
        f"| {kind} | {per_cent(accuracy.first)} | {per_cent(accuracy.five)} | {accuracy.count} |"
        for kind, accuracy in accuracies.items()
    )
