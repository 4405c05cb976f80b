"""What unCLIP can do besides text to image (paper §3): variations, interpolation, edits and more.

An operation is a generator. It yields phases, whose rows must be moved to their end, and returns
its outcome. So each operation reads from top to bottom, and its rows may share batches with those
of others. `run` drives one in this process; the worker's engine drives many.
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
from models.row import Row, SourceImage
from models.stages.diffusion import x_t_of


@dataclass(frozen=True)
class Outcome:
    """The result of an operation.

    `rows` have an image each, in order. `result` is what the operation reports besides images, as
    JSON's types. `warnings` name deviations from the request."""

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
    """One part of a mixture and its weight.

    The content is a prompt, an image `[3, S, S]` in [-1, 1] or an image embedding `[D]`."""

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
    """Generate an image of the prompt for each seed."""
    rows = [pipeline.row(prompt, seed, parameters) for seed in seeds]
    yield Phase(rows)
    return Outcome(rows)


def compose(
    pipeline: UnCLIP, mixture: Sequence[Ingredient], seeds: Sequence[int], parameters: Parameters
) -> Operation:
    """Generate an image of a weighted sum of image embeddings for each seed.

    Prompts pass the prior first, with the first seed. The sum is scaled to unit norm, or to the
    parts' mean norm if the checkpoint's embeddings have no unit norm. Raises ValueError for an
    embedding of another length, and for a sum of zero."""
    sources = [
        _source_row(pipeline, part.content, seeds[0], parameters)
        for part in mixture
        if not _is_embedding(part.content)
    ]
    blank = pipeline.prompt_row("", 0, parameters, prior=False)
    yield Phase([*sources, blank], LATENTS_PROGRESS)
    remaining = iter(sources)
    parts = [
        cast(Tensor, part.content).to(pipeline.device)
        if _is_embedding(part.content)
        else next(remaining).conditioning.image_embedding
        for part in mixture
    ]
    wrong = [part for part in parts if part.shape != (pipeline.clip.embed_dim,)]
    if wrong:
        raise ValueError(
            f"z_i has {len(wrong[0])} numbers: checkpoint {pipeline.name!r} has image embeddings "
            f"of {pipeline.clip.embed_dim}"
        )
    total = sum(
        (part.weight * z_i for part, z_i in zip(mixture, parts, strict=True)),
        torch.zeros_like(parts[0]),
    )
    if not total.norm() > 0:
        raise ValueError("the weighted sum of the mix is zero: change its weights")
    norm = 1.0 if pipeline.clip.unit_norm else float(torch.stack(parts).norm(dim=1).mean())
    latent = replace(blank.conditioning, z_i=F.normalize(total, dim=0) * norm)
    rows = [pipeline.latent_row(latent, seed, parameters) for seed in seeds]
    yield Phase(rows)
    return Outcome(rows)


def variations(
    pipeline: UnCLIP, image: Tensor, seeds: Sequence[int], parameters: Parameters
) -> Operation:
    """Generate images with the embedding of an image `[3, S, S]` in [-1, 1], one for each seed.

    Its (z_i, x_T) is decoded by DDIM. `eta` 0 returns the image itself, and a larger one more
    distant variations. A checkpoint whose prior takes images samples a z_i for each seed, and needs
    no x_T."""
    source = pipeline.image_row(image, parameters, invert=not pipeline.has_image_prior)
    yield Phase([source], LATENTS_PROGRESS)
    if pipeline.has_image_prior:
        rows = [pipeline.reimagined_row(source.conditioning, seed, parameters) for seed in seeds]
        yield Phase(rows)
        return Outcome(rows)
    rows = [pipeline.latent_row(source.conditioning, seed, parameters) for seed in seeds]
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
    """Generate frames along slerp(z_a, z_b, θ), θ from 0 to 1, between prompts or images.

    An image is `[3, S, S]` in [-1, 1]. With `noise` "slerp", x_T goes from one end's to the
    other's, so that an image at an end is the first or last frame (a prompt's x_T comes from the
    seed). With "fixed" all frames have the seed's x_T. Noise within the steps is the same in every
    frame."""
    invert = noise == "slerp"
    sources = [_source_row(pipeline, end, seed, parameters, invert=invert) for end in ends]
    yield Phase(sources, LATENTS_PROGRESS)
    a, b = (replace(s.conditioning, text=s.conditioning.unconditional) for s in sources)
    rows = []
    for theta in torch.linspace(0, 1, frames).tolist():
        x_T = None
        if invert and not (a.x_T is None and b.x_T is None):
            seeded = x_t_of(pipeline.latent_row(replace(a, x_T=None), seed, parameters))
            x_T = slerp(
                seeded if a.x_T is None else a.x_T, seeded if b.x_T is None else b.x_T, theta
            )
        z_i = slerp(a.image_embedding, b.image_embedding, theta)
        rows.append(pipeline.latent_row(replace(a, z_i=z_i, x_T=x_T), seed, parameters))
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
    """Change an image `[3, S, S]` in [-1, 1] towards a prompt (paper §3.3).

    Frames follow slerp(z_i, z_d, θ) on the inverted image's x_T, with z_d = norm(z_t - z_t0), or
    norm(z_t) without `prompt_from`. θ goes from 0, the image itself, to `theta_max`, a fraction of
    the angle between z_i and z_d in (0, 1]. Raises ValueError for prompts that CLIP encodes
    equally."""
    source = pipeline.image_row(image, parameters, invert=True)
    prompts = [
        pipeline.prompt_row(text, 0, parameters, prior=False)
        for text in (prompt_to, prompt_from)
        if text is not None
    ]
    yield Phase([source, *prompts], LATENTS_PROGRESS)
    latent = source.conditioning
    z_i = latent.image_embedding
    z_t, *z_t0 = (row.conditioning.text.z_t[0] for row in prompts)
    difference = z_t - z_t0[0] if z_t0 else z_t
    if not difference.norm() > 0:
        raise ValueError("prompt_from and prompt_to mean the same to CLIP: change one of them")
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
    """Generate a prompt's image inside a mask of an image, for each seed.

    The image is `[3, S, S]` in [-1, 1], and the mask `[1, S, S]` is above 0 where it changes. The
    pixels outside the mask are in the estimate of x_0 from the first step on, at every size, with
    the same noise as the rest. The decoder repeats each step with noise in between (RePaint). The
    unmasked part of the result equals the image's, to the bit."""
    source = SourceImage(image.to(pipeline.device), (mask > 0).to(image).to(pipeline.device))
    source = source.resize(parameters.size)
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
    """Show what z_i contains of an image `[3, S, S]` in [-1, 1] (paper §4, Fig. 6 and 7).

    Reports CLIP's zero-shot probabilities of the labels, and generates an image from z_i's first k
    principal components for each k in `components`, all from one seed. Raises ValueError for more
    components than the checkpoint has."""
    source = pipeline.image_row(image, parameters, invert=False)
    prompts = [pipeline.prompt_row(label, 0, parameters, prior=False) for label in labels]
    yield Phase([source, *prompts], LATENTS_PROGRESS)
    z_i = source.conditioning.image_embedding
    result: dict[str, Any] = {}
    if prompts:
        z_t = F.normalize(torch.cat([row.conditioning.text.z_t for row in prompts]), dim=1)
        probabilities = _zero_shot_probabilities(pipeline, z_t, z_i)
        result["labels"] = [
            {"label": label, "probability": p}
            for label, p in zip(labels, probabilities, strict=True)
        ]
    rows = []
    if components:
        result["components"] = []
        for k, part in zip(components, _truncate(pipeline, z_i, components), strict=True):
            cosine = float(F.cosine_similarity(part, z_i, dim=0))
            result["components"].append({"components": k, "cosine": cosine})
            latent = replace(source.conditioning, z_i=part)
            rows.append(pipeline.latent_row(latent, seed, parameters))
        yield Phase(rows)
    return Outcome(rows, result)


