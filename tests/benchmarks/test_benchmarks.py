"""What measures must itself be right: the imagined device, the exponents, and what a way of serving is told to draw."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks.baselines.simulated_worker import PASSES, PacedPipeline
from benchmarks.plots import panels
from benchmarks.serving.load import FEW_STEPS, LONG, SHORT, images, mixed, opened
from benchmarks.serving.scaling import exponent


def test_an_exponent_is_that_of_a_power_law() -> None:
    """And 0 of what stays the same."""
    xs = [1, 10, 1000]
    assert exponent(xs, [3 * x**1.5 for x in xs]) == pytest.approx(1.5)
    assert exponent(xs, [2.0, 2.0, 2.0]) == pytest.approx(0, abs=1e-9)


def test_a_paced_pipeline_takes_as_long_as_its_table_says(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go through all of their stages, and a row more costs its share."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pipeline = PacedPipeline.load(tiny_checkpoint)
    prior, decoder, upsampler = FEW_STEPS
    steps = {
        "prior_num_inference_steps": prior,
        "decoder_num_inference_steps": decoder,
        "upsampler_num_inference_steps": upsampler,
    }
    parameters = pipeline.resolve(size=256, **steps)
    rows = [pipeline.row("a red cube", seed, parameters) for seed in (1, 2)]
    while rows[0].stage is not None:
        pipeline.step(rows)
    each = {"text": 1, "prior": prior, "decoder": decoder, "upsampler_256": upsampler}
    assert len(slept) == sum(each.values())
    assert sum(slept) == pytest.approx(
        sum(count * PASSES[stage][0] * (1 + PASSES[stage][1]) for stage, count in each.items())
    )
    assert all(row.image is not None and row.image.shape == (3, 256, 256) for row in rows)


def test_a_tenth_of_the_requests_is_long() -> None:
    """And each has a seed of its own."""
    rng = random.Random(0)
    requests = [mixed(rng) for _ in range(2000)]
    assert 150 < sum(images(request) == LONG["n"] for request in requests) < 250
    assert len({request["seed"] for request in requests}) == len(requests)


def test_requests_that_come_at_random_do_not_wait_for_each_other() -> None:
    """Each takes what it takes, however many are under way; short and long are told apart."""
    requests = [SHORT | {"seed": 1}, LONG | {"seed": 2}, SHORT | {"seed": 3}]
    started = time.perf_counter()
    taken = opened(lambda request: time.sleep(0.3), 1000.0, requests, LONG, random.Random(0))
    assert time.perf_counter() - started < 0.6
    assert (len(taken["short"]), len(taken["long"])) == (2, 1)
    assert min(taken["short"]) >= 0.3


def test_panels_are_drawn(tmp_path: Path) -> None:
    """Into a folder that need not be there."""
    panels(
        tmp_path / "new" / "plot.png",
        [("x", "y", {"a": {1: 2.0, 2: 3.0}}), ("x", "y", {"b": {1: 1.0}})],
        log=True,
    )
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
