"""What every stage implements, and what the stages of one pipeline share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.acceleration.cuda_graphs import CudaGraphs, Pass
from models.diffusion.schedule import SCHEDULES, alphas_cumprod
from models.parameters import Parameters
from models.row import Row, SourceImage
from models.vocabulary import Vocabulary

T = TypeVar("T")

# Each stage that draws random numbers has its own stream, so that more steps or a larger size in
# one stage leaves the others unchanged. The numbers decide every image: never change one. 0, 5 and
# 6 are free; a number from 8 on would repeat a stream of the next seed.
STREAMS_PER_SEED = 8
RNG_STREAM = {
    "prior": 1,
    "decoder": 2,
    "upsampler_256": 3,
    "upsampler_1024": 4,
    "ar_prior": 7,
}


class Role(Enum):
    """What a stage contributes; the kinds of rows are sequences of roles."""

    TEXT = "text"  # encodes the prompt
    PRIOR = "prior"  # computes z_i from the prompt
    IMAGE = "image"  # computes z_i from an image
    INVERSION = "inversion"  # computes x_T from an image
    RENDER = "render"  # computes the image, from z_i on


@dataclass
class Runtime:
    """What the stages of one pipeline share."""

    networks: Mapping[str, nn.Module]
    defaults: Mapping[str, Any]  # of the checkpoint
    device: torch.device
    graphs: CudaGraphs | None = None
    vocabulary: Vocabulary | None = None  # None: every prompt is encoded as it is
    # alphas_cumprod `[T]` of each noise schedule, in float64 on the host
    alphas: dict[str, Tensor] = field(
        default_factory=lambda: {schedule: alphas_cumprod(schedule) for schedule in SCHEDULES}
    )

    def run(
        self,
        name: str,
        network: Pass,
        step_inputs: list[Tensor],
        cached_inputs: Sequence[Tensor] = (),
    ) -> Tensor:
        """Run a pass of a network, by a CUDA graph if there are graphs. See `CudaGraphs.run`."""
        if self.graphs is None:
            return network(step_inputs, cached_inputs)
        return self.graphs.run(name, network, step_inputs, cached_inputs)


class Stage(ABC):
    """One stage of the pipeline: it enters rows, moves them by steps, and stores their result.

    A new stage is a subclass in a file of this folder, and an entry in `stages.STAGES`."""

    name: ClassVar[str]
    role: ClassVar[Role]
    network: ClassVar[str]  # name of its network in the checkpoint
    cost: ClassVar[float]  # of a step, relative to one guided decoder step
    pixel_ratio: ClassVar[int] = 1  # pixels of its images relative to 64²

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.device = runtime.device

    def is_needed(self, parameters: Parameters) -> bool:
        """Whether a row with these parameters passes this stage, if its kind has this role."""
        return True

    def num_steps(self, parameters: Parameters, source: SourceImage | None = None) -> int:
        """Return the number of steps; raises ValueError for parameters that it does not support."""
        return 1

    def enter(self, row: Row) -> None:
        """Move a row to the first step of this stage."""
        row.enter(self.name, None, self.num_steps(row.parameters, row.source))

    @abstractmethod
    def step(self, rows: Sequence[Row]) -> list[Row]:
        """Move rows by one step in one forward pass, and return those whose stage has ended.

        A row with a non-finite result ends with an error; the others are not affected."""

    def leave(self, row: Row) -> None:
        """Store the result of a row whose stage has ended in its conditioning."""
        return

    def release_memory(self) -> None:
        """Free large tensors that are cached between steps; another stage runs next."""
        return

    def generator(self, row: Row) -> torch.Generator:
        """Return a generator at the start of the row's random numbers in this stage."""
        seed = row.seed * STREAMS_PER_SEED + RNG_STREAM[self.name]
        return torch.Generator().manual_seed(seed)


class BatchCache(Generic[T]):
    """Joins per-row inputs for a pass, and reuses the result while the same rows share it."""

    def __init__(self, join: Callable[[list[T], int], list[Tensor]]) -> None:
        """Create an empty cache. `join` takes the rows' inputs and their minimum length."""
        self._join = join
        self._last: tuple[list[T], int, list[Tensor]] | None = None

    def get(self, inputs: list[T], min_length: int) -> list[Tensor]:
        """Return the joined inputs, computed anew unless the last call had the same objects."""
        if self._last is not None:
            last_inputs, last_min_length, joined = self._last
            if last_min_length == min_length and _same_objects(last_inputs, inputs):
                return joined
        joined = self._join(inputs, min_length)
        self._last = inputs, min_length, joined
        return joined

    def clear(self) -> None:
        """Forget the last result."""
        self._last = None


def _same_objects(first: Sequence[object], second: Sequence[object]) -> bool:
    """Whether both are the same objects in the same order."""
    return len(first) == len(second) and all(
        one is other for one, other in zip(first, second, strict=True)
    )


def round_up_to_8(count: int) -> int:
    """Return the next multiple of eight, which masked attention needs on a GPU."""
    return -(-count // 8) * 8