def _zero_shot_probabilities(pipeline: UnCLIP, z_t: Tensor, z_i: Tensor) -> list[float]:
    """Return CLIP's probabilities of texts z_t `[K, D]`, of unit norm, for an image z_i `[D]`."""
    logits = pipeline.clip.similarity_scale * (z_t @ F.normalize(z_i, dim=0))
    probabilities: list[float] = logits.softmax(0).tolist()
    return probabilities


def _truncate(pipeline: UnCLIP, z_i: Tensor, components: Sequence[int]) -> list[Tensor]:
    """Return z_i `[D]` from its first k principal components, for each k."""
    pca = pipeline.pca
    if pca is None:
        raise ValueError(
            f"checkpoint {pipeline.name!r} has no principal components: request labels only"
        )
    if max(components) > pca.config.components:
        raise ValueError(
            f"components has {max(components)}: checkpoint {pipeline.name!r} keeps "
            f"{pca.config.components}"
        )
    parts = [pca.reconstruct(pca.project(z_i)[:k]) for k in components]
    return [F.normalize(part, dim=0) for part in parts] if pipeline.clip.unit_norm else parts


def embeddings(pipeline: UnCLIP, content: str | Tensor, parameters: Parameters) -> Operation:
    """Report z_t of a prompt, or z_i of an image `[3, S, S]` in [-1, 1]."""
    if isinstance(content, str):
        row = pipeline.prompt_row(content, 0, parameters, prior=False)
    else:
        row = pipeline.image_row(content, parameters, invert=False)
    yield Phase([row])
    if isinstance(content, str):
        kind = "z_t"
        z = row.conditioning.text.z_t[0]
    else:
        kind = "z_i"
        z = row.conditioning.image_embedding
    result = {
        "kind": kind,
        "embedding": z.tolist(),
        "dimensions": len(z),
        "norm": float(z.norm()),
    }
    return Outcome((), result)


def slerp(a: Tensor, b: Tensor, theta: float) -> Tensor:
    """Interpolate spherically (Shoemake 1985) from a at θ = 0 to b at θ = 1, over all elements.

    Vectors of the same direction are interpolated on a straight line."""
    cosine = float(
        F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).clamp(-1, 1)
    )
    omega = math.acos(cosine)
    if math.sin(omega) < 1e-6:
        return a + theta * (b - a)
    return (math.sin((1 - theta) * omega) * a + math.sin(theta * omega) * b) / math.sin(omega)


def _source_row(
    pipeline: UnCLIP,
    content: str | Tensor,
    seed: int,
    parameters: Parameters,
    *,
    invert: bool = False,
) -> Row:
    """Create a row that ends with the z_i of a prompt or an image."""
    if isinstance(content, str):
        return pipeline.prompt_row(content, seed, parameters, prior=True)
    return pipeline.image_row(content, parameters, invert=invert)


def _is_embedding(content: str | Tensor) -> bool:
    return isinstance(content, Tensor) and content.dim() == 1
