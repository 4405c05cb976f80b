"""Conditioning modes of generated images."""

from __future__ import annotations

from pathlib import Path

import torch

from models import UnCLIP
from training.evaluation.solids import generation


def test_text_only_drops_z_i(tiny_checkpoint: Path) -> None:
    """The null embedding is to the decoder what a dropped z_i is."""
    pipeline = UnCLIP.load(tiny_checkpoint)
    decoder = pipeline.decoder
    clip = pipeline.clip
    torch.nn.init.normal_(decoder.null_image, std=0.5)
    x_t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500])
    text = clip.encode_text(clip.tokenize(["a red cube"])[0])
    null = generation.null_embedding(pipeline)[None]
    with torch.inference_mode():
        replaced = decoder(x_t, t, null, text, torch.tensor([False]))
        dropped = decoder(x_t, t, torch.zeros(1, clip.embed_dim), text, torch.tensor([True]))
    assert torch.allclose(replaced, dropped, atol=1e-5)


def test_the_kth_caption_has_the_seed_k() -> None:
    """A longer evaluation set begins with the shorter one."""
    short = generation.build_evaluation_set(("one object", "sign"), 2)
    long = generation.build_evaluation_set(("one object", "sign"), 4)
    assert short.seeds == [0, 1, 0, 1]
    assert long.texts[:2] == short.texts[:2]
    assert long.texts[4:6] == short.texts[2:]
