"""A network's passes as CUDA graphs: recorded once for a number of rows, and played back in one launch.

A pass of a U-Net is some hundred kernels, and with few rows the host takes longer to launch them than the GPU to run them. A graph reads
its input where it lay when it was recorded, so each pass's rows are copied there. Rows come and go; so that few graphs do for any number
of them, there is one for 1 to 8, 10, 12, 14, 16, 20 … rows, and places without a row hold what was there before: no row sees another.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("models.acceleration.cuda_graphs")
MOST = 96  # graphs at a time: of five networks all sizes up to some sixty rows
WARM_UPS = 2  # passes before the recording, in which libraries choose their kernels

# A pass: what differs at every step, and what is held as long as the same rows share a pass -> what the network says, a row a row.
Pass = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
# Makes a recording of a pass that reads its input where it lies: what plays it back, and where it then says what it says.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def bucket(rows: int) -> int:
    """The least of 1 … 8, 10 … 16, 20 … 32, 40 … that is not below `rows`: at most a fifth of the places are empty. With many rows an
    empty place costs as much as one that is taken."""
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return -(-rows // step) * step


def filled(x: Tensor, size: int) -> Tensor:
    """x `[B, …]` with its last row again up to `[size, …]`."""
    return x if len(x) == size else torch.cat((x, x[-1:].expand(size - len(x), *x.shape[1:])))


class Recorder:
    """Records on a GPU. All recordings share one pool of memory: they are played one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # one for all: cuBLAS keeps a workspace for each

    def __call__(self, network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See `Record`."""
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(WARM_UPS):
                    network()
            torch.cuda.current_stream().wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, which send images home meanwhile, are none of the recording's business.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                said = network()
        return graph.replay, said


@dataclass
class Recording:
    """A pass at one size: where its input lies, what is held there, and where its output is after `replay`."""

    fresh: list[Tensor]
    held: list[Tensor]
    holds: weakref.ref[Tensor] | None  # the first of the tensors that were last copied to `held`
    replay: Callable[[], None]
    said: Tensor


class Graphs:
    """Recordings by network and size, of passes that came more than once; the one that was not used for longest makes room. The networks'
    weights must stay where they are."""

    def __init__(self, record: Record, most: int = MOST, compiled: bool = False) -> None:
        """`compiled`: by torch.compile before they are recorded, which takes a minute or so each."""
        self.record = record
        self.most = most
        self.compiled = compiled
        self._recordings: OrderedDict[tuple[Any, ...], Recording] = OrderedDict()
        self._met: set[tuple[Any, ...]] = set()
        self._refused: set[tuple[Any, ...]] = set()

    def __len__(self) -> int:
        """How many recordings there are."""
        return len(self._recordings)

    def run(
        self, name: str, network: Pass, fresh: Sequence[Tensor], held: Sequence[Tensor] = ()
    ) -> Tensor:
        """A network's pass over rows, `[B, …]` each tensor. `held` is copied only where its first tensor is another than before."""
        rows = len(fresh[0])
        size = bucket(rows)
        key = (name, size, *((x.dtype, *x.shape[1:]) for x in (*fresh, *held)))
        recording = self._recordings.get(key)
        if recording is None and key in self._met and key not in self._refused:
            recording = self._recorded(
                key, network, [filled(x, size) for x in fresh], [filled(x, size) for x in held]
            )
        if recording is None:
            self._met.add(key)
            return network([filled(x, size) for x in fresh], [filled(x, size) for x in held])[:rows]
        self._recordings.move_to_end(key)
        _copied(recording.fresh, fresh)
        if held and (recording.holds is None or recording.holds() is not held[0]):
            _copied(recording.held, held)
            recording.holds = weakref.ref(held[0])
        recording.replay()
        return recording.said[:rows].clone()

    def _recorded(
        self, key: tuple[Any, ...], network: Pass, fresh: list[Tensor], held: list[Tensor]
    ) -> Recording | None:
        """A recording with places of its own; None where it cannot be made, and then it is not tried again."""
        while len(self._recordings) >= self.most:
            self._recordings.popitem(last=False)
        fresh = [x.clone() for x in fresh]
        held = [x.clone() for x in held]
        run = torch.compile(network, dynamic=False) if self.compiled else network
        try:
            replay, said = self.record(lambda: run(fresh, held))
        except (
            Exception
        ) as error:  # the pass itself is not at fault: it is made without a recording, as before
            log.warning(
                "no graph of %s: its passes are launched one by one", key[:2], exc_info=True
            )
            self._refused.add(key)
            if isinstance(error, torch.OutOfMemoryError):
                self._recordings.clear()
            return None
        self._recordings[key] = Recording(fresh, held, None, replay, said)
        return self._recordings[key]


def _copied(places: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
    """Rows into their places, in few launches."""
    torch._foreach_copy_(
        [place[: len(x)] for place, x in zip(places, rows, strict=True)], list(rows)
    )
