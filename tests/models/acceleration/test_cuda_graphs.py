"""CUDA graphs without a GPU: here a captured graph runs the network again on its input tensors."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from models import UnCLIP
from models.acceleration.cuda_graphs import CudaGraphs, bucket_size, pad_batch
from models.row import Row


class CpuCapturer:
    """Captures on a CPU, and counts captures and replays."""

    def __init__(self) -> None:
        self.num_captures = 0
        self.num_replays = 0

    def __call__(self, network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = network()
        self.num_captures += 1

        def replay() -> None:
            self.num_replays += 1
            output.copy_(network())

        return replay, output


def add_inputs(step_inputs, cached_inputs):
    return step_inputs[0] * 2 + sum(cached_inputs)


def test_buckets_leave_at_most_a_fifth_empty() -> None:
    """Each of up to eight rows has its size, and no size is smaller than the batch."""
    assert [bucket_size(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 33)] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        10,
        12,
        14,
        16,
        20,
        40,
    ]
    assert all(n <= bucket_size(n) <= 1.25 * n for n in range(1, 200))
    assert all(bucket_size(bucket_size(n)) == bucket_size(n) for n in range(1, 200))
    assert pad_batch(torch.tensor([[1.0], [2.0]]), 4).flatten().tolist() == [1, 2, 2, 2]


def test_a_repeated_pass_is_captured_and_replayed_with_new_inputs() -> None:
    """Rows of one bucket share a graph and get their own results."""
    capturer = CpuCapturer()
    graphs = CudaGraphs(capturer)
    for rows, value in ((9, 1.0), (10, 2.0), (9, 3.0), (10, 4.0)):
        x = torch.full((rows, 2), value)
        cached = [torch.arange(rows * 2.0).view(rows, 2) + value]
        output = graphs.run("network", add_inputs, [x], cached)
        assert torch.equal(output, 2 * x + cached[0])
    assert capturer.num_captures == 1
    assert capturer.num_replays == 3
    assert len(graphs) == 1


def test_cached_inputs_are_copied_when_they_change() -> None:
    """Step inputs are always copied, and an output stays valid after the next pass."""
    graphs = CudaGraphs(CpuCapturer())
    cached = [torch.ones(2, 1)]
    first, second, third = (
        graphs.run("network", add_inputs, [torch.full((2, 1), value)], cached)
        for value in (1.0, 2.0, 3.0)
    )
    assert (first[0], second[0], third[0]) == (3, 5, 7)
    # A change in place is not detected, and does not occur in the pipeline.
    cached[0].fill_(9)
    assert graphs.run("network", add_inputs, [torch.ones(2, 1)], cached)[0] == 3
    assert graphs.run("network", add_inputs, [torch.ones(2, 1)], [cached[0].clone()])[0] == 11


def test_the_least_recently_used_graph_is_dropped() -> None:
    """There are never more than `max_graphs`."""
    capturer = CpuCapturer()
    graphs = CudaGraphs(capturer, max_graphs=2)

    def run(rows: int) -> None:
        graphs.run("network", add_inputs, [torch.ones(rows, 1)])

    # The graph of 2 rows was used before that of 1.
    for rows in (1, 1, 2, 2, 1, 3, 3):
        run(rows)
    assert len(graphs) == 2
    assert capturer.num_captures == 3
    run(1)
    assert capturer.num_captures == 3
    run(2)
    assert len(graphs) == 2
    assert capturer.num_captures == 4


def test_a_failed_capture_runs_eagerly() -> None:
    """A failed capture is attempted once."""
    attempts = []

    def fail(network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        attempts.append(network)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = CudaGraphs(fail)
    for value in (1.0, 2.0, 3.0):
        assert (
            graphs.run("network", add_inputs, [torch.full((5, 1), value)]).flatten().tolist()
            == [2 * value] * 5
        )
    assert len(attempts) == 1
    assert len(graphs) == 0


def mixed_rows(pipeline: UnCLIP) -> list[Row]:
    """Create rows of different lengths and guidance, so that batch sizes change."""
    steps = {"size": 256, "prior_num_inference_steps": 3, "upsampler_num_inference_steps": 3}
    return [
        pipeline.row("a red cube", 1, pipeline.resolve(**steps, decoder_num_inference_steps=6)),
        pipeline.row(
            "a blue cone on snow, and then some more words",
            2,
            pipeline.resolve(**steps, decoder_num_inference_steps=4),
        ),
        pipeline.row(
            "two",
            3,
            pipeline.resolve(
                **steps, sampler="ddpm", decoder_num_inference_steps=5, decoder_guidance_scale=1.0
            ),
        ),
        pipeline.row(
            "", 4, pipeline.resolve(**steps, decoder_num_inference_steps=6, prior_num_candidates=2)
        ),
        pipeline.row(
            "a",
            5,
            pipeline.resolve(**steps, decoder_num_inference_steps=6, decoder_guidance_stop=0.5),
        ),
    ]


def test_graphs_change_images_by_rounding_only(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Covers every network, and both U-Nets of Karlo's upsampler."""
    runpy.run_path(str(Path(__file__).parents[1] / "checkpoints" / "karlo_reference.py"))[
        "write_folder"
    ](tmp_path)
    for folder in (tiny_checkpoint, tmp_path):
        pipeline = UnCLIP.load(folder)
        plain = mixed_rows(pipeline)
        replayed = mixed_rows(pipeline)
        pipeline.run(plain)
        capturer = CpuCapturer()
        pipeline.set_graphs(CudaGraphs(capturer))
        pipeline.run(mixed_rows(pipeline))  # the first occurrence of each pass
        pipeline.run(replayed)
        assert capturer.num_replays > capturer.num_captures > 3
        for one, other in zip(plain, replayed, strict=True):
            assert one.image is not None
            assert other.image is not None
            # The mean, because random weights amplify rounding in places, as another batch does.
            assert (one.image - other.image).abs().mean() < 2e-3


def test_a_cpu_has_no_graphs(tiny_checkpoint: Path) -> None:
    """Enabling graphs has no effect without a GPU."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    pipeline.enable_cuda_graphs()
    assert pipeline.graphs is None
