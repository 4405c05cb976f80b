"""`python -m training.evaluate`: how often a checkpoint draws what the caption says, counted by the scene reader.

Captions are of fresh scenes and in words that training never read (see captions.held_out); pairs "kept back" are of (colour, shape,
relation) combinations that training never drew. Beside each figure stands the same count over the scenes' own drawings: what the
reader is worth, and the upper limit of the figure.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from models import UnCLIP
from training.captions import Caption, caption
from training.reader import Reader, agree, asked
from training.render import render
from training.scene import MIXES, Scene, Split, scene

READER = Path(__file__).parent / "reader.safetensors"
BATCH = 32
# What counts as right beside everything that was said: the things themselves and how they stand.
_CORE = ("kind", "relation", "count", "colour0", "shape0", "colour1", "shape1")
Draw = Callable[[list[str], list[int]], Tensor]


@dataclass(frozen=True)
class Sort:
    """One sort of caption: which scenes it is taken from."""

    kind: str
    split: Split = "fresh"


SORTS = {
    "one object": Sort("one"),
    "two in relation": Sort("pair"),
    "two in relation, kept back": Sort("pair", "kept back"),
    "count": Sort("count"),
    "sign": Sort("sign"),
}


def load_reader(path: Path = READER) -> Reader:
    """The scene reader from its file."""
    reader = Reader()
    reader.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()})
    return reader.eval()


def captioned(sort: Sort, mix: str) -> Iterator[tuple[Scene, Caption]]:
    """Fresh scenes of this sort with captions that training never read, without end and without repeats of a caption."""
    said, index = set(), 0
    while True:
        shown = scene(index, MIXES[mix], sort.split)
        index += 2
        if shown.kind != sort.kind:
            continue
        try:
            words = caption(shown, random.Random(index), held=True)
        except LookupError:
            continue
        if words.text not in said:
            said.add(words.text)
            yield shown, words


def judged(reader: Reader, pictures: Tensor, captions: list[Caption]) -> dict[str, list[bool]]:
    """Of pictures `[B, 3, 64, 64]`: whether the things ("core") and whether all that was said ("all") is right; and each claim."""
    right: dict[str, list[bool]] = {}
    for answers, said in zip(reader.read(pictures), captions, strict=True):
        wanted = asked(said)
        right.setdefault("core", []).append(agree(answers, {q: wanted[q] for q in _CORE if q in wanted}))
        right.setdefault("all", []).append(agree(answers, wanted))
        for question in ("place", "time", "style", "colour0", "shape0", "colour1", "shape1", "relation", "count"):
            if question in wanted:
                right.setdefault(question, []).append(answers[question] == wanted[question])
        letters = {q: a for q, a in wanted.items() if q.startswith("letter")}
        if letters:
            right.setdefault("word", []).append(agree(answers, letters))
    return right


def count_right(draw: Draw | None, reader: Reader, sort: Sort, mix: str, count: int, label: str) -> dict[str, Any]:
    """The shares of right pictures among `count` captions; `draw` None judges the scenes' own drawings."""
    right: dict[str, list[bool]] = {}
    source = captioned(sort, mix)
    for start in tqdm(range(0, count, BATCH), desc=label, leave=False):
        pairs = [next(source) for _ in range(min(BATCH, count - start))]
        captions = [said for _, said in pairs]
        if draw is None:
            pictures = render([shown for shown, _ in pairs], 64)
        else:
            pictures = draw([said.text for said in captions], list(range(start, start + len(pairs))))
        for question, values in judged(reader, pictures, captions).items():
            right.setdefault(question, []).extend(values)
    return {question: {"right": sum(values), "of": len(values)} for question, values in right.items()}


def evaluate(stack: UnCLIP, reader: Reader, mix: str, counts: dict[str, int], **parameters: Any) -> dict[str, Any]:
    """The report: for each sort of caption, the checkpoint's counts and the drawings' own."""

    def draw(prompts: list[str], seeds: list[int]) -> Tensor:
        return stack.generate(prompts, seeds=seeds, size=64, **parameters)

    report: dict[str, Any] = {
        "checkpoint": stack.name,
        "mix": mix,
        "parameters": stack.resolve(size=64, **parameters).as_dict(),
        "sorts": {},
    }
    started = time.perf_counter()
    for name, count in counts.items():
        report["sorts"][name] = {
            "checkpoint": count_right(draw, reader, SORTS[name], mix, count, name),
            "drawings": count_right(None, reader, SORTS[name], mix, count, f"{name}, drawn"),
        }
    report["seconds"] = round(time.perf_counter() - started, 1)
    return report


def share(counts: dict[str, Any] | None) -> str:
    """Right of all, in per cent."""
    return f"{100 * counts['right'] / counts['of']:.1f} %" if counts else "–"


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "| captions | of | things right | all that was said right | the drawings themselves: things | all |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, sort in report["sorts"].items():
        drawn, own = sort["checkpoint"], sort["drawings"]
        cells = [name, str(drawn["core"]["of"]), share(drawn["core"]), share(drawn["all"]), share(own["core"]), share(own["all"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| claim, over all captions that make it | of | right | the drawings themselves |", "| --- | --- | --- | --- |"]
    for question in ("colour0", "shape0", "colour1", "shape1", "relation", "count", "place", "time", "style", "word"):
        drawn, own = (_summed(report, who, question) for who in ("checkpoint", "drawings"))
        if drawn:
            lines.append(f"| {question} | {drawn['of']} | {share(drawn)} | {share(own)} |")
    return "\n".join(lines) + "\n"


def _summed(report: dict[str, Any], who: str, question: str) -> dict[str, int] | None:
    counts = [sort[who][question] for sort in report["sorts"].values() if question in sort[who]]
    return {key: sum(count[key] for count in counts) for key in ("right", "of")} if counts else None


def main() -> None:
    """Count, print the table, and write the report where asked."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None, help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--reader", type=Path, default=READER)
    parser.add_argument("--mix", choices=MIXES, default="objects")
    parser.add_argument("--count", type=int, default=512, help="captions of each sort")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=None, help="decoder_num_inference_steps (default: the checkpoint's)")
    parser.add_argument("--prior", default=None, help="diffusion or autoregressive (default: the checkpoint's)")
    parser.add_argument("--guidance", type=float, default=None, help="decoder_guidance_scale (default: the checkpoint's)")
    parser.add_argument("--json", type=Path, default=None, help="write the report here")
    arguments = parser.parse_args()
    given = {
        "prior": arguments.prior,
        "decoder_num_inference_steps": arguments.steps,
        "decoder_guidance_scale": arguments.guidance,
    }
    stack = UnCLIP.load(arguments.checkpoint, arguments.device)
    report = evaluate(stack, load_reader(arguments.reader), arguments.mix, dict.fromkeys(SORTS, arguments.count), **given)
    print(table(report))
    print(
        f"{report['seconds']} s, {report['parameters']['prior']} prior, "
        f"decoder steps {report['parameters']['decoder_num_inference_steps']}, "
        f"guidance {report['parameters']['decoder_guidance_scale']}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
