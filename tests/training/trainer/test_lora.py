"""LoRA learns ten drawings on the default decoder, and what it learned can be merged into a checkpoint that loads and draws."""

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
from training.data.scene_cache import to_uint8
from training.data.sources import World, captions
from training.errors import TrainingError
from training.export import merge
from training.presets import PRESETS
from training.run import Run
from training.trainer.lora import TARGETS, add_lora, merged
from training.trainer.trainer import Step

CPU = torch.device("cpu")
CONFIG = read_config(DEFAULT_FOLDER)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawings of the world, on a sky of green, as files with captions."""
    folder = tmp_path_factory.mktemp("drawings")
    world = World("objects", split="fresh")
    step = Step(0, 10, CPU, torch.Generator().manual_seed(0))
    scenes = world.scenes(world.indices(step))
    images = to_uint8(world.images(world.indices(step), scenes, CPU)) // 2
    images[:, 1] += 100
    for k, (image, text) in enumerate(zip(images, captions(scenes, step), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def tuned(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command line, and its run folder."""
    out = tmp_path_factory.mktemp("run") / "tuned"
    given = [
        "tune",
        "decoder",
        "--data",
        str(drawings),
        "--checkpoint",
        str(DEFAULT_FOLDER),
        "--lora",
        "4",
        "--out",
        str(out),
    ]
    with pytest.MonkeyPatch.context() as patch:
        plan = replace(PRESETS["tune"].plans["decoder"], warmup=5, ema=0.9)
        patch.setitem(PRESETS, "tune", replace(PRESETS["tune"], plans={"decoder": plan}))
        patch.setattr(
            sys,
            "argv",
            [
                "training",
                *given,
                "--device",
                "cpu",
                "--steps",
                "30",
                "--batch",
                "10",
                "--lr",
                "5e-3",
            ],
        )
        __main__.main()
    return out


def test_ten_drawings_are_learned(tuned: Path) -> None:
    """The loss on them falls."""
    with (tuned / "decoder-loss.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    early = sum(losses[:8]) / 8
    late = sum(losses[-8:]) / 8
    assert late < 0.8 * early, (early, late)


def test_only_the_changes_are_kept(tuned: Path) -> None:
    """The run's file has a fraction of the decoder's weights."""
    state = torch.load(tuned / "decoder.pt", weights_only=True)
    assert state["averaged"]
    assert all(".lora_" in key for key in state["averaged"])
    kept = sum(value.numel() for value in state["averaged"].values())
    whole = sum(
        p.numel() for p in load_network(DEFAULT_FOLDER, "decoder", CONFIG["decoder"]).parameters()
    )
    assert kept < whole / 8
    assert (tuned / "decoder-samples.png").stat().st_size > 1000


def test_the_merged_checkpoint_loads_and_draws_what_was_learned(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decoder computes what the one with LoRA beside it does; the rest is the checkpoint's, and no trace of LoRA is left."""
    out = tmp_path / "merged"
    monkeypatch.setattr(sys, "argv", ["merge", str(tuned), "--out", str(out)])
    merge.main()
    pipeline = UnCLIP.load(out)
    assert pipeline.name == "merged"
    assert pipeline.sizes == UnCLIP.load().sizes
    image = pipeline.generate(["a red cube"], size=64)
    assert torch.isfinite(image).all()
    assert not torch.equal(image, UnCLIP.load().generate(["a red cube"], size=64))
    beside = Run(PRESETS["tune"], tuned, data="", start=DEFAULT_FOLDER, lora=4).network("decoder")
    beside.load_state_dict(
        torch.load(tuned / "decoder.pt", weights_only=True)["averaged"], strict=False
    )
    begun = load_network(DEFAULT_FOLDER, "decoder", CONFIG["decoder"])
    said = []
    with torch.inference_mode():
        text = pipeline.clip.encode_text(pipeline.clip.tokenize(["a red cube", "a cone"])[0])
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        z_i = text.z_t
        for decoder in (beside.eval(), pipeline.decoder, begun):
            said.append(
                decoder(x, torch.tensor([100, 800]), z_i, text, torch.tensor([False, True]))
            )
    changed = (said[0] - said[2]).norm()
    assert (said[0] - said[1]).norm() < 0.02 * changed  # weights are rounded to fp16 on disk
    assert "LoRA of rank 4" in (out / "CARD.md").read_text()
    with pytest.raises(TrainingError, match="exists already"):
        merge.merge(tuned, out, "again")


def test_karlos_parts_are_tuned_and_merged(tmp_path: Path) -> None:
    """Its folder is begun with as ours is: the prior by its own statistics, the decoder with its variance."""
    karlo = tmp_path / "karlo"
    data = tmp_path / "data"
    out = tmp_path / "run"
    karlo.mkdir()
    data.mkdir()
    runpy.run_path(
        str(Path(__file__).parents[2] / "models" / "checkpoints" / "karlo_reference.py")
    )["write_folder"](karlo, image_encoder=True)
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
def test_at_first_nothing_is_changed(name: str) -> None:
    """Of any network that has LoRA: the same weights again after merging, and all of the changes are learned."""
    begun = load_network(DEFAULT_FOLDER, name, CONFIG[name])
    network = load_network(DEFAULT_FOLDER, name, CONFIG[name])
    add_lora(name, network, 2)
    learned = {key: value for key, value in network.state_dict().items() if ".lora_" in key}
    assert {key for key, p in network.named_parameters() if p.requires_grad} == learned.keys()
    again = merged(name, load_network(DEFAULT_FOLDER, name, CONFIG[name]), 2, learned)
    assert again.state_dict().keys() == begun.state_dict().keys()
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in begun.state_dict().items()
    )
    with pytest.raises(TrainingError, match="no LoRA of rank 3"):
        merged(name, load_network(DEFAULT_FOLDER, name, CONFIG[name]), 3, learned)


def test_what_cannot_be_is_said(tuned: Path, drawings: Path, tmp_path: Path) -> None:
    """Another rank in the same folder, LoRA of an upsampler, no checkpoint to begin with, nothing to merge."""
    tune = PRESETS["tune"]
    with pytest.raises(TrainingError, match="take another --out"):
        Run(tune, tuned, data=str(drawings), start=DEFAULT_FOLDER, lora=8).train("decoder")
    with pytest.raises(TrainingError, match="not for upsampler_256"):
        Run(tune, tmp_path, data=str(drawings), start=DEFAULT_FOLDER, lora=8).network(
            "upsampler_256"
        )
    with pytest.raises(TrainingError, match="by --checkpoint"):
        Run(tune, tmp_path, data=str(drawings))
    with pytest.raises(TrainingError, match="by --data"):
        Run(tune, tmp_path, start=DEFAULT_FOLDER)
    with pytest.raises(TrainingError, match="no training in it"):
        merge.merge(tmp_path, tmp_path / "out", "out")
