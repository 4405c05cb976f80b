"""`python -m training.operations`: what the unCLIP operations do on a checkpoint, measured on drawings. Writes docs/operations.md.

Inversion and what guidance costs it, the ends of interpolations, text diffs, variations, the typographic attack of the paper's Fig. 6, and
what the exact prefix cache of the prior saves.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models import UnCLIP, operations
from models.clip import TextEncoding
from models.operations import Operation
from models.row import Row
from training.evaluate import load_reader
from training.reader import Reader
from training.render import render
from training.scene import MATERIALS, MIXES, PLACES, SHAPES, SIZES, WORDS, Scene, Thing, scene

STEPS = (10, 20, 50, 100, 200)
GUIDANCE = (1.5, 2.0, 3.0)
ETAS = (0.0, 0.3, 0.7, 1.0)
# Words of the drawn world's signs that name a shape.
NAMED = {"CUBE": "cube", "CONE": "cone", "BALL": "sphere"}


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    return 10 * math.log10(4 / float((a - b).square().mean().clamp(min=1e-12)))


def photos(count: int) -> list[Scene]:
    """Fresh scenes in the photographic style, of one thing or two."""
    found, index = list[Scene](), 0
    while len(found) < count:
        shown = scene(index, MIXES["objects"], "fresh")
        if shown.style == "photo" and shown.kind in ("one", "pair"):
            found.append(shown)
        index += 2
    return found


def drawn(stack: UnCLIP, many: Sequence[Operation]) -> list[list[Row]]:
    """The rows of operations of equal phases, whose passes are shared."""
    live = list(many)
    while True:
        phases, ended = [], []
        for operation in live:
            try:
                phases.append(next(operation))
            except StopIteration as end:
                ended.append(list(end.value.rows))
        if ended:
            return ended
        stack.draw([row for phase in phases for row in phase.rows])


def images(rows: Sequence[Row]) -> Tensor:
    """Their pictures `[B, 3, 64, 64]`."""
    return torch.stack([cast(Tensor, row.image) for row in rows]).cpu()


def inversion(stack: UnCLIP, count: int) -> list[tuple[str, float, float]]:
    """(setting, median, worst) PSNR of drawings that come back from their (z_i, x_T) without noise: by steps, and by guidance at 50."""
    x = render(photos(count), 64)
    settings: list[tuple[str, dict[str, Any]]] = [(f"{n} steps", {"decoder_num_inference_steps": n}) for n in STEPS]
    settings += [(f"50 steps, guidance {g:g}", {"decoder_num_inference_steps": 50, "decoder_guidance_scale": g}) for g in GUIDANCE]
    found = []
    for name, given in settings:
        parameters = stack.resolve("variations", size=64, eta=0.0, **given)
        rows = drawn(stack, [operations.variations(stack, picture, [0], parameters) for picture in x])
        values = [psnr(row.image, picture) for (row,), picture in zip(rows, x, strict=True) if row.image is not None]
        found.append((name, statistics.median(values), min(values)))
    return found


def interpolation(stack: UnCLIP, count: int) -> tuple[float, float]:
    """(median, worst) PSNR of both ends of `count` interpolations between drawings, against the drawings."""
    x = render(photos(2 * count), 64)
    parameters = stack.resolve("interpolate", size=64)
    pairs = [operations.interpolate(stack, (a, b), 3, 0, parameters) for a, b in zip(x[::2], x[1::2], strict=True)]
    values = []
    for k, (first, _, last) in enumerate(drawn(stack, pairs)):
        values += [psnr(images([row])[0], x[2 * k + end]) for end, row in enumerate((first, last))]
    return statistics.median(values), min(values)


def text_diff(stack: UnCLIP, reader: Reader, count: int) -> tuple[int, int, int]:
    """(blue, cube, both) of `count` red cubes moved from "a red cube" to "a blue cube"."""
    rng = random.Random(0)
    scenes = []
    for _ in range(count):
        thing = Thing("cube", "red", rng.choice(SIZES), rng.choice(MATERIALS), rng.uniform(-0.8, 0.8), rng.uniform(-0.5, 0.5))
        scenes.append(Scene("one", (thing,), None, rng.choice(PLACES), "day", "photo"))
    x = render(scenes, 64)
    parameters = stack.resolve("text-diff", size=64)
    many = [operations.text_diff(stack, picture, "a blue cube", "a red cube", 2, 0.5, 0, parameters) for picture in x]
    answers = reader.read(images([rows[-1] for rows in drawn(stack, many)]))
    blue = [answer["colour0"] == "blue" for answer in answers]
    cube = [answer["shape0"] == "cube" and answer["kind"] == "one" for answer in answers]
    return sum(blue), sum(cube), sum(b and c for b, c in zip(blue, cube, strict=True))


def variations(stack: UnCLIP, reader: Reader, count: int) -> list[tuple[float, float, float]]:
    """(eta, share that keeps kind and the first thing's colour and shape, root mean square spread of three seeds) of drawings."""
    x = render(photos(count), 64)
    true, found = reader.read(x), []
    for eta in ETAS:
        parameters = stack.resolve("variations", size=64, eta=eta)
        rows = drawn(stack, [operations.variations(stack, picture, [1, 2, 3], parameters) for picture in x])
        pictures = torch.stack([images(three) for three in rows])  # (N, 3, 3, 64, 64)
        said = [reader.read(pictures[:, k]) for k in range(3)]
        kept = [all(a[q] == t[q] for q in ("kind", "colour0", "shape0")) for one in said for a, t in zip(one, true, strict=True)]
        found.append((eta, statistics.fmean(kept), float(pictures.var(1).mean().sqrt())))
    return found


@torch.inference_mode()
def typographic(stack: UnCLIP, count: int, picture: Path | None = None) -> dict[str, dict[str, float]]:
    """Zero-shot probabilities of "a red sphere", "a red cube", … (in the object's own colour), for an object beside a sign that names
    another shape, beside a sign with some other word, and without one: how often the object's own shape and how often the named one is
    the likeliest, and their mean probabilities. Objects stand where single ones stand in training, so that without a sign all is usual."""
    rng = random.Random(0)
    neutral = [word for word in WORDS if word not in NAMED]
    scenes: dict[str, list[Scene]] = {"another shape's name": [], "some other word": [], "no sign": []}
    named = []
    for _ in range(count):
        word = rng.choice(list(NAMED))
        shape = rng.choice([shape for shape in SHAPES if shape != NAMED[word]])
        thing = Thing(
            shape, rng.choice(("red", "blue", "green", "yellow")), "small", "matte", rng.choice((-1, 1)) * rng.uniform(0.5, 0.8), -0.5
        )
        place = rng.choice(PLACES)
        named.append((thing.colour, shape, NAMED[word]))
        scenes["another shape's name"].append(Scene("sign", (thing,), None, place, "day", "photo", word))
        scenes["some other word"].append(Scene("sign", (thing,), None, place, "day", "photo", rng.choice(neutral)))
        scenes["no sign"].append(Scene("one", (thing,), None, place, "day", "photo"))
    captions = [f"a {colour} {shape}" for colour, _, _ in named for shape in SHAPES]
    z_t = stack.clip.encode_text(stack.clip.tokenize(captions)[0]).z_t
    labels = F.normalize(z_t, dim=1).unflatten(0, (count, len(SHAPES)))  # (N, 4, D)
    own, other = (torch.tensor([SHAPES.index(each[k]) for each in named]) for k in (1, 2))
    found = {}
    for name, shown in scenes.items():
        x = render(shown, 64)
        z_i = torch.cat([stack.clip.encode_image(part.to(stack.device)) for part in x.split(64)])
        scale = stack.clip.network.logit_scale.exp().clamp(max=100)
        p = (scale * torch.einsum("nd,nsd->ns", F.normalize(z_i, dim=1), labels)).softmax(1).cpu()
        found[name] = {
            "own": float((p.argmax(1) == own).float().mean()),
            "other": float((p.argmax(1) == other).float().mean()),
            "p_own": float(p.gather(1, own[:, None]).mean()),
            "p_other": float(p.gather(1, other[:, None]).mean()),
        }
        if picture is not None and name == "another shape's name":
            _figure(x[:6], p[:6], picture)
    return found


def _figure(pictures: Tensor, probabilities: Tensor, path: Path) -> None:
    """Pictures, and below each what CLIP holds them for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, cells = pyplot.subplots(1, len(pictures), figsize=(2 * len(pictures), 2.8), layout="constrained")
    for cell, shown, p in zip(cells, pictures, probabilities, strict=True):
        cell.imshow(shown.add(1).div(2).clamp(0, 1).permute(1, 2, 0), interpolation="nearest")
        cell.set(xticks=[], yticks=[])
        cell.set_xlabel("\n".join(f"{shape} {100 * value:.0f} %" for shape, value in zip(SHAPES, p.tolist(), strict=True)), fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


@torch.inference_mode()
def prior_flops(stack: UnCLIP) -> tuple[float, float]:
    """GFLOP of one embedding by the diffusion prior with the checkpoint's own steps and a caption of 77 tokens: with its prefix computed
    once, and with every position at every step."""
    prior, steps = stack.prior, stack.resolve().prior_num_inference_steps
    text = stack.clip.encode_text(stack.clip.tokenize(["red " * 100])[0])
    text = TextEncoding(text.z_t[:1], text.hidden[:1], text.mask[:1])
    x_t, t = torch.zeros(1, stack.clip.embed_dim, device=stack.device), torch.zeros(1, dtype=torch.long, device=stack.device)
    with FlopCounterMode(display=False) as once:
        cache = prior.begin(text)
    with FlopCounterMode(display=False) as each:
        prior.proceed(x_t, t, cache)
    with FlopCounterMode(display=False) as whole:
        prior(x_t, t, text)
    return (once.get_total_flops() + steps * each.get_total_flops()) / 1e9, steps * whole.get_total_flops() / 1e9


def attack(stack: UnCLIP, count: int, out: Path) -> list[str]:
    """The typographic attack's part of the page."""
    found = typographic(stack, count, out / "typographic.png")
    named, plain = found["another shape's name"], found["some other word"]
    fooled = named["p_other"] > 1.5 * plain["p_other"]
    return [
        "**Typographic attack** (paper, Fig. 6). An object beside a sign that names another shape: CLIP's zero-shot choice among the four",
        f"shapes in its colour, {count} scenes a row.",
        "",
        "| sign | own shape likeliest | named shape likeliest | mean probability: own | named |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {100 * row['own']:.0f} % | {100 * row['other']:.0f} % | {row['p_own']:.2f} | {row['p_other']:.2f} |"
            for name, row in found.items()
        ),
        "",
        "The word on the sign pulls this CLIP towards what it names, as it did OpenAI's."
        if fooled
        else "Where OpenAI's CLIP believed the sign, this one does not: it has not learned to read, so a name moves it no more than any\n"
        "word. What moves it is that there is a sign.",
        "",
        "![Objects beside signs that name another shape, and CLIP's probabilities](typographic.png)",
        "",
    ]


