"""The inversion stage: from an image to the decoder's first noise x_T (paper §3)."""

from __future__ import annotations

import torch

from models.checkpoints.checkpoint import BASE_SIZE
from models.diffusion.samplers import Coefficients, ddim_inversion_coefficients
from models.parameters import Parameters
from models.row import Row, SourceImage
from models.stages.base import Role
from models.stages.decoder import DecoderStage, DecoderState
from models.stages.diffusion import x_t_of
from models.stages.image import source_of


class InversionStage(DecoderStage):
    """Sets x_T of the conditioning: the decoder's DDIM run backwards, given z_i and no prompt."""

    name = "inversion"
    role = Role.INVERSION
    cost = 1.0

    def coefficients(
        self, parameters: Parameters, source: SourceImage | None = None
    ) -> Coefficients:
        return ddim_inversion_coefficients(
            self.runtime.alphas[self.schedule], parameters.decoder_num_inference_steps
        )

    def enter(self, row: Row) -> None:
        # The image at the first timestep's noise level, with noise from the row's seed.
        coefficients = self.coefficients(row.parameters)
        generator = torch.Generator().manual_seed(row.seed)
        noise = self.noise(generator, (3, BASE_SIZE, BASE_SIZE))
        a = float(self.runtime.alphas[self.schedule][coefficients.timesteps[0]])
        x_t = a**0.5 * source_of(row).resize(BASE_SIZE).image + (1 - a) ** 0.5 * noise
        row.enter(self.name, DecoderState(coefficients, x_t, generator), len(coefficients))

    def guidance_position(self, row: Row) -> float:
        # Inversion passes the same noise levels in the opposite order.
        return 1 - (row.step + 1) / row.steps

    def leave(self, row: Row) -> None:
        row.conditioning.x_T = x_t_of(row)
