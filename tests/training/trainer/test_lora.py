"""LoRA learns ten renderings on the default decoder, and merges into a checkpoint that loads."""

from __future__ import annotations

import csv
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from models import UnCLIP
from models.checkpoints.checkpoint import DEFAULT_FOLDER, load_network, read_config
from training import __main__
from training.data.solids.scene_source import SceneSource, draw_captions
from training.errors import TrainingError
from training.export import merge
from training.presets import PRESETS
from training.run import Run
from training.scenes.pixels import to_uint8
from training.trainer.lora import TARGETS, add_lora, merge_lora
from training.trainer.step import Step

CPU = torch.device("cpu")
CONFIG = read_config(DEFAULT_FOLDER)


@pytest.fixture(scope="module")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of ten renderings in a green tint, with captions."""
    folder = tmp_path_factory.mktemp("renderings")
    source = SceneSource("objects", split="test")
    step = Step(0, 10, CPU, torch.Generator().manual_seed(0))
    indices = source.draw_indices(step)
    scenes = source.draw_scenes(indices)
    images = to_uint8(source.load_images(indices, scenes, CPU)) // 2
    images[:, 1] += 100
    for k, (image, text) in enumerate(zip(images, draw_captions(scenes, step), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def tuned(renderings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the command line, and return its folder."""
    out = tmp_path_factory.mktemp("run") / "tuned"
    options = {
        "--data": renderings,
        "--checkpoint": DEFAULT_FOLDER,
        "--lora": 4,
        "--out": out,
        "--device": "cpu",
        "--steps": 30,
        "--batch": 10,
        "--lr": 5e-3,
    }
    pairs = (str(part) for option in options.items() for part in option)
    with pytest.MonkeyPatch.context() as patch:
        plan = replace(PRESETS["tune"].plans["decoder"], warmup=5, ema=0.9)
        patch.setitem(PRESETS, "tune", replace(PRESETS["tune"], plans={"decoder": plan}))
        patch.setattr(sys, "argv", ["training", "tune", "decoder", *pairs])
        __main__.main()
    return out


def test_the_loss_falls(tuned: Path) -> None:
    """Ten renderings are learned."""
    with (tuned / "decoder-loss.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    early = sum(losses[:8]) / 8
    late = sum(losses[-8:]) / 8
    assert late < 0.8 * early, (early, late)


def test_only_the_changes_are_saved(tuned: Path) -> None:
    """The run's file has a fraction of the decoder's weights."""
    state = torch.load(tuned / "decoder.pt", weights_only=True)
    assert state["averaged"]
    assert all(".lora_" in key for key in state["averaged"])
    saved = sum(value.numel() for value in state["averaged"].values())
    decoder = load_network(DEFAULT_FOLDER, "decoder", CONFIG["decoder"])
    assert saved < sum(parameter.numel() for parameter in decoder.parameters()) / 8
    assert (tuned / "decoder-samples.png").stat().st_size > 1000


def test_the_merged_checkpoint_loads_and_generates(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is the original checkpoint's, and a folder that exists is not overwritten."""
    out = tmp_path / "merged"
    monkeypatch.setattr(sys, "argv", ["merge", str(tuned), "--out", str(out)])
    merge.main()
    pipeline = UnCLIP.load(out)
    assert pipeline.name == "merged"
    assert pipeline.sizes == UnCLIP.load().sizes
    image = pipeline.generate(["a red cube"], size=64)
    assert torch.isfinite(image).all()
    assert not torch.equal(image, UnCLIP.load().generate(["a red cube"], size=64))
    assert "LoRA of rank 4" in (out / "CARD.md").read_text()
    with pytest.raises(TrainingError, match="exists already"):
        merge.merge(tuned, out, "again")


def test_the_merged_decoder_computes_the_same(tuned: Path, tmp_path: Path) -> None:
    """Merged weights give the output of the original ones with LoRA, up to fp16 rounding."""
    out = tmp_path / "merged"
    merge.merge(tuned, out, "merged")
    pipeline = UnCLIP.load(out)
    with_lora = Run(PRESETS["tune"], tuned, data="", start=DEFAULT_FOLDER, lora=4).network(
        "decoder"
    )
    averaged = torch.load(tuned / "decoder.pt", weights_only=True)["averaged"]
    with_lora.load_state_dict(averaged, strict=False)
    original = load_network(DEFAULT_FOLDER, "decoder", CONFIG["decoder"])
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 800])
    with torch.inference_mode():
        text = pipeline.clip.encode_text(pipeline.clip.tokenize(["a red cube", "a cone"])[0])
        drop = torch.tensor([False, True])
        expected, merged, before = (
            decoder(x, t, text.z_t, text, drop)
            for decoder in (with_lora.eval(), pipeline.decoder, original)
        )
    assert (expected - merged).norm() < 0.02 * (expected - before).norm()


