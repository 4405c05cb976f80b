"""Fixtures for every floor: a real Redis of the session's own, and a tiny checkpoint with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.ports import free_port
from devtools.redis_server import RedisServer


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with random weights and networks as small as they get."""
    import torch

    from models.checkpoints.checkpoint import build, save

    torch.manual_seed(0)
    unet = {
        "out_channels": 3,
        "time_embed_dim": 16,
        "norm_groups": 4,
        "blocks": 1,
        "channels": [8, 8],
    }
    decoder = unet | {
        "in_channels": 3,
        "patch_size": 8,
        "context_dim": 8,
        "head_channels": 8,
        "attention": [False, True],
    }
    upsampler = unet | {"in_channels": 6, "patch_size": 8, "attention": [False, False]}
    config = {
        "name": "tiny",
        "clip": {
            "embed_dim": 16,
            "vision_cfg": {
                "layers": 1,
                "width": 16,
                "head_width": 8,
                "patch_size": 32,
                "image_size": 64,
            },
            "text_cfg": {
                "width": 16,
                "heads": 2,
                "layers": 1,
                "context_length": 77,
                "vocab_size": 49408,
            },
        },
        "prior": {"embed_dim": 16, "text_width": 16, "width": 16, "layers": 1, "heads": 2},
        "decoder": {"unet": decoder, "embed_dim": 16, "text_width": 16},
        "pca": {"embed_dim": 16, "components": 6},
        "ar_prior": {
            "embed_dim": 16,
            "text_width": 16,
            "width": 16,
            "layers": 2,
            "heads": 2,
            "components": 6,
            "buckets": 16,
        },
        "upsampler_256": {"unet": upsampler},
        "upsampler_1024": {"unet": upsampler},
        "defaults": {
            "size": 256,
            "prior": "diffusion",
            "prior_sampler": "dpm++",
            "prior_num_candidates": 2,
            "prior_num_inference_steps": 5,
            "prior_guidance_scale": 1.5,
            "negative_prompt": "",
            "sampler": "dpm++",
            "eta": 0.0,
            "decoder_num_inference_steps": 6,
            "decoder_guidance_scale": 2.0,
            "upsampler_sampler": "ddim",
            "upsampler_num_inference_steps": 2,
        },
    }
    networks = {
        name: build(name, config[name])
        for name in (
            "clip",
            "prior",
            "decoder",
            "pca",
            "ar_prior",
            "upsampler_256",
            "upsampler_1024",
        )
    }
    for network in networks.values():
        for parameter in network.parameters():
            if not parameter.any():  # zero-initialised outputs would hide what goes on behind them
                torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("tiny")
    save(folder, config, networks, "# tiny\n\nRandom weights, for tests.\n")
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3 on 127.0.0.1 with one bucket: a URL in it. Where it is and who asks is said in the environment, as AWS' own tools take it."""
    import fsspec
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
        server.start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server._port}")
        for name, value in {
            "ACCESS_KEY_ID": "a",
            "SECRET_ACCESS_KEY": "b",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        fsspec.filesystem("s3").mkdir("images")
        yield "s3://images/of/this/house"
        server.stop()


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind."""
    return (
        f"file://{tmp_path}/store"
        if request.param == "file"
        else str(request.getfixturevalue("s3"))
    )
