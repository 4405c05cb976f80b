"""The paper's experiments, in small: each writes its part of the page and its figures, and those with a known answer have it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import training.experiments.__main__ as command
from models import UnCLIP, pipeline
from models.networks.prior import DiffusionPrior
from training.evaluation import generation, scoring
from training.evaluation.metrics import Estimate
from training.experiments import (
    aesthetics,
    cache,
    conditioning,
    guidance,
    limits,
    operations,
    page,
    priors,
    samplers,
)
from training.experiments.harness import Bench, verdict


@pytest.fixture(scope="module")
def bench(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(
        UnCLIP.load(tiny_checkpoint), scoring.load_reader(), tmp_path_factory.mktemp("page")
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few drawings, steps and scales as say anything."""
    for module in (conditioning, guidance, priors):
        monkeypatch.setattr(module, "REFERENCES", 16)
    monkeypatch.setattr(aesthetics, "RATED", 40)
    for module in (guidance, aesthetics):
        monkeypatch.setattr(module, "SCALES", (1.0, 2.0))
    monkeypatch.setattr(guidance, "EACH", 2)
    monkeypatch.setattr(operations, "STEPS", (4, 8))
    monkeypatch.setattr(operations, "SHOWN", 1)
    few = {
        name: defaults | {"decoder_num_inference_steps": 4}
        for name, defaults in pipeline.OPERATION_DEFAULTS.items()
    }
    monkeypatch.setattr(pipeline, "OPERATION_DEFAULTS", few)
    monkeypatch.setattr(operations, "GUIDANCE", (2.0,))
    monkeypatch.setattr(samplers, "EVALUATIONS", (4, 7))
    monkeypatch.setattr(
        samplers, "REFERENCE", {"sampler": "unipc", "decoder_num_inference_steps": 7}
    )


