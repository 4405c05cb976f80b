"""The decoder's stage: from z_i, and its prompt, to an image of 64² (paper §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from models.acceleration.transfer import to_device_async
from models.checkpoints.checkpoint import BASE_SIZE
from models.diffusion.guidance import clamp, guide, is_in_interval, threshold
from models.diffusion.samplers import Coefficients, resample, sampler_coefficients, to_x_0
from models.networks.clip import TextEncoding
from models.networks.decoder import (
    BatchedConditioning,
    Decoder,
    EncodedConditioning,
    stack_conditioning,
)
from models.networks.priors.diffusion import DiffusionPrior
from models.parameters import Parameters
from models.row import Row, SourceImage
from models.stages.base import BatchCache, Role, Runtime, round_up_to_8
from models.stages.diffusion import DiffusionStage, DiffusionState, expand_as, x_t_of
from models.stages.prior import text_of

# How often an edit repeats each of the decoder's steps, so that the new part agrees with the rest.
EDIT_RESAMPLES = 3


@dataclass
class DecoderState(DiffusionState):
    """The image `[3, 64, 64]`, and the conditioning as the network encodes it.

    `conditioning` has the conditional half's and, with guidance, the unconditional one's."""

    conditioning: list[EncodedConditioning] = field(default_factory=list)


class DecoderStage(DiffusionStage):
    """Sets `low_res` of the conditioning to the decoder's image."""

    name = "decoder"
    role = Role.RENDER
    network = "decoder"
    cost = 1.0

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.decoder = cast(Decoder, runtime.networks[self.network])
        self.schedule = self.decoder.config.schedule
        self.prediction_type = self.decoder.config.prediction_type
        self._context_length = cast(DiffusionPrior, runtime.networks["prior"]).config.context_length
        self._batch = BatchCache(_stack_inputs)

    def coefficients(
        self, parameters: Parameters, source: SourceImage | None = None
    ) -> Coefficients:
        coefficients = sampler_coefficients(
            parameters.sampler,
            self.schedule,
            parameters.decoder_num_inference_steps,
            parameters.eta,
        )
        if source is None or source.mask is None:
            return coefficients
        return resample(coefficients, self.runtime.alphas[self.schedule], EDIT_RESAMPLES)

    def enter(self, row: Row) -> None:
        coefficients = self.coefficients(row.parameters, row.source)
        generator = self.generator(row)
        # Drawn even if x_T is there, because later noise continues from the same generator.
        noise = self.noise(generator, (3, BASE_SIZE, BASE_SIZE))
        x_T = row.conditioning.x_T
        state = DecoderState(coefficients, noise if x_T is None else x_T, generator)
        row.enter(self.name, state, len(coefficients))

    def is_guided(self, row: Row) -> bool:
        """Whether the row's next step is guided."""
        p = row.parameters
        if p.decoder_guidance_scale == 1:
            return False
        position = self.guidance_position(row)
        return is_in_interval(position, p.decoder_guidance_start, p.decoder_guidance_stop)

    def guidance_position(self, row: Row) -> float:
        """Return the position of the next step in the guidance interval, in [0, 1)."""
        return row.step / row.steps

    def predict(self, rows: Sequence[Row]) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Return the estimates `[3, 64, 64]`, and the variances that the decoder learned, if any.

        The variance is the conditional half's. The unconditional half drops z_i and the prompt
        (paper §2.1)."""
        x_t = torch.stack([x_t_of(row) for row in rows])
        t, alpha, sigma = self.alpha_sigma(rows)
        guided = [k for k, row in enumerate(rows) if self.is_guided(row)]
        # The conditional halves of all rows, then the unconditional halves of those with guidance.
        halves = [(row, 0) for row in rows] + [(rows[k], 1) for k in guided]
        order = torch.tensor([*range(len(rows)), *guided])
        batch = x_t[to_device_async(order, self.device)] if guided else x_t
        output = self.runtime.run(
            # Inversion runs the same network, and so shares the decoder's CUDA graphs.
            self.network,
            self._pass,
            [
                batch.contiguous(memory_format=torch.channels_last),
                to_device_async(t[order], self.device),
            ],
            self._conditioning_inputs(halves),
        )
        prediction, variance = output.split((3, self.decoder.variance_channels), dim=1)
        prediction = self._guide(rows, prediction, guided)
        x_0 = to_x_0(
            prediction, x_t, expand_as(alpha, x_t), expand_as(sigma, x_t), self.prediction_type
        )
        variances: Sequence[Tensor | None] = [None] * len(rows)
        if self.decoder.variance_channels:
            variances = list(variance[: len(rows)])
        quantiles = [row.parameters.dynamic_threshold for row in rows]
        if not any(quantiles):
            return list(clamp(x_0, 1.0)), variances
        pairs = zip(x_0, quantiles, strict=True)
        return [threshold(one, quantile) for one, quantile in pairs], variances

    def leave(self, row: Row) -> None:
        row.conditioning.low_res = x_t_of(row).clamp(-1, 1)

    def _guide(self, rows: Sequence[Row], predictions: Tensor, guided: list[int]) -> Tensor:
        """Apply guidance to the rows in `guided`, whose unconditional halves come last."""
        conditional = predictions[: len(rows)]
        if not guided:
            return conditional
        scales = torch.tensor([rows[k].parameters.decoder_guidance_scale for k in guided])
        scale = expand_as(to_device_async(scales, self.device), conditional)
        index = to_device_async(torch.tensor(guided), self.device)
        mixed = guide(conditional[index], predictions[len(rows) :], scale)
        return conditional.index_copy(0, index, mixed)

    def _conditioning_inputs(self, halves: Sequence[tuple[Row, int]]) -> list[Tensor]:
        """Return the conditioning of halves (1: the unconditional one) as `_pass` takes it.

        It is encoded at a row's first step, and stacked again when other rows share the pass."""
        states = [(row.state_as(DecoderState), half) for row, half in halves]
        new = [
            (row, half)
            for (row, half), (state, _) in zip(halves, states, strict=True)
            if len(state.conditioning) <= half
        ]
        if new:
            z_i = torch.stack([row.conditioning.image_embedding for row, _ in new])
            text = TextEncoding.concatenate([text_of(row, half) for row, half in new])
            dropped = torch.tensor([bool(half) for _, half in new], device=self.device)
            encoded = self.decoder.encode_conditioning(z_i, text, dropped)
            for (row, _), one in zip(new, encoded, strict=True):
                row.state_as(DecoderState).conditioning.append(one)
        # With a CUDA graph all prompts get one length.
        longest = round_up_to_8(self.decoder.config.image_tokens + self._context_length)
        return self._batch.get(
            [state.conditioning[half] for state, half in states],
            0 if self.runtime.graphs is None else longest,
        )

    def _pass(self, step_inputs: Sequence[Tensor], cached_inputs: Sequence[Tensor]) -> Tensor:
        x_t, t = step_inputs
        emb, *rest = cached_inputs
        # After emb come pairs of keys and values, and before them a mask if any row is padded.
        mask = rest.pop(0) if len(rest) % 2 else None
        context = list(zip(rest[::2], rest[1::2], strict=True))
        return self.decoder.denoise(x_t, t, BatchedConditioning(emb, context, mask))


def _stack_inputs(rows: list[EncodedConditioning], min_length: int) -> list[Tensor]:
    batch = stack_conditioning(rows, min_length)
    masks = [] if batch.mask is None else [batch.mask]
    return [batch.emb, *masks, *(x for pair in batch.context for x in pair)]