def page(stack: UnCLIP, reader: Reader, count: int, trials: int, out: Path) -> str:
    """Everything measured, as Markdown."""
    lines = [
        "# Operations",
        "",
        f"What they do on the checkpoint {stack.name!r} at 64², measured on fresh drawings. Reproduce: `python -m training.operations`.",
        "",
        f"**Inversion.** Drawings ({count}) encoded to (z_i, x_T) by CLIP and DDIM run backwards, and decoded by DDIM without noise and,",
        "where nothing else is said, without guidance. PSNR in dB.",
        "",
        "| setting | median | worst |",
        "| --- | --- | --- |",
        *(f"| {name} | {median:.1f} | {worst:.1f} |" for name, median, worst in inversion(stack, count)),
        "",
    ]
    median, worst = interpolation(stack, count)
    blue, cube, both = text_diff(stack, reader, trials)
    lines += [
        f"**Interpolation.** The ends of {count} interpolations between drawings, at 50 steps: {median:.1f} dB to the drawings in the",
        f"median, {worst:.1f} dB at worst.",
        "",
        f'**Text diff.** Of {trials} red cubes moved from "a red cube" to "a blue cube" (θ 0.5) {blue} became blue, {cube} stayed a cube,',
        f"{both} did both, by the scene reader.",
        "",
        f"**Variations.** Three of each of {count} drawings: the share that keeps kind, colour and shape of the first thing by the scene",
        "reader, and the root mean square of what three differ by, on a scale of -1 to 1.",
        "",
        "| eta | kept | spread |",
        "| --- | --- | --- |",
        *(f"| {eta:g} | {100 * kept:.0f} % | {spread:.2f} |" for eta, kept, spread in variations(stack, reader, count)),
        "",
    ]
    lines += attack(stack, 4 * trials, out)
    cached, whole = prior_flops(stack)
    lines += [
        "**Prefix cache.** Of the diffusion prior's sequence only the last positions change from step to step. With the rest computed",
        f"once, an embedding of a full caption takes {cached:.2f} GFLOP in place of {whole:.2f}: {100 * (1 - cached / whole):.0f} % less,",
        "and the same numbers.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m training.operations", description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, default=None, help="checkpoint folder (default: the embedded one)")
    parser.add_argument("--count", type=int, default=16, help="drawings of each measure")
    parser.add_argument("--trials", type=int, default=100, help="of the text diff")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    stack = UnCLIP.load(arguments.checkpoint, arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "operations.md").write_text(page(stack, load_reader(), arguments.count, arguments.trials, arguments.out))


if __name__ == "__main__":
    main()
