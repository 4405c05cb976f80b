"""What unCLIP can do beside drawing a caption (paper §3): variations, interpolation, text diffs, edits, probes, embeddings.

An operation is a generator: it yields phases, rows to be moved to their end, and returns its outcome. So each
reads from top to bottom, and whoever drives it (`run` here, the worker's engine there) may draw its rows among others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.parameters import Parameters
from models.pipeline import UnCLIP
from models.row import Conditioning, Row, Source


@dataclass(frozen=True)
class Outcome:
    """Rows that hold an image each, in order, what is to be told beside them, and what was not done as asked."""

    rows: Sequence[Row] = ()
    result: dict[str, Any] | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Phase:
    """Rows that may run at once; `progress` is the share of the operation that ends with them.

    `progress` is a rough estimate in (0, 1]; the last phase of an operation has 1."""

    rows: Sequence[Row]
    progress: float = 1.0


Operation = Generator[Phase, None, Outcome]
# Share of an operation that z_i and x_T take; decoding them takes the rest.
LATENTS_PROGRESS = 0.3


@dataclass(frozen=True)
class Ingredient:
    """One part of a mixture: a caption, an image `[3, S, S]` or an image embedding `[D]`, and its weight."""

    content: str | Tensor
    weight: float = 1.0


def drive(operation: Operation, run_phase: Callable[[Phase], None]) -> Outcome:
    """Run an operation to its end and return its outcome.

    `run_phase` moves the rows of one phase until each has an image, a conditioning or an error.
    Exceptions of the operation and of `run_phase` propagate."""
    while True:
        try:
            phase = next(operation)
        except StopIteration as end:
            return cast(Outcome, end.value)
        run_phase(phase)


def rescale(operation: Operation, start: float, stop: float) -> Operation:
    """Map the progress of an operation's phases from 0..1 to `start`..`stop`.

    It serves operations that are one part of a longer one: `outcome = yield from rescale(...)`."""
    while True:
        try:
            phase = next(operation)
        except StopIteration as end:
            return cast(Outcome, end.value)
        yield replace(phase, progress=start + (stop - start) * phase.progress)


def run(pipeline: UnCLIP, operation: Operation) -> Outcome:
    """Run an operation in this process and return its outcome; RuntimeError if a row failed."""
    return drive(operation, lambda phase: pipeline.run(phase.rows))


def generate(
    pipeline: UnCLIP, prompt: str, seeds: Sequence[int], parameters: Parameters
) -> Operation:
    """An image of the caption for each seed."""
    rows = [pipeline.row(prompt, seed, parameters) for seed in seeds]
    yield Phase(rows)
    return Outcome(rows)


def compose(
    pipeline: UnCLIP, mixture: Sequence[Ingredient], seeds: Sequence[int], parameters: Parameters
) -> Operation:
    """An image of a weighted sum of image embeddings for each seed. Captions go through the prior first, with the first seed;
    the sum has unit norm again, or else the parts' mean norm where the checkpoint's embeddings have no unit norm."""
    sources = [
        _end_row(pipeline, part.content, seeds[0], parameters)
        for part in mixture
        if not _is_embedding(part.content)
    ]
    blank = pipeline.prompt_row("", 0, parameters, prior=False)
    yield Phase([*sources, blank], LATENTS_PROGRESS)
    found = iter(sources)
    parts = [
        cast(Tensor, part.content).to(pipeline.device)
        if _is_embedding(part.content)
        else cast(Tensor, _latent(next(found)).z_i)
        for part in mixture
    ]
    wrong = [part for part in parts if part.shape != (pipeline.clip.embed_dim,)]
    if wrong:
        raise ValueError(
            f"z_i has {len(wrong[0])} numbers: checkpoint {pipeline.name!r} has image embeddings of {pipeline.clip.embed_dim}"
        )
    total = sum(
        (part.weight * z_i for part, z_i in zip(mixture, parts, strict=True)),
        torch.zeros_like(parts[0]),
    )
    if not total.norm() > 0:
        raise ValueError("the mix adds up to nothing: change its weights")
    norm = 1.0 if pipeline.clip.unit_norm else float(torch.stack(parts).norm(dim=1).mean())
    latent = replace(_latent(blank), z_i=F.normalize(total, dim=0) * norm)
    rows = [pipeline.latent_row(latent, seed, parameters) for seed in seeds]
    yield Phase(rows)
    return Outcome(rows)


def variations(
    pipeline: UnCLIP, image: Tensor, seeds: Sequence[int], parameters: Parameters
) -> Operation:
    """Images that share an image's meaning: its (z_i, x_T), decoded by DDIM. `eta` 0 gives the image back; the larger it is,
    the farther they stray."""
    source = pipeline.image_row(image, parameters, invert=True)
    yield Phase([source], LATENTS_PROGRESS)
    rows = [pipeline.latent_row(_latent(source), seed, parameters) for seed in seeds]
    yield Phase(rows)
    return Outcome(rows)


def interpolate(
    pipeline: UnCLIP,
    ends: tuple[str | Tensor, str | Tensor],
    frames: int,
    seed: int,
    parameters: Parameters,
    *,
    noise: str = "slerp",
) -> Operation:
    """Frames along slerp(z_a, z_b, θ), θ from 0 to 1, between captions or images. `noise` "slerp": x_T goes from the one end's to
    the other's, so that the first and last frame are the images given (a caption's x_T is drawn from the seed); "fixed": one x_T
    from the seed for all. Noise within the steps is the same in every frame."""
    invert = noise == "slerp"
    sources = [_end_row(pipeline, end, seed, parameters, invert=invert) for end in ends]
    yield Phase(sources, LATENTS_PROGRESS)
    a, b = (replace(_latent(source), text=_latent(source).empty) for source in sources)
    z_a = cast(Tensor, a.z_i)
    z_b = cast(Tensor, b.z_i)
    rows = []
    for theta in torch.linspace(0, 1, frames).tolist():
        x_T = None
        if invert and not (a.x_T is None and b.x_T is None):
            drawn = cast(Tensor, pipeline.latent_row(replace(a, x_T=None), seed, parameters).x_t)
            x_T = slerp(drawn if a.x_T is None else a.x_T, drawn if b.x_T is None else b.x_T, theta)
        rows.append(
            pipeline.latent_row(replace(a, z_i=slerp(z_a, z_b, theta), x_T=x_T), seed, parameters)
        )
    yield Phase(rows)
    return Outcome(rows)


def text_diff(
    pipeline: UnCLIP,
    image: Tensor,
    prompt_to: str,
    prompt_from: str | None,
    frames: int,
    theta_max: float,
    seed: int,
    parameters: Parameters,
) -> Operation:
    """An image moved by language (paper §3.3): slerp(z_i, z_d, θ) with z_d = norm(z_t - z_t0), θ from 0 to `theta_max`, on the x_T
    that DDIM inversion finds. Without `prompt_from`, z_d is norm(z_t). The first frame is the image itself."""
    source = pipeline.image_row(image, parameters, invert=True)
    captions = [
        pipeline.prompt_row(text, 0, parameters, prior=False)
        for text in (prompt_to, prompt_from)
        if text is not None
    ]
    yield Phase([source, *captions], LATENTS_PROGRESS)
    latent = _latent(source)
    z_i = cast(Tensor, latent.z_i)
    z_t, *z_t0 = (_latent(row).text.z_t[0] for row in captions)
    difference = z_t - z_t0[0] if z_t0 else z_t
    if not difference.norm() > 0:
        raise ValueError("prompt_from and prompt_to mean the same to CLIP: say what should differ")
    z_d = F.normalize(difference, dim=0) * z_i.norm()
    thetas = torch.linspace(0, theta_max, frames).tolist()
    rows = [
        pipeline.latent_row(replace(latent, z_i=slerp(z_i, z_d, theta)), seed, parameters)
        for theta in thetas
    ]
    yield Phase(rows)
    return Outcome(rows)


def edit(
    pipeline: UnCLIP,
    image: Tensor,
    mask: Tensor,
    prompt: str,
    seeds: Sequence[int],
    parameters: Parameters,
) -> Operation:
    """The image `[3, S, S]` redrawn by a caption where the mask `[1, S, S]` is above 0, for each seed.

    At every size the kept pixels stand in the estimate of x_0 from the first step on, as noised as the rest; the decoder makes
    each step several times with noise in between (RePaint). The kept part of the result is the image's own, to the bit."""
    size = parameters.size
    source = Source(image.to(pipeline.device), (mask > 0).to(image).to(pipeline.device)).at(size)
    rows = [pipeline.row(prompt, seed, parameters, source) for seed in seeds]
    yield Phase(rows)
    return Outcome(rows)


