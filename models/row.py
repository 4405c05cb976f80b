"""A row: one image on its way through the pipeline, with its own step, tables, guidance and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.diffusion.samplers import Table
from models.networks.clip import TextEncoding
from models.networks.decoder import Given
from models.networks.priors.diffusion import Cache
from models.parameters import Parameters

# Stages in order; each has its own random numbers, so that adding steps or size to one leaves the others alone.
# A seed has room for eight (`begin_tokens`), and these are eight: a ninth would draw what the next seed's text stage draws.
STAGES = (
    "text",
    "prior",
    "decoder",
    "upsampler_256",
    "upsampler_1024",
    "image",
    "inversion",
    "ar_prior",
)


@dataclass
class Conditioning:
    """What a row's networks are given, and what a row that draws no image ends with: the encoded prompt and its
    unconditional counterpart (batch of one each), the image embedding z_i `[D]`, the decoder's first noise x_T `[3, 64, 64]`
    where it is not drawn from the seed (with z_i, the paper's bipartite latent, §3), and the small image `[3, s, s]`."""

    text: TextEncoding
    empty: TextEncoding
    z_i: Tensor | None = None
    x_T: Tensor | None = None
    low_res: Tensor | None = None


@dataclass(frozen=True)
class Source:
    """An image that a row starts from: `[3, S, S]` in [-1, 1]; for an edit with a mask `[1, S, S]`, 1 where it is redrawn."""

    image: Tensor
    mask: Tensor | None = None

    def at(self, size: int) -> Source:
        """Both at another size. A pixel counts as masked if any part of it is."""
        if self.image.shape[-1] == size:
            return self
        image = F.interpolate(self.image[None], (size, size), mode="bicubic", antialias=True)[
            0
        ].clamp(-1, 1)
        return Source(
            image, None if self.mask is None else F.adaptive_max_pool2d(self.mask[None], size)[0]
        )

    def keep(self, x_0: Tensor) -> Tensor:
        """`x_0` `[3, s, s]` with the source's own pixels where the mask keeps them; as it is where there is no mask."""
        if self.mask is None:
            return x_0
        known = self.at(x_0.shape[-1])
        assert known.mask is not None
        return torch.where(known.mask > 0, x_0, known.image)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, without waiting for what the device is at."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


class Row:
    """One image in the making. The pipeline moves it; everybody else reads it.

    `stage` names the network it needs next and is None once it ended: then `image` `[3, S, S]` in [-1, 1] is there, or, where
    the plan ends before the decoder, `conditioning`; or `error` says why not. `step` of `steps` counts within the stage. `cut` and
    `truncated_negative_prompt` are the parts of the prompt and of the negative prompt that did not fit CLIP; `candidate` is which of its z_i the
    diffusion prior kept."""

    def __init__(
        self,
        prompt: str,
        seed: int,
        parameters: Parameters,
        stage_costs: dict[str, float],
        source: Source | None = None,
    ) -> None:
        """`plan`: the stages this row goes through with the rough cost of each, in order."""
        self.prompt = prompt
        self.seed = seed
        self.parameters = parameters
        self.stage_costs = stage_costs
        self.source = source
        self.stage: str | None = next(iter(stage_costs))
        self.step = 0
        self.truncated_prompt: str | None = None
        self.truncated_negative_prompt: str | None = None
        self.candidate: Tensor | None = None
        self.image: Tensor | None = None
        self.error: str | None = None
        self.conditioning: Conditioning | None = None
        # The running state of a stage: noisy x_t, the estimates x_0 of the last step and the one before, and the table.
        self.steps = 1  # of the present stage, or of the last one
        self.table: Table | None = None
        self.x_t: Tensor | None = None
        self.x_0: Tensor | None = None
        self.x_0_prev: Tensor | None = None
        self.generator = torch.Generator()
        # The running state of the priors: keys and values of the guided and the unguided half, and the autoregressive one's buckets.
        self.tokens: list[int] = []
        self.caches: list[Cache] = []
        # What the decoder makes of the conditioning, once for all its steps: of the guided half, and of the unguided one.
        self.given: list[Given] = []

    @property
    def fraction(self) -> float:
        """How much of the row's work is done, 0 to 1."""
        return 1.0 - sum(self.remaining_cost().values()) / sum(self.stage_costs.values())

    def remaining_cost(self) -> dict[str, float]:
        """The rough cost of what is still to be done, by stage."""
        if self.stage is None:
            return {}
        stages = list(self.stage_costs)
        left = {stage: self.stage_costs[stage] for stage in stages[stages.index(self.stage) :]}
        left[self.stage] *= 1 - self.step / self.steps
        return left

    def preview(self) -> Tensor | None:
        """The image so far `[3, h, w]` in [-1, 1]: the estimate of x_0, or the last stage's result; None before the decoder."""
        if self.stage is None:
            return self.image
        if self.x_0 is not None and self.x_0.dim() == 3:
            return self.x_0
        return self.conditioning.low_res if self.conditioning is not None else None

    @property
    def next_stage(self) -> str | None:
        """The stage after the present one; None after the last."""
        stages = list(self.stage_costs)
        return dict(zip(stages, [*stages[1:], None], strict=True))[str(self.stage)]

    def begin(
        self,
        stage: str,
        table: Table,
        shape: tuple[int, ...],
        device: torch.device,
        x_T: Tensor | None = None,
    ) -> None:
        """Enter a stage: its table, its random numbers, and x_T of this shape, drawn from them unless given."""
        self.begin_tokens(stage, len(table))
        self.table = table
        drawn = torch.randn(shape, generator=self.generator).to(device)
        self.x_t = drawn if x_T is None else x_T

    def begin_tokens(self, stage: str, steps: int) -> None:
        """Enter a stage that draws one token a step, with its own random numbers."""
        self.stage = stage
        self.step = 0
        self.steps = steps
        self.table = None
        self.x_0 = self.x_0_prev = None
        self.generator = torch.Generator().manual_seed(self.seed * 8 + STAGES.index(stage))
        self.tokens = []
        self.caches = []
        self.given = []

    def end(self, image: Tensor | None = None, error: str | None = None) -> None:
        """Leave the pipeline, with an image, with what the conditioning now holds, or with the reason for neither."""
        self.stage = None
        self.caches = []
        self.given = []
        self.x_t = self.x_0 = self.x_0_prev = None
        self.image = image
        self.error = error

    def advance(self, x_0: Tensor, variance: Tensor | None = None) -> bool:
        """Move x_t one step along the table, given this step's estimate of x_0, and the learned variance in [-1, 1] where there
        is one: it puts log(d) between the table's bounds, if the sampler has them. True after the last step."""
        return advance([self], [x_0], [variance])[0]


def advance(
    rows: Sequence[Row], x_0s: Sequence[Tensor], variances: Sequence[Tensor | None]
) -> list[bool]:
    """`Row.advance` of each. Rows at the same step of one table are moved together: on a GPU the launches are what it takes."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for k, row in enumerate(rows):
        parts = (row.x_0, row.x_0_prev, variances[k])
        alike.setdefault(
            (id(row.table), row.step, x_0s[k].shape, *(part is None for part in parts)), []
        ).append(k)
    for group in alike.values():
        _advance_alike(
            [rows[k] for k in group], [x_0s[k] for k in group], [variances[k] for k in group]
        )
    return [row.step == row.steps for row in rows]


def _advance_alike(
    rows: Sequence[Row], x_0s: Sequence[Tensor], variances: Sequence[Tensor | None]
) -> None:
    first = rows[0]
    table = first.table
    step = first.step
    assert table is not None
    a, b, c, d, e = table.coefficients[step].tolist()
    x_next = a * _together([row.x_t for row in rows]) + b * _together(x_0s)
    if c != 0.0 and first.x_0 is not None:
        x_next = x_next + c * _together([row.x_0 for row in rows])
    if e != 0.0 and first.x_0_prev is not None:
        x_next = x_next + e * _together([row.x_0_prev for row in rows])
    if d != 0.0:
        drawn = _together(
            [
                torch.randn(x_0.shape, generator=row.generator)
                for row, x_0 in zip(rows, x_0s, strict=True)
            ]
        )
        noise = sent(drawn, x_next.device).to(x_next.dtype)
        if variances[0] is not None and table.widest is not None:
            noise = noise * (table.widest[step] / d) ** ((_together(variances) + 1) / 2)
        x_next = x_next + d * noise
    for row, x_t, x_0 in zip(rows, x_next, x_0s, strict=True):
        row.x_t, row.x_0, row.x_0_prev = x_t, x_0, row.x_0
        row.step += 1


def _together(tensors: Sequence[Tensor | None]) -> Tensor:
    """Rows' tensors as one batch; a single one is not copied."""
    found = [x for x in tensors if x is not None]
    return found[0][None] if len(found) == 1 else torch.stack(found)
