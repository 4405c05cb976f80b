"""The upsamplers' stages: from 64² to 256² and from there to 1024² (paper §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from models.acceleration.transfer import to_device_async
from models.diffusion.guidance import clamp
from models.diffusion.samplers import ONE_STEP, Coefficients, sampler_coefficients, to_x_0
from models.networks.upsampler import Upsampler
from models.parameters import Parameters
from models.row import Row, SourceImage
from models.stages.base import Role, Runtime
from models.stages.diffusion import DiffusionStage, DiffusionState, expand_as, x_t_of


class UpsamplerStage(DiffusionStage):
    """Replaces `low_res` of the conditioning by an image of `size` px; there is no guidance.

    An upsampler from elsewhere (`external_upsampler`) is one step that needs no noise."""

    role = Role.RENDER
    size: ClassVar[int]

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.upsampler = runtime.networks[self.network]
        if isinstance(self.upsampler, Upsampler):
            self.schedule = self.upsampler.config.schedule
            self.prediction_type = self.upsampler.config.prediction_type

    def is_needed(self, parameters: Parameters) -> bool:
        return self.size <= parameters.size

    def coefficients(
        self, parameters: Parameters, source: SourceImage | None = None
    ) -> Coefficients:
        if not isinstance(self.upsampler, Upsampler):
            return ONE_STEP
        defaults = self.runtime.defaults
        sampler = defaults.get(f"{self.name}_sampler", defaults["upsampler_sampler"])
        return sampler_coefficients(
            sampler, self.schedule, parameters.upsampler_num_inference_steps
        )

    def enter(self, row: Row) -> None:
        coefficients = self.coefficients(row.parameters)
        generator = self.generator(row)
        x_t = self.noise(generator, (3, self.size, self.size))
        row.enter(self.name, DiffusionState(coefficients, x_t, generator), len(coefficients))

    def predict(self, rows: Sequence[Row]) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Return the estimates, `[3, S, S]` a row."""
        low_res = torch.stack([low_res_of(row) for row in rows])
        variances = [None] * len(rows)
        upsampler = self.upsampler
        if not isinstance(upsampler, Upsampler):
            return list(upsampler(low_res)), variances
        x_t = torch.stack([x_t_of(row) for row in rows])
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        t, alpha, sigma = self.alpha_sigma(rows)
        prediction = upsampler(x_t, t, low_res, partial(self._run_unet, upsampler))
        x_0 = to_x_0(
            prediction, x_t, expand_as(alpha, x_t), expand_as(sigma, x_t), self.prediction_type
        )
        return list(clamp(x_0, 1.0)), variances

    def leave(self, row: Row) -> None:
        row.conditioning.low_res = x_t_of(row).clamp(-1, 1)

    def _run_unet(
        self, upsampler: Upsampler, last: bool, x_t: Tensor, t: Tensor, low_res: Tensor
    ) -> Tensor:
        """Run one of the upsampler's U-Nets; each has its CUDA graphs."""

        def run(step_inputs: Sequence[Tensor], cached_inputs: Sequence[Tensor]) -> Tensor:
            return upsampler.predict(last, *step_inputs)

        name = f"{self.name}'s last" if last else self.name
        return self.runtime.run(name, run, [x_t, to_device_async(t, self.device), low_res])


class Upsampler256Stage(UpsamplerStage):
    """The upsampler from 64² to 256²."""

    name = "upsampler_256"
    network = "upsampler_256"
    size = 256
    pixel_ratio = 16
    cost = 2.0


class Upsampler1024Stage(UpsamplerStage):
    """The upsampler from 256² to 1024²."""

    name = "upsampler_1024"
    network = "upsampler_1024"
    size = 1024
    pixel_ratio = 256
    cost = 20.0


def low_res_of(row: Row) -> Tensor:
    """Return the image of the stage before; raises RuntimeError if there is none."""
    low_res = row.conditioning.low_res
    if low_res is None:
        raise RuntimeError(f"a row in stage {row.stage!r} has no image to upsample")
    return low_res
