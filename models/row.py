"""A row: one image that is being generated, with its step, sampler and random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.clip import TextEncoding
from models.parameters import Parameters
from models.vocabulary import Unknown

S = TypeVar("S", bound="StageState")


@dataclass
class Conditioning:
    """What a row's networks are conditioned on, and what a row without an image ends with.

    `text` and `unconditional` encode the prompt and its counterpart for guidance, the negative
    prompt or "" (batch of one each). `z_i` `[D]` is the image embedding. `x_T` `[3, 64, 64]` is the
    decoder's first noise unless the seed decides it; with z_i it is the paper's bipartite latent
    (§3). `low_res` `[3, s, s]` in [-1, 1] is the image of the last stage that ended."""

    text: TextEncoding
    unconditional: TextEncoding
    z_i: Tensor | None = None
    x_T: Tensor | None = None
    low_res: Tensor | None = None

    @property
    def image_embedding(self) -> Tensor:
        """z_i `[D]`; raises RuntimeError before a prior or the image encoder computed it."""
        if self.z_i is None:
            raise RuntimeError("the row has no image embedding yet: its prior has not ended")
        return self.z_i


@dataclass(frozen=True)
class SourceImage:
    """An image `[3, S, S]` in [-1, 1] that a row starts from.

    An edit has a mask `[1, S, S]`, above 0 where a new image is generated."""

    image: Tensor
    mask: Tensor | None = None

    def resize(self, size: int) -> SourceImage:
        """Resize both to size x size. A pixel is masked if any part of it is."""
        if self.image.shape[-1] == size:
            return self
        image = F.interpolate(self.image[None], (size, size), mode="bicubic", antialias=True)[0]
        mask = None if self.mask is None else F.adaptive_max_pool2d(self.mask[None], size)[0]
        return SourceImage(image.clamp(-1, 1), mask)

    def restore_unmasked(self, x_0: Tensor) -> Tensor:
        """Replace the pixels of x_0 `[3, s, s]` outside the mask by the source's.

        Without a mask x_0 is returned unchanged."""
        source = self.resize(x_0.shape[-1])
        return x_0 if source.mask is None else torch.where(source.mask > 0, x_0, source.image)


class StageState:
    """The running state of a row in one stage; each stage of several steps defines a subclass."""

    def preview(self) -> Tensor | None:
        """Return the stage's current estimate of the image `[3, s, s]`, None if it has none."""
        return None


class Row:
    """One image that is being generated. The pipeline moves it; all other code only reads it.

    `stage` names the stage that it needs next, and is None once it has ended. It ends with `image`
    `[3, S, S]` in [-1, 1]; or, if its stages end before the decoder, with `conditioning`; or with
    `error`, the reason for neither. `step` of `steps` counts within the stage. `truncated_prompt`
    and `truncated_negative_prompt` are the texts that exceed CLIP's context. `unknown_words` are
    those that training never saw. `candidate` is the index of the z_i that the diffusion prior
    selected."""

    def __init__(
        self,
        prompt: str,
        seed: int,
        parameters: Parameters,
        stage_costs: dict[str, float],
        source: SourceImage | None = None,
    ) -> None:
        """Create a row in the first of its stages.

        `stage_costs` has the row's stages in order, each with the cost of all its steps relative to
        one guided decoder step. Progress and scheduling scale it by measured seconds."""
        self.prompt = prompt
        self.seed = seed
        self.parameters = parameters
        self.stage_costs = stage_costs
        self.source = source
        self.stage: str | None = next(iter(stage_costs))
        self.step = 0
        self.steps = 1  # of the current stage, or of the last one
        self.state: StageState | None = None
        self.truncated_prompt: str | None = None
        self.truncated_negative_prompt: str | None = None
        self.unknown_words: list[Unknown] = []
        self.candidate: Tensor | None = None
        self.image: Tensor | None = None
        self.error: str | None = None
        self._conditioning: Conditioning | None = None

    @property
    def conditioning(self) -> Conditioning:
        """The row's conditioning; raises RuntimeError before its first stage has ended."""
        if self._conditioning is None:
            raise RuntimeError("the row has no conditioning yet: its first stage has not ended")
        return self._conditioning

    @conditioning.setter
    def conditioning(self, conditioning: Conditioning) -> None:
        self._conditioning = conditioning

    @property
    def fraction(self) -> float:
        """The share of the row's cost that is done, from 0 to 1."""
        return 1.0 - sum(self.remaining_cost().values()) / sum(self.stage_costs.values())

    @property
    def next_stage(self) -> str | None:
        """The stage after the current one; None after the last."""
        stages = list(self.stage_costs)
        return dict(zip(stages, [*stages[1:], None], strict=True))[str(self.stage)]

    def remaining_cost(self) -> dict[str, float]:
        """Return the cost of the steps that are left, by stage, in the units of `stage_costs`."""
        if self.stage is None:
            return {}
        stages = list(self.stage_costs)
        remaining = {s: self.stage_costs[s] for s in stages[stages.index(self.stage) :]}
        remaining[self.stage] *= 1 - self.step / self.steps
        return remaining

    def preview(self) -> Tensor | None:
        """Return the current image `[3, s, s]` in [-1, 1], None before the decoder.

        It is the current estimate of x_0, or the last stage's result."""
        if self.stage is None:
            return self.image
        estimate = None if self.state is None else self.state.preview()
        if estimate is None and self._conditioning is not None:
            return self._conditioning.low_res
        return estimate

    def state_as(self, kind: type[S]) -> S:
        """Return the running state as its stage's type; raises RuntimeError in another stage."""
        if not isinstance(self.state, kind):
            raise RuntimeError(f"a row in stage {self.stage!r} has no {kind.__name__}")
        return self.state

    def enter(self, stage: str, state: StageState | None, steps: int) -> None:
        """Enter a stage at its first step."""
        self.stage = stage
        self.step = 0
        self.steps = steps
        self.state = state

    def end(self, image: Tensor | None = None, error: str | None = None) -> None:
        """Leave the pipeline with an image, with the conditioning as it is, or with an error."""
        self.stage = None
        self.state = None
        self.image = image
        self.error = error
