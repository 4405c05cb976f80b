"""The diffusion prior's stage: from the encoded prompt to z_i (paper §2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.acceleration.transfer import to_device_async
from models.diffusion.guidance import clamp, guide
from models.diffusion.samplers import Coefficients, sampler_coefficients, to_x_0
from models.networks.clip import CLIP, TextEncoding
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.priors.transformer import Cache, pad_caches
from models.parameters import Parameters
from models.row import Row, SourceImage
from models.stages.base import BatchCache, Role, Runtime, round_up_to_8
from models.stages.diffusion import DiffusionStage, DiffusionState, x_t_of


@dataclass
class PriorState(DiffusionState):
    """Candidates for z_i `[K, D]`, and the prompt's keys and values.

    `caches` has those of the conditional half and, with guidance, of the unconditional one."""

    caches: list[Cache] = field(default_factory=list)

    def preview(self) -> Tensor | None:
        return None


class PriorStage(DiffusionStage):
    """Sets z_i of the conditioning, and the selected candidate."""

    name = "prior"
    role = Role.PRIOR
    network = "prior"
    cost = 0.1

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.prior = cast(DiffusionPrior, runtime.networks[self.network])
        self.clip = cast(CLIP, runtime.networks["clip"])
        self.schedule = self.prior.config.schedule
        self.prediction_type = self.prior.config.prediction_type
        self._batch = BatchCache(_stack_caches)

    def is_needed(self, parameters: Parameters) -> bool:
        return parameters.prior == "diffusion"

    def coefficients(
        self, parameters: Parameters, source: SourceImage | None = None
    ) -> Coefficients:
        return sampler_coefficients(
            self.runtime.defaults["prior_sampler"],
            self.schedule,
            parameters.prior_num_inference_steps,
        )

    def enter(self, row: Row) -> None:
        coefficients = self.coefficients(row.parameters)
        generator = self.generator(row)
        shape = (row.parameters.prior_num_candidates, self.clip.embed_dim)
        state = PriorState(coefficients, self.noise(generator, shape), generator)
        row.enter(self.name, state, len(coefficients))

    def constrain(self, row: Row, x_0: Tensor) -> Tensor:
        # A source constrains images, not embeddings.
        return x_0

    def predict(self, rows: Sequence[Row]) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Return the guided and clamped estimates, `[K, D]` a row."""
        t, alpha, sigma = self.alpha_sigma(rows)
        # The halves of each row: 0 is conditional, 1 unconditional.
        halves = [
            (k, half)
            for k, row in enumerate(rows)
            for half in range(1 if row.parameters.prior_guidance_scale == 1 else 2)
        ]
        states = [row.state_as(PriorState) for row in rows]
        self._encode_prefixes(rows, halves)
        counts = [len(states[k].x_t) for k, _ in halves]
        x_t = torch.cat([states[k].x_t for k, _ in halves])
        timesteps = [t[k].expand(count) for (k, _), count in zip(halves, counts, strict=True)]
        caches = [
            cache
            for (k, half), count in zip(halves, counts, strict=True)
            for cache in [states[k].caches[half]] * count
        ]
        # With a CUDA graph all prompts get one length: with the step's three tokens a multiple of
        # eight.
        longest = round_up_to_8(self.prior.config.context_length + 4) - 3
        flat = self.runtime.run(
            self.name,
            self._pass,
            [x_t, to_device_async(torch.cat(timesteps), self.device)],
            self._batch.get(caches, 0 if self.runtime.graphs is None else longest),
        )
        predictions = dict(zip(halves, flat.split(counts), strict=True))
        x_0s = []
        for k, row in enumerate(rows):
            prediction = predictions[k, 0]
            scale = row.parameters.prior_guidance_scale
            if scale != 1:
                prediction = guide(prediction, predictions[k, 1], scale)
            x_0 = to_x_0(prediction, states[k].x_t, alpha[k], sigma[k], self.prediction_type)
            x_0s.append(clamp(x_0, self.prior.config.clip_range))
        return x_0s, [None] * len(rows)

    def leave(self, row: Row) -> None:
        # Of several z_i, the one most similar to the prompt's z_t (paper §2.2).
        conditioning = row.conditioning
        z_i = self.prior.denormalize(x_t_of(row))  # (K, D)
        unit = F.normalize(z_i, dim=-1)
        best = (unit @ conditioning.text.z_t[0]).argmax()
        row.candidate = best
        # index_select, because indexing by a tensor would wait for the device.
        candidates = unit if self.clip.unit_norm else z_i
        conditioning.z_i = candidates.index_select(0, best[None])[0]

    def release_memory(self) -> None:
        # As large as a network in large batches.
        self._batch.clear()

    def _encode_prefixes(self, rows: Sequence[Row], halves: Sequence[tuple[int, int]]) -> None:
        """Add the caches of rows at their first step."""
        new = [(k, half) for k, half in halves if not rows[k].state_as(PriorState).caches[half:]]
        if not new:
            return
        texts = [text_of(rows[k], half) for k, half in new]
        caches = self.prior.encode_prefix(TextEncoding.concatenate(texts))
        for (k, _), cache in zip(new, caches, strict=True):
            rows[k].state_as(PriorState).caches.append(cache)

    def _pass(self, step_inputs: Sequence[Tensor], cached_inputs: Sequence[Tensor]) -> Tensor:
        x_t, t = step_inputs
        mask, *layers = cached_inputs
        pairs = list(zip(layers[::2], layers[1::2], strict=True))
        return self.prior.denoise_padded(x_t, t, pairs, mask)


def text_of(row: Row, half: int) -> TextEncoding:
    """Return the text of the conditional half (0) or of the unconditional one (1)."""
    return row.conditioning.unconditional if half else row.conditioning.text


def _stack_caches(caches: list[Cache], min_length: int) -> list[Tensor]:
    layers, mask = pad_caches(caches, min_length)
    return [mask, *(x for layer in layers for x in layer)]
