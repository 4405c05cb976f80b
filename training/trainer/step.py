"""One training step: its number, its share of the batch, and its own random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Rows = TypeVar("Rows", bound=Tensor | list[Any])


@dataclass(frozen=True)
class Step:
    """What a loss may depend on: the step's number, the batch size, the device and random numbers.

    Several processes share a step's batch. Each draws the random numbers of the whole batch and
    keeps its own rows, so that the result does not depend on the number of processes."""

    number: int
    batch: int  # images over all processes
    device: torch.device
    generator: torch.Generator  # on the CPU
    rank: int = 0
    world_size: int = 1
    # On the device: numbers from a CPU generator would keep a GPU waiting.
    device_generator: torch.Generator | None = None

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers `[local batch, *shape]` on the device."""
        source = self.device_generator or self.generator
        numbers = torch.randn(self.batch, *shape, generator=source, device=source.device)
        return self.local(numbers).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), `[local batch, *shape]`, on the device."""
        source = self.device_generator or self.generator
        numbers = torch.rand(self.batch, *shape, generator=source, device=source.device)
        return self.local(numbers).to(self.device)

    def integers(self, end: int, *shape: int) -> Tensor:
        """Return integers in [0, end), `[local batch, *shape]`, on the device."""
        source = self.device_generator or self.generator
        size = (self.batch, *shape)
        numbers = torch.randint(end, size, generator=source, device=source.device)
        return self.local(numbers).to(self.device)

    def local(self, rows: Rows) -> Rows:
        """Return this process' rows of something drawn for the whole batch."""
        count = self.batch // self.world_size
        return rows[self.rank * count : (self.rank + 1) * count]  # type: ignore[return-value]


Loss = Callable[[Step], Tensor]


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one step's random numbers."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)
