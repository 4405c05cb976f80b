"""Stages that denoise: the base class, their running state, and the sampler's step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.acceleration.transfer import to_device_async
from models.diffusion.samplers import Coefficients
from models.parameters import Parameters
from models.row import Row, SourceImage, StageState
from models.stages.base import Stage


@dataclass
class DiffusionState(StageState):
    """A row between two denoising steps.

    `x_t` is the noisy sample, and `x_0` and `x_0_prev` are the estimates of the last step and of
    the one before; all have one shape."""

    coefficients: Coefficients
    x_t: Tensor
    generator: torch.Generator
    x_0: Tensor | None = None
    x_0_prev: Tensor | None = None

    def preview(self) -> Tensor | None:
        """Return the last estimate of x_0."""
        return self.x_0


class DiffusionStage(Stage):
    """A stage whose steps predict x_0 by a network and apply a sampler's coefficients."""

    schedule: str  # of the network
    prediction_type: str

    @abstractmethod
    def coefficients(
        self, parameters: Parameters, source: SourceImage | None = None
    ) -> Coefficients:
        """Return the sampler's coefficients; raises ValueError for unsupported parameters."""

    @abstractmethod
    def predict(self, rows: Sequence[Row]) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Return each row's estimate of x_0, and its learned variance or None.

        A variance has x_0's shape and is in [-1, 1], see `advance`."""

    def num_steps(self, parameters: Parameters, source: SourceImage | None = None) -> int:
        return len(self.coefficients(parameters, source))

    def step(self, rows: Sequence[Row]) -> list[Row]:
        x_0s, variances = self.predict(rows)
        advance(
            rows,
            [self.constrain(row, x_0) for row, x_0 in zip(rows, x_0s, strict=True)],
            variances,
        )
        # Only here does the host wait for the device, after all work of the step has been launched.
        finite = torch.stack(_are_finite(x_0s)).tolist()
        for row, is_finite in zip(rows, finite, strict=True):
            if not is_finite:
                row.end(
                    error=f"the output of step {row.step} of {row.steps} in stage {self.name!r} is "
                    "not finite"
                )
        return [row for row in rows if row.error is None and row.step == row.steps]

    def constrain(self, row: Row, x_0: Tensor) -> Tensor:
        """Return an estimate of x_0 with the part of the source that an edit leaves unchanged."""
        return x_0 if row.source is None else row.source.restore_unmasked(x_0)

    def alpha_sigma(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """Return each row's timestep `[B]` on the host, and alpha and sigma `[B]` on the device.

        They are the square roots of alphas_cumprod and of its complement."""
        t = torch.tensor(
            [row.state_as(DiffusionState).coefficients.timesteps[row.step] for row in rows]
        )
        a = self.runtime.alphas[self.schedule][t]
        alpha = to_device_async(a.sqrt().float(), self.device)
        return t, alpha, to_device_async((1 - a).sqrt().float(), self.device)

    def noise(self, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw normal noise of this shape on the host, and copy it to the device."""
        return torch.randn(shape, generator=generator).to(self.device)


def x_t_of(row: Row) -> Tensor:
    """Return the noisy sample of a row in a denoising stage."""
    return row.state_as(DiffusionState).x_t


def expand_as(values: Tensor, x: Tensor) -> Tensor:
    """Reshape values `[B]` so that they broadcast against x `[B, …]`."""
    return values.view(-1, *[1] * (x.dim() - 1))


def advance(
    rows: Sequence[Row], x_0s: Sequence[Tensor], variances: Sequence[Tensor | None]
) -> None:
    """Move each row's x_t by one step of its sampler, given the step's estimate of x_0.

    A learned variance in [-1, 1] places log(d) between the coefficients' bounds, if the sampler has
    them. Rows at the same step of the same coefficients are moved together, because on a GPU the
    number of launches decides the time."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for k, row in enumerate(rows):
        state = row.state_as(DiffusionState)
        parts = (state.x_0, state.x_0_prev, variances[k])
        key = (id(state.coefficients), row.step, x_0s[k].shape, *(part is None for part in parts))
        groups.setdefault(key, []).append(k)
    for group in groups.values():
        _advance_together(
            [rows[k] for k in group], [x_0s[k] for k in group], [variances[k] for k in group]
        )


def _advance_together(
    rows: Sequence[Row], x_0s: Sequence[Tensor], variances: Sequence[Tensor | None]
) -> None:
    states = [row.state_as(DiffusionState) for row in rows]
    step = rows[0].step
    coefficients = states[0].coefficients
    a, b, c, d, e = coefficients.values[step].tolist()
    x_next = a * _join_rows([state.x_t for state in states]) + b * _join_rows(x_0s)
    if c != 0.0 and states[0].x_0 is not None:
        x_next = x_next + c * _join_rows([state.x_0 for state in states])
    if e != 0.0 and states[0].x_0_prev is not None:
        x_next = x_next + e * _join_rows([state.x_0_prev for state in states])
    if d != 0.0:
        pairs = zip(states, x_0s, strict=True)
        noises = [torch.randn(x_0.shape, generator=state.generator) for state, x_0 in pairs]
        noise = to_device_async(_join_rows(noises), x_next.device).to(x_next.dtype)
        if variances[0] is not None and coefficients.max_noise is not None:
            noise = noise * (coefficients.max_noise[step] / d) ** ((_join_rows(variances) + 1) / 2)
        x_next = x_next + d * noise
    for row, state, x_t, x_0 in zip(rows, states, x_next, x_0s, strict=True):
        state.x_0_prev = state.x_0
        state.x_0 = x_0
        state.x_t = x_t
        row.step += 1


def _join_rows(tensors: Sequence[Tensor | None]) -> Tensor:
    """Stack rows' tensors into one batch; a single one is not copied."""
    present = [x for x in tensors if x is not None]
    return present[0][None] if len(present) == 1 else torch.stack(present)


def _are_finite(x_0s: Sequence[Tensor]) -> list[Tensor]:
    """Return for each row, on the device, whether its numbers are finite."""
    if len({x_0.shape for x_0 in x_0s}) > 1:
        return [x_0.isfinite().all() for x_0 in x_0s]
    return list(torch.stack(list(x_0s)).isfinite().flatten(1).all(1))