def probe(
    pipeline: UnCLIP,
    image: Tensor,
    labels: Sequence[str],
    components: Sequence[int],
    seed: int,
    parameters: Parameters,
) -> Operation:
    """What z_i holds of an image: CLIP's zero-shot probabilities of labels, and images decoded from its first k principal
    components, for each k, all from one seed (paper §4, Fig. 6 and 7)."""
    source = pipeline.image_row(image, parameters, invert=False)
    captions = [pipeline.prompt_row(label, 0, parameters, prior=False) for label in labels]
    yield Phase([source, *captions], LATENTS_PROGRESS)
    latent = _latent(source)
    z_i = cast(Tensor, latent.z_i)
    told: dict[str, Any] = {}
    if captions:
        z_t = F.normalize(torch.cat([_latent(row).text.z_t for row in captions]), dim=1)
        logits = pipeline.clip.similarity_scale * (
            z_t @ F.normalize(z_i, dim=0)
        )
        told["labels"] = [
            {"label": label, "probability": p}
            for label, p in zip(labels, logits.softmax(0).tolist(), strict=True)
        ]
    rows = []
    if components:
        pca = pipeline.pca
        if pca is None:
            raise ValueError(
                f"checkpoint {pipeline.name!r} has no principal components: ask for labels only"
            )
        if max(components) > pca.config.components:
            raise ValueError(
                f"components asks for {max(components)}: checkpoint {pipeline.name!r} keeps {pca.config.components}"
            )
        told["components"] = []
        for k in components:
            kept = pca.reconstruct(pca.project(z_i)[:k])
            kept = F.normalize(kept, dim=0) if pipeline.clip.unit_norm else kept
            told["components"].append(
                {"components": k, "cosine": float(F.cosine_similarity(kept, z_i, dim=0))}
            )
            rows.append(pipeline.latent_row(replace(latent, z_i=kept), seed, parameters))
        yield Phase(rows)
    return Outcome(rows, told)