def test_karlos_networks_are_tuned_and_merged(tmp_path: Path) -> None:
    """The prior uses Karlo's own statistics, and the decoder learns its variance."""
    karlo = tmp_path / "karlo"
    data = tmp_path / "data"
    out = tmp_path / "run"
    karlo.mkdir()
    data.mkdir()
    reference = Path(__file__).parents[2] / "models" / "checkpoints" / "karlo_reference.py"
    runpy.run_path(str(reference))["write_folder"](karlo, image_encoder=True)
    for k in range(4):
        Image.linear_gradient("L").rotate(90 * k).convert("RGB").save(data / f"{k}.png")
        (data / f"{k}.txt").write_text(f"a gradient, turned {k} times")
    plans = {
        name: replace(plan, steps=2, batch=4, lr=1e-3)
        for name, plan in PRESETS["tune"].plans.items()
    }
    run = Run(replace(PRESETS["tune"], plans=plans), out, data=str(data), start=karlo, lora=2)
    for name in ("prior", "decoder"):
        run.train(name)
    with pytest.raises(TrainingError, match="was distilled"):
        Run(run.preset, tmp_path / "whole", data=str(data), start=karlo).train("upsampler_256")
    assert merge.merge(out, tmp_path / "merged", "mine") == {"prior": 2, "decoder": 2}
    image = UnCLIP.load(tmp_path / "merged").generate(
        ["a gradient"], size=64, decoder_num_inference_steps=2, prior_num_inference_steps=2
    )
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("name", TARGETS)
def test_untrained_changes_are_zero(name: str) -> None:
    """Merging them gives the original weights, and only they are trainable."""
    original = load_network(DEFAULT_FOLDER, name, CONFIG[name])
    network = load_network(DEFAULT_FOLDER, name, CONFIG[name])
    add_lora(name, network, 2)
    weights = {key: value for key, value in network.state_dict().items() if ".lora_" in key}
    trainable = {key for key, value in network.named_parameters() if value.requires_grad}
    assert trainable == weights.keys()
    merged = merge_lora(name, load_network(DEFAULT_FOLDER, name, CONFIG[name]), 2, weights)
    assert merged.state_dict().keys() == original.state_dict().keys()
    for key, value in original.state_dict().items():
        assert torch.equal(value, merged.state_dict()[key])
    with pytest.raises(TrainingError, match="not a LoRA of rank 3"):
        merge_lora(name, load_network(DEFAULT_FOLDER, name, CONFIG[name]), 3, weights)


def test_invalid_runs_are_refused(tuned: Path, renderings: Path, tmp_path: Path) -> None:
    """Each message names the remedy."""
    tune = PRESETS["tune"]
    with pytest.raises(TrainingError, match="use another --out"):
        Run(tune, tuned, data=str(renderings), start=DEFAULT_FOLDER, lora=8).train("decoder")
    with pytest.raises(TrainingError, match="does not support upsampler_256"):
        Run(tune, tmp_path, data=str(renderings), start=DEFAULT_FOLDER, lora=8).network(
            "upsampler_256"
        )
    with pytest.raises(TrainingError, match="by --checkpoint"):
        Run(tune, tmp_path, data=str(renderings))
    with pytest.raises(TrainingError, match="by --data"):
        Run(tune, tmp_path, start=DEFAULT_FOLDER)
    with pytest.raises(TrainingError, match=r"has no NETWORK\.pt"):
        merge.merge(tmp_path, tmp_path / "out", "out")
