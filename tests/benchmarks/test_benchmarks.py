"""The benchmarks' own arithmetic: the simulated device, exponents, load."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.baselines.simulated_worker import PASS_TIMES, SimulatedPipeline
from benchmarks.plots import Panel, save_panels
from benchmarks.serving.diffusers_load import SHORT_STEPS
from benchmarks.serving.load import (
    LONG,
    SHORT,
    closed_loop_throughput,
    num_images,
    open_loop_latencies,
    random_request,
)
from benchmarks.serving.scaling import fit_exponent


def test_an_exponent_is_that_of_a_power_law() -> None:
    """A constant has the exponent 0."""
    xs = [1, 10, 1000]
    assert fit_exponent(xs, [3 * x**1.5 for x in xs]) == pytest.approx(1.5)
    assert fit_exponent(xs, [2.0, 2.0, 2.0]) == pytest.approx(0, abs=1e-9)


def test_a_simulated_pass_takes_the_time_of_its_table(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go through all of their stages, and a second row adds its share to each pass."""
    sleeps_s: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps_s.append)
    pipeline = SimulatedPipeline.load(tiny_checkpoint)
    prior, decoder, upsampler = SHORT_STEPS
    parameters = pipeline.resolve(
        size=256,
        prior_num_inference_steps=prior,
        decoder_num_inference_steps=decoder,
        upsampler_num_inference_steps=upsampler,
    )
    rows = [pipeline.row("a red cube", seed, parameters) for seed in (1, 2)]
    while rows[0].stage is not None:
        pipeline.step(rows)
    steps = {"text": 1, "prior": prior, "decoder": decoder, "upsampler_256": upsampler}
    assert len(sleeps_s) == sum(steps.values())
    expected_s = sum(count * PASS_TIMES[stage].seconds(2) for stage, count in steps.items())
    assert sum(sleeps_s) == pytest.approx(expected_s)
    for row in rows:
        assert row.image is not None
        assert row.image.shape == (3, 256, 256)


def test_a_tenth_of_the_requests_is_long() -> None:
    """Every request has another seed."""
    rng = random.Random(0)
    requests = [random_request(rng) for _ in range(2000)]
    assert 150 < sum(num_images(request) == LONG["n"] for request in requests) < 250
    assert len({request["seed"] for request in requests}) == len(requests)


def test_open_loop_requests_do_not_wait_for_one_another() -> None:
    """Each request takes its own time, and short ones are counted apart from long ones."""
    requests = [SHORT | {"seed": 1}, LONG | {"seed": 2}, SHORT | {"seed": 3}]
    started = time.perf_counter()
    latencies = open_loop_latencies(
        lambda request: time.sleep(0.3), 1000.0, requests, LONG, random.Random(0)
    )
    assert time.perf_counter() - started < 0.6
    assert len(latencies["short"]) == 2
    assert len(latencies["long"]) == 1
    assert min(latencies["short"]) >= 0.3


def test_closed_loop_throughput_counts_images() -> None:
    """Two workers finish four requests of four images in two rounds."""
    requests = [LONG | {"seed": seed} for seed in range(4)]
    throughput = closed_loop_throughput(lambda request: time.sleep(0.2), requests, 2)
    assert 16 / 0.8 < throughput <= 16 / 0.4


def test_panels_are_saved_to_a_new_folder(tmp_path: Path) -> None:
    """The file is a PNG."""
    path = tmp_path / "new" / "plot.png"
    panels = [Panel("x", "y", {"a": {1: 2.0, 2: 3.0}}), Panel("x", "y", {"b": {1: 1.0}})]
    save_panels(path, panels, is_log=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_command_line_lists_the_benchmarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m benchmarks --help` needs no part of the extra `bench`."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    for name in ("latency", "overhead", "load-simulated", "scaling", "pipeline-karlo"):
        assert name in output
