"""The same random weights twice: as diffusers' UnCLIPPipeline, and as our pipeline, loaded from the folder that the pipeline saved.

diffusers 0.37.1 is the last release that can load such a folder. `pip install '.[bench]'` has it.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

from models import UnCLIP
from models.networks.clip import TextEncoding


@dataclass(frozen=True)
class Widths:
    """Widths of a Karlo: the released one's, or an eighth of them. Depths are the same, and so are the stages' shares of the work."""

    embed: int  # of z_t, z_i and CLIP's text encoder
    clip_heads: int
    prior_heads: int  # of 64 channels each
    channels: tuple[int, int, int, int]  # of the U-Nets
    norm_groups: int
    head_channels: int  # of the decoder's attention
    context: int  # of the decoder's context tokens


SIZES = {
    "mini": Widths(96, 6, 4, (40, 80, 120, 160), 8, 40, 192),  # 59 million parameters
    "karlo": Widths(768, 12, 32, (320, 640, 960, 1280), 32, 64, 1536),  # 3.4 billion
}


def tokenizer() -> Any:
    """CLIP's, from the vocabulary that open_clip brings, padded as Karlo's."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        with gzip.open(
            Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8"
        ) as file:
            merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
        names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        words = {
            names.get(word, word): index
            for word, index in open_clip.tokenizer.SimpleTokenizer().encoder.items()
        }
        Path(scratch, "vocab.json").write_text(json.dumps(words))
        Path(scratch, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        return CLIPTokenizer(
            f"{scratch}/vocab.json", f"{scratch}/merges.txt", pad_token="!", model_max_length=77
        )


def pipeline(size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """UnCLIPPipeline with the released configs at these widths, its weights as diffusers initialises them, made on the device."""
    from diffusers import (
        PriorTransformer,
        UnCLIPPipeline,
        UnCLIPScheduler,
        UNet2DConditionModel,
        UNet2DModel,
    )
    from diffusers.pipelines.unclip import UnCLIPTextProjModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    w = SIZES[size]
    unet: dict[str, Any] = {
        "layers_per_block": 3,
        "block_out_channels": w.channels,
        "norm_num_groups": w.norm_groups,
    }
    text = CLIPTextConfig(
        hidden_size=w.embed,
        intermediate_size=4 * w.embed,
        num_hidden_layers=12,
        num_attention_heads=w.clip_heads,
        projection_dim=w.embed,
        vocab_size=49408,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
    )
    attended = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
    torch.manual_seed(0)
    with torch.device(device):
        decoder = UNet2DConditionModel(
            sample_size=64,
            out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", *3 * attended[:1]),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*3 * attended[1:], "ResnetUpsampleBlock2D"),
            in_channels=3,
            cross_attention_dim=w.context,
            attention_head_dim=w.head_channels,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            **unet,
        )
        kinds = {
            "down_block_types": 4 * ("ResnetDownsampleBlock2D",),
            "up_block_types": 4 * ("ResnetUpsampleBlock2D",),
        }
        first, last = (
            UNet2DModel(
                sample_size=256, in_channels=6, out_channels=3, add_attention=False, **kinds, **unet
            )
            for _ in range(2)
        )
        prior = PriorTransformer(
            num_attention_heads=w.prior_heads,
            attention_head_dim=64,
            num_layers=20,
            embedding_dim=w.embed,
        )
        torch.nn.init.ones_(prior.clip_std)
        text_proj = UnCLIPTextProjModel(
            clip_embeddings_dim=w.embed,
            time_embed_dim=4 * w.channels[0],
            cross_attention_dim=w.context,
        )
        text_encoder = CLIPTextModelWithProjection(text)
    made = UnCLIPPipeline(
        prior=prior,
        decoder=decoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer(),
        text_proj=text_proj,
        super_res_first=first,
        super_res_last=last,
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(),
    )
    made.set_progress_bar_config(disable=True)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return made.to(device, dtype)


@torch.inference_mode()
def differences(
    theirs: Any, ours: UnCLIP, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """How far what a network of ours says of the same numbers lies from what theirs says, as a share of its length, by network. An
    AssertionError where CLIP says that the weights are not the same."""
    ids = theirs.tokenizer(
        ["a red cube"], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    z_t = theirs.text_encoder(ids.to(device)).text_embeds.float()
    encoded = ours.clip.encode_text(ours.clip.tokenize(["a red cube"])[0]).z_t
    assert torch.allclose(z_t, encoded, rtol=0, atol=1e-2 * float(z_t.abs().max())), (
        "the two pipelines have different weights"
    )

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device)

    t = torch.tensor([700], device=device)
    width = z_t.shape[1]
    text = TextEncoding(
        drawn(1, width),
        drawn(1, 77, ours.clip.text_width).to(dtype),
        torch.ones(1, 77, dtype=torch.bool, device=device),
    )
    z_i = drawn(1, width)
    small = drawn(1, 3, 64, 64)
    large = drawn(1, 3, 256, 256)
    low = drawn(1, 3, 64, 64).clamp(-1, 1)
    small, large = (x.contiguous(memory_format=torch.channels_last) for x in (small, large))
    half = {
        "proj_embedding": text.z_t.to(dtype),
        "encoder_hidden_states": text.hidden,
        "attention_mask": text.mask,
    }
    tokens, added = theirs.text_proj(
        image_embeddings=z_i.to(dtype),
        prompt_embeds=text.z_t.to(dtype),
        text_encoder_hidden_states=text.hidden,
        do_classifier_free_guidance=False,
    )
    mask = torch.ones(1, tokens.shape[1], dtype=torch.bool, device=device)
    resized = torch.nn.functional.interpolate(low, (256, 256), mode="bicubic", antialias=True)
    sides = {
        "prior": (
            ours.prior(z_i, t, text),
            theirs.prior(z_i.to(dtype), timestep=t, **half).predicted_image_embedding,
        ),
        "decoder": (
            ours.decoder(small, t, z_i, text, torch.zeros(1, dtype=torch.bool, device=device)),
            theirs.decoder(
                small.to(dtype),
                t,
                encoder_hidden_states=tokens,
                class_labels=added,
                attention_mask=mask,
            ).sample,
        ),
        "upsampler": (
            ours.upsamplers[256].predicted(False, large, t, low),
            theirs.super_res_first(torch.cat((large, resized), dim=1).to(dtype), t).sample,
        ),
    }
    return {
        name: float((own - other.float()).norm() / other.float().norm())
        for name, (own, other) in sides.items()
    }
