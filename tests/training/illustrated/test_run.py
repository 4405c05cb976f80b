"""A whole run of the illustrated world, with tiny networks and a tiny art set."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from models import UnCLIP
from models.networks.two_tower_clip import TwoTowerCLIP
from models.networks.upsampler import Upsampler, UpsamplerConfig
from models.vocabulary import load_vocabulary
from tests.training.scenes.illustrated.fake_art import write_art
from training.data.illustrated import scene_pool
from training.data.illustrated.joint_space import JointSpace, save_joint_space
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.errors import TrainingError
from training.export.illustrated_checkpoint import export, gather_networks
from training.illustrated.network_stages import train_generator
from training.illustrated.presets import CPU, SETS
from training.illustrated.run import IllustratedRun, steps_done
from training.trainer.plan import Plan

WIDTH = 32
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "channels": [8, 8],
    "blocks": 1,
    "attention": [False, True],
    "time_embed_dim": 16,
    "patch_size": 8,
    "head_channels": 8,
    "norm_groups": 8,
}
UPSAMPLER = {"unet": UNET | {"in_channels": 6, "attention": [False, False], "patch_size": 4}}
NETWORKS = {
    "clip": {
        "embed_dim": WIDTH,
        "text_tower": {"width": WIDTH, "layers": 1, "heads": 2, "hidden": 16},
        "image_tower": {"image_size": 32, "hidden": 16},
    },
    "prior": {"embed_dim": WIDTH, "text_width": WIDTH, "width": 32, "layers": 1, "heads": 2},
    "decoder": {"unet": UNET | {"context_dim": 16}, "embed_dim": WIDTH, "text_width": WIDTH},
    "upsampler_256": UPSAMPLER,
    "upsampler_1024": UPSAMPLER,
}
PRESET = replace(
    CPU,
    tier="all",
    shards=1,
    networks=NETWORKS,
    plans={"prior": Plan(steps=3, batch=4, lr=1e-3), "decoder": Plan(steps=3, batch=4, lr=1e-3)},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("world")
    write_art(folder / "art", SETS)
    clip = TwoTowerCLIP(NETWORKS["clip"] | {"vocabulary": PIECES})
    photographs = PseudoPhotographs(torch.zeros(1280), torch.ones(1280), torch.eye(2, 1280))
    save_joint_space(
        folder / "run" / "joint-space", JointSpace(clip, photographs, ["cat", ""]), NETWORKS["clip"]
    )
    run = IllustratedRun(PRESET, folder / "run", folder / "art")
    run.nouns = {"tabby": run.world.index("cat face")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_pool, "SHARD_SCENES", 20)
        patch.setattr(scene_pool, "BATCH", 10)
        train_generator(run, 600)
        yield run


def test_a_part_renders_the_pool_and_trains_prior_and_decoder(run):
    assert len(run.pool("scenes")) == 20
    assert steps_done(run.folder / "prior.pt") == 3
    assert steps_done(run.folder / "decoder.pt") == 3


def test_a_run_that_ended_does_nothing_more(run):
    before = (run.folder / "decoder.pt").stat().st_mtime_ns
    train_generator(run, 600)
    assert (run.folder / "decoder.pt").stat().st_mtime_ns == before


def test_a_pool_of_other_scenes_is_refused(run):
    fingerprint = run.folder / "pool-scenes" / "fingerprint.txt"
    saved = fingerprint.read_text()
    fingerprint.write_text("1")
    with pytest.raises(TrainingError, match="build the pool again"):
        run.pool("scenes")
    fingerprint.write_text(saved)


def test_an_untrained_network_is_named(run):
    with pytest.raises(TrainingError, match="upsampler_256 has not begun"):
        gather_networks(run)


def test_the_exported_checkpoint_generates(run, tmp_path):
    for name in ("upsampler_256", "upsampler_1024"):
        upsampler = Upsampler(UpsamplerConfig(**UPSAMPLER))
        torch.save({"step": 1, "averaged": upsampler.state_dict()}, run.folder / f"{name}.pt")
    export(run, tmp_path / "checkpoint", "card\n")
    pipeline = UnCLIP.load(tmp_path / "checkpoint")
    parameters = {"size": 64, "decoder_num_inference_steps": 2, "prior_num_inference_steps": 2}
    rows = [
        pipeline.row(prompt, 0, pipeline.resolve(**parameters)) for prompt in ("a tabby", "a cat")
    ]
    pipeline.run(rows)
    assert torch.equal(rows[0].image, rows[1].image)
    assert [str(word) for word in rows[0].unknown_words] == ["tabby: drawn as a cat"]
    vocabulary = load_vocabulary(tmp_path / "checkpoint")
    assert vocabulary is not None
    assert "left" in vocabulary.other_words
    assert json.loads((tmp_path / "checkpoint" / "config.json").read_text())["image_prior"] is True