def embeddings(pipeline: UnCLIP, content: str | Tensor, parameters: Parameters) -> Operation:
    """z_t of a caption, or z_i of an image."""
    caption = isinstance(content, str)
    row = (
        pipeline.prompt_row(content, 0, parameters, prior=False)
        if isinstance(content, str)
        else pipeline.image_row(content, parameters, invert=False)
    )
    yield Phase([row])
    z = _latent(row).text.z_t[0] if caption else cast(Tensor, _latent(row).z_i)
    told = {
        "kind": "z_t" if caption else "z_i",
        "embedding": z.tolist(),
        "dimensions": len(z),
        "norm": float(z.norm()),
    }
    return Outcome((), told)


def slerp(a: Tensor, b: Tensor, theta: float) -> Tensor:
    """Spherical interpolation (Shoemake 1985) from a at θ = 0 to b at θ = 1, over all elements; a straight line where they point
    the same way."""
    cosine = float(
        F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).clamp(-1, 1)
    )
    omega = math.acos(cosine)
    if math.sin(omega) < 1e-6:
        return a + theta * (b - a)
    return (math.sin((1 - theta) * omega) * a + math.sin(theta * omega) * b) / math.sin(omega)


def _end_row(
    pipeline: UnCLIP,
    content: str | Tensor,
    seed: int,
    parameters: Parameters,
    *,
    invert: bool = False,
) -> Row:
    if isinstance(content, str):
        return pipeline.prompt_row(content, seed, parameters, prior=True)
    return pipeline.image_row(content, parameters, invert=invert)


def _is_embedding(content: str | Tensor) -> bool:
    return isinstance(content, Tensor) and content.dim() == 1


def _latent(row: Row) -> Conditioning:
    assert row.conditioning is not None
    return row.conditioning
