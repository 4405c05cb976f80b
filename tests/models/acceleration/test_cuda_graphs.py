"""Passes that are recorded and played back, without a GPU: here a recording runs the network again over the places it was made with."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.acceleration.cuda_graphs import CudaGraphs, bucket_size, pad_batch
from models.row import Row
from models.stages.diffusion import advance, x_t_of


class Player:
    """Records on a CPU, and counts what is recorded and played."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        said = network()
        self.recorded += 1

        def replay() -> None:
            self.played += 1
            said.copy_(network())

        return replay, said


def sums(fresh, held):
    return fresh[0] * 2 + sum(held)


def test_buckets_leave_at_most_a_fifth_empty() -> None:
    """Up to eight rows each number has its own; none is given fewer places than it needs."""
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
    assert all(
        n <= bucket_size(n) <= 1.25 * n and bucket_size(bucket_size(n)) == bucket_size(n)
        for n in range(1, 200)
    )
    assert pad_batch(torch.tensor([[1.0], [2.0]]), 4).flatten().tolist() == [1, 2, 2, 2]


def test_what_comes_twice_is_recorded_and_played_with_the_new_numbers() -> None:
    """Rows that share a bucket share a recording, and get their own numbers back."""
    player = Player()
    graphs = CudaGraphs(player)
    for rows, value in ((9, 1.0), (10, 2.0), (9, 3.0), (10, 4.0)):
        x = torch.full((rows, 2), value)
        held = [torch.arange(rows * 2.0).view(rows, 2) + value]
        said = graphs.run("network", sums, [x], held)
        assert torch.equal(said, 2 * x + held[0])
    assert (player.recorded, player.played, len(graphs)) == (1, 3, 1)


def test_what_is_held_is_copied_when_it_is_another() -> None:
    """And what is fresh is copied always; what a pass said stays when the next one is made."""
    graphs = CudaGraphs(Player())
    held = [torch.ones(2, 1)]
    first, second, third = (
        graphs.run("network", sums, [torch.full((2, 1), value)], held) for value in (1.0, 2.0, 3.0)
    )
    assert (first[0], second[0], third[0]) == (3, 5, 7)
    held[0].fill_(9)  # nobody does, as it would go unseen
    assert graphs.run("network", sums, [torch.ones(2, 1)], held)[0] == 3
    assert graphs.run("network", sums, [torch.ones(2, 1)], [held[0].clone()])[0] == 11


def test_the_recording_used_longest_ago_makes_room() -> None:
    """There are never more than `most`."""
    player = Player()
    graphs = CudaGraphs(player, max_graphs=2)

    def run(rows: int) -> None:
        graphs.run("network", sums, [torch.ones(rows, 1)])

    for rows in (1, 1, 2, 2, 1, 3, 3):  # 2 was used before 1
        run(rows)
    assert len(graphs) == 2
    assert player.recorded == 3
    run(1)
    assert player.recorded == 3
    run(2)
    assert len(graphs) == 2
    assert player.recorded == 4


def test_what_cannot_be_recorded_is_passed_as_before() -> None:
    """It is tried once."""
    tried = []

    def refuse(network: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        tried.append(network)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = CudaGraphs(refuse)
    for value in (1.0, 2.0, 3.0):
        assert (
            graphs.run("network", sums, [torch.full((5, 1), value)]).flatten().tolist()
            == [2 * value] * 5
        )
    assert len(tried) == 1
    assert len(graphs) == 0


def mixed(pipeline: UnCLIP) -> list[Row]:
    """Rows of which some end earlier and some are not guided: batches of changing size, at steps of their own."""
    few = {"size": 256, "prior_num_inference_steps": 3, "upsampler_num_inference_steps": 3}
    return [
        pipeline.row("a red cube", 1, pipeline.resolve(**few, decoder_num_inference_steps=6)),
        pipeline.row(
            "a blue cone on snow, and then some more words",
            2,
            pipeline.resolve(**few, decoder_num_inference_steps=4),
        ),
        pipeline.row(
            "two",
            3,
            pipeline.resolve(
                **few, sampler="ddpm", decoder_num_inference_steps=5, decoder_guidance_scale=1.0
            ),
        ),
        pipeline.row(
            "", 4, pipeline.resolve(**few, decoder_num_inference_steps=6, prior_num_candidates=2)
        ),
        pipeline.row(
            "a",
            5,
            pipeline.resolve(**few, decoder_num_inference_steps=6, decoder_guidance_stop=0.5),
        ),
    ]


def test_images_are_the_same_to_rounding(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of every network, with rows that come and go; of Karlo's upsampler both U-Nets."""
    runpy.run_path(str(Path(__file__).parents[1] / "checkpoints" / "karlo_reference.py"))[
        "write_folder"
    ](tmp_path)
    for folder in (tiny_checkpoint, tmp_path):
        pipeline = UnCLIP.load(folder)
        plain = mixed(pipeline)
        played = mixed(pipeline)
        pipeline.run(plain)
        player = Player()
        pipeline.set_graphs(CudaGraphs(player))
        pipeline.run(mixed(pipeline))  # the first time, passes are met
        pipeline.run(played)
        assert player.played > player.recorded > 3
        for one, other in zip(plain, played, strict=True):
            assert one.image is not None
            assert other.image is not None
            # The mean: random weights make much of a rounding here and there, as they do of another batch.
            assert (one.image - other.image).abs().mean() < 2e-3


def test_a_cpu_has_no_graphs(tiny_checkpoint: Path) -> None:
    """Nothing happens there."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    pipeline.enable_cuda_graphs()
    assert pipeline.graphs is None


def test_rows_in_step_are_moved_as_each_alone(tiny_checkpoint: Path) -> None:
    """To the bit: they draw the same noise, and share the arithmetic only."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    x_0s = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    spread = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
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
            for _ in "ab"
        )
        for rows in (together, alone):
            while rows[0].stage != "decoder":
                pipeline.step(rows)
        for _ in range(4):
            with torch.inference_mode():
                advance(together, list(x_0s), list(spread))
                for row, x_0, variance in zip(alone, x_0s, spread, strict=True):
                    advance([row], [x_0], [variance])
            for one, other in zip(together, alone, strict=True):
                assert torch.equal(x_t_of(one), x_t_of(other))
                assert one.step == other.step


def test_fused_kernels_say_what_torch_says() -> None:
    """By Triton's interpreter, in a process of its own: in fp16 and with channels that fill no tile."""
    pytest.importorskip("triton")
    program = """
import torch
from torch import nn
from models.kernels import group_norm
assert group_norm._works(torch.device("cpu"))
torch.manual_seed(0)
x = torch.randn(2, 72, 9, 9).add(3).contiguous(memory_format=torch.channels_last)
of = nn.GroupNorm(6, 72)
nn.init.normal_(of.weight)
with torch.inference_mode():
    found, added = group_norm.norm(x, of, silu=False), torch.randn(2, 72)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, of(x), atol=1e-4)
    assert torch.allclose(group_norm.norm(x, of, added), nn.functional.silu(of(x + added[..., None, None])), atol=1e-4)
"""
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=interpreted,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
