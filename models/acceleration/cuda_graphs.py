"""Forward passes as CUDA graphs: captured once for a batch size, and replayed in one launch.

A pass of a U-Net is some hundred kernels, and with few rows the host takes longer to launch them
than the GPU to run them. A graph reads its input at the addresses it was captured with, so each
pass copies its rows there. Batch sizes vary, so there is one graph for each of 1 to 8, 10, 12, 14,
16, 20 … rows. Smaller batches leave old values in the rest, which no row depends on.
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
# Graphs at a time: of five networks all sizes up to some sixty rows.
MAX_GRAPHS = 96
# Passes before the capture, in which libraries choose their kernels.
WARMUP_PASSES = 2

# A pass: inputs that differ at every step, and inputs that stay while the same rows share the pass
# -> the network's output, `[B, …]`.
Pass = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
# Captures a pass that reads its inputs in place: returns a function that replays it, and the tensor
# that then holds its output.
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def bucket_size(rows: int) -> int:
    """Return the smallest of 1 … 8, 10 … 16, 20 … 32, 40 … that is at least `rows`.

    At most a fifth of the places are empty. In large batches an empty place costs as much as a
    row."""
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return -(-rows // step) * step


def pad_batch(x: Tensor, size: int) -> Tensor:
    """Repeat the last row of x `[B, …]` up to `[size, …]`."""
    return x if len(x) == size else torch.cat((x, x[-1:].expand(size - len(x), *x.shape[1:])))


class GraphCapturer:
    """Captures passes on a GPU.

    All graphs share one memory pool, because they are replayed one after the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        # One for all graphs, because cuBLAS allocates a workspace for each stream.
        self.stream = torch.cuda.Stream(device)

    def __call__(self, network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Capture a pass, and return a function that replays it with the tensor of its output."""
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(WARMUP_PASSES):
                    network()
            torch.cuda.current_stream().wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads copy images to the host meanwhile, outside the capture.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                output = network()
        return graph.replay, output


@dataclass
class CapturedGraph:
    """A pass at one batch size, with its input tensors and its output after `replay`."""

    step_inputs: list[Tensor]
    cached_inputs: list[Tensor]
    cached_source: weakref.ref[Tensor] | None  # first tensor last copied to `cached_inputs`
    replay: Callable[[], None]
    output: Tensor


class CudaGraphs:
    """Replays passes by network and batch size, and captures those that occur a second time.

    The least recently used graph is dropped when there are more than `max_graphs`. The networks'
    weights must not move."""

    def __init__(
        self, capture: Capture, max_graphs: int = MAX_GRAPHS, compiled: bool = False
    ) -> None:
        """Create an empty set of graphs.

        `compiled` runs torch.compile before each capture, which takes about a minute."""
        self.capture = capture
        self.max_graphs = max_graphs
        self.compiled = compiled
        self._graphs: OrderedDict[tuple[Any, ...], CapturedGraph] = OrderedDict()
        self._seen: set[tuple[Any, ...]] = set()
        self._failed: set[tuple[Any, ...]] = set()

    def __len__(self) -> int:
        """Return the number of captured graphs."""
        return len(self._graphs)

    def run(
        self,
        name: str,
        network: Pass,
        step_inputs: Sequence[Tensor],
        cached_inputs: Sequence[Tensor] = (),
    ) -> Tensor:
        """Run a network's pass over rows, `[B, …]` each tensor, and return its output `[B, …]`.

        `cached_inputs` are copied only if the first of them is another tensor than before."""
        rows = len(step_inputs[0])
        size = bucket_size(rows)
        key = (name, size, *((x.dtype, *x.shape[1:]) for x in (*step_inputs, *cached_inputs)))
        graph = self._graphs.get(key)
        if graph is None:
            padded_step = [pad_batch(x, size) for x in step_inputs]
            padded_cached = [pad_batch(x, size) for x in cached_inputs]
            if key in self._seen and key not in self._failed:
                graph = self._capture(key, network, padded_step, padded_cached)
            if graph is None:
                self._seen.add(key)
                return network(padded_step, padded_cached)[:rows]
        self._graphs.move_to_end(key)
        _copy_rows(graph.step_inputs, step_inputs)
        source = None if graph.cached_source is None else graph.cached_source()
        if cached_inputs and source is not cached_inputs[0]:
            _copy_rows(graph.cached_inputs, cached_inputs)
            graph.cached_source = weakref.ref(cached_inputs[0])
        graph.replay()
        return graph.output[:rows].clone()

    def _capture(
        self,
        key: tuple[Any, ...],
        network: Pass,
        step_inputs: Sequence[Tensor],
        cached_inputs: Sequence[Tensor],
    ) -> CapturedGraph | None:
        """Return a graph with new input tensors, or None after a failed capture.

        A capture that failed is not attempted again."""
        while len(self._graphs) >= self.max_graphs:
            self._graphs.popitem(last=False)
        step_inputs = [x.clone() for x in step_inputs]
        cached_inputs = [x.clone() for x in cached_inputs]
        run = torch.compile(network, dynamic=False) if self.compiled else network
        try:
            replay, output = self.capture(lambda: run(step_inputs, cached_inputs))
        except Exception as error:
            # The pass itself may be fine: it runs eagerly, as before.
            log.warning("CUDA graph capture failed for %s: running eagerly", key[:2], exc_info=True)
            self._failed.add(key)
            if isinstance(error, torch.OutOfMemoryError):
                self._graphs.clear()
            return None
        self._graphs[key] = CapturedGraph(step_inputs, cached_inputs, None, replay, output)
        return self._graphs[key]


def _copy_rows(places: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
    """Copy rows to the start of larger tensors, in few launches."""
    torch._foreach_copy_(
        [place[: len(x)] for place, x in zip(places, rows, strict=True)], list(rows)
    )
