"""The sampler's step, which moves rows in groups."""

from __future__ import annotations

from pathlib import Path

import torch

from models import UnCLIP
from models.stages.diffusion import advance, x_t_of


def test_rows_advance_together_as_alone(tiny_checkpoint: Path) -> None:
    """Rows draw the same noise in a group, so results are equal to the bit."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    x_0s = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    variances = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for sampler in ("ddpm", "dpm++", "unipc"):
        together, alone = (
            [
                pipeline.row(
                    "a",
                    seed,
                    pipeline.resolve(size=64, sampler=sampler, decoder_num_inference_steps=5),
                )
                for seed in range(3)
            ]
            for _ in range(2)
        )
        for rows in (together, alone):
            while rows[0].stage != "decoder":
                pipeline.step(rows)
        for _ in range(4):
            with torch.inference_mode():
                advance(together, list(x_0s), list(variances))
                for row, x_0, variance in zip(alone, x_0s, variances, strict=True):
                    advance([row], [x_0], [variance])
            for one, other in zip(together, alone, strict=True):
                assert torch.equal(x_t_of(one), x_t_of(other))
                assert one.step == other.step