@pytest.mark.usefixtures("small")
def test_all_of_them_write_one_page(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its part, with a stamp, numbers and the figures that it names, of a size for a repository."""
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "experiments",
            "all",
            "--checkpoint",
            str(tiny_checkpoint),
            "--count",
            "2",
            "--out",
            str(tmp_path),
        ],
    )
    command.main()
    text = (tmp_path / "findings.md").read_text()
    parts = page.parts(text)
    assert list(parts) == list(command.EXPERIMENTS)
    for name, body in parts.items():
        assert body.startswith("## ")
        assert f"python -m training.experiments {name}`, --count 2" in body
        assert "'tiny'" in body
    assert "nan" not in text
    named = {word.split(")")[0] for word in text.split("](")[1:] if word.startswith("findings/")}
    assert len(named) >= 10
    assert all((tmp_path / figure).stat().st_size < 250_000 for figure in named)


def test_a_part_written_anew_leaves_the_others(tmp_path: Path) -> None:
    """And what no experiment is called any more goes."""
    file = tmp_path / "findings.md"
    for name, body in (("b", "two"), ("a", "one"), ("old", "gone"), ("b", "three")):
        page.write(file, name, body, ["a", "b", "old"])
    page.write(file, "a", "one", ["a", "b"])
    assert page.parts(file.read_text()) == {"a": "one", "b": "three"}
    assert file.read_text().startswith("# Findings")


def test_the_page_counts_its_verdicts() -> None:
    """Of the parts that have any."""
    said = "\n".join(
        [
            verdict(True, "x"),
            verdict(True, "y"),
            verdict(False, "z"),
            verdict(None, "u"),
            verdict(True, "v", papers=False),
        ]
    )
    assert page.summary({"a": f"## A\n\n{said}", "b": "## B"}).splitlines()[2:] == [
        "| A | 2 | 1 | 1 |"
    ]


def test_images_are_drawn_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same caption, seed and parameters give the image that is there; another seed, way or scale does not."""
    first = bench.draw(["a red cube", "a blue cube"], [0, 1])
    drawn = list[str]()
    monkeypatch.setattr(
        "training.experiments.harness.draw",
        lambda pipeline, texts, *rest, **given: (
            drawn.extend(texts) or generation.draw(pipeline, texts, *rest, **given)
        ),
    )
    again = bench.draw(["a blue cube", "a green cube"], [1, 1])
    assert drawn == ["a green cube"]
    assert torch.equal(again[0], first[1])
    for seed, way, scale in ((1, "prior", None), (0, "text", None), (0, "prior", 3.0)):
        assert not torch.equal(
            bench.draw(["a red cube"], [seed], way, decoder_guidance_scale=scale)[0], first[0]
        )


def test_text_only_withholds_z_i(bench: Bench) -> None:
    """What stands for z_i is, to the decoder, what a dropped one is."""
    decoder = bench.pipeline.decoder
    clip = bench.pipeline.clip
    x_t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    text = clip.encode_text(clip.tokenize(["a red cube"])[0])
    torch.nn.init.normal_(decoder.null_image, std=0.5)
    with torch.inference_mode():
        null = decoder(
            x_t, t, generation.null_image(bench.pipeline)[None], text, torch.tensor([False])
        )
        dropped = decoder(x_t, t, torch.zeros(1, clip.embed_dim), text, torch.tensor([True]))
    assert torch.allclose(null, dropped, atol=1e-5)


def test_a_finding_is_the_papers_only_where_intervals_are_apart() -> None:
    """The paper's order of distances, the reverse of it, and what cannot be told."""
    order = {
        "prior": Estimate(1, 0.9, 1.1),
        "text": Estimate(2, 1.9, 2.1),
        "z_t": Estimate(3, 2.9, 3.1),
    }
    right = dict.fromkeys(("prior", "text", "z_t"), Estimate(0.5, 0.4, 0.6))
    lines = conditioning.judgement(right, order)
    assert all(line.startswith("- **As in the paper") for line in lines[:3])
    assert lines[3].startswith("- **Not told apart")
    reverse = order | {"prior": order["z_t"], "z_t": order["prior"]}
    assert all(
        line.startswith("- **Not as in the paper")
        for line in conditioning.judgement(right, reverse)[:3]
    )


def test_trials_are_true_of_their_scenes(bench: Bench) -> None:
    """The reader finds in the drawings most of what the limits' captions say, and seldom what the swapped ones do."""
    import random

    rng = random.Random(0)
    tried = [trial for alike in (True, False) for trial in limits.binding(24, rng, alike=alike)]
    drawn = generation.drawings([trial.scene for trial in tried])
    right = scoring.judged(bench.reader, drawn, [trial.said for trial in tried])["core"]
    swapped = scoring.judged(
        bench.reader, drawn, [trial.swapped for trial in tried if trial.swapped]
    )["core"]
    assert sum(right) >= 38
    assert sum(swapped) <= 2
    detailed = limits.crowded(10, 4, rng)
    assert all(
        {"place", "time"} <= trial.said.claims.keys() and trial.said.text.count(" ") > 10
        for trial in detailed
    )


def test_without_noise_variations_do_not_differ(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At eta 0 all seeds draw one image; at 1 they do not."""
    monkeypatch.setattr(operations, "ETAS", (0.0, 1.0))
    spread = {
        eta: value for eta, _, value in operations.variations(bench.pipeline, bench.reader, 2)
    }
    assert spread[0.0] < 1e-4 < spread[1.0]


def test_the_prefix_cache_saves_most_of_the_priors_work(bench: Bench) -> None:
    """Of 81 positions three are computed at each step and 78 once: with five steps of one candidate that is a bit more than a fifth."""
    found = cache.diffusion_cost(bench.pipeline.prior.config, 77, 5)
    assert (78 + 5 * 3) / (5 * 81) * 0.9 < found.cached / found.whole < 0.4
    with torch.device("meta"):
        prior = DiffusionPrior(bench.pipeline.prior.config)
    assert cache.Blocks.of(prior).passes(7, 5) == prior.config.layers * cache.counted(prior, 7, 5)


def test_heun_is_given_the_steps_that_make_as_many_evaluations() -> None:
    """2n - 1 of them."""
    heun, ddim = (
        next(line for line in samplers.LINES if line.name == name) for name in ("Heun", "DDIM")
    )
    assert [heun.at(n)["decoder_num_inference_steps"] for n in (5, 16, 17)] == [3, 8, 9]
    assert ddim.at(16)["decoder_num_inference_steps"] == 16
