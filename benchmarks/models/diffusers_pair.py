"""A diffusers UnCLIPPipeline with random weights, and how its networks differ from ours.

Our pipeline loads the folder that diffusers' one saves. diffusers 0.37.1 is the last release that
can load such a folder; the extra `bench` has it.
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
from torch import Tensor

from models import UnCLIP
from models.networks.clip import TextEncoding


@dataclass(frozen=True)
class Widths:
    """Widths of a pipeline of Karlo's form: the released ones, or an eighth of them.

    Depths are the same, and so are the stages' shares of the work.
    """

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


def build_tokenizer() -> Any:
    """Build CLIP's tokenizer from open_clip's vocabulary, padded as Karlo's."""
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


def build_diffusers_pipeline(size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a UnCLIPPipeline with the released configs at the widths of `size`.

    The weights are diffusers' initial ones, created on the device.
    """
    from diffusers import UnCLIPPipeline, UnCLIPScheduler

    torch.manual_seed(0)
    with torch.device(device):
        networks = _build_networks(SIZES[size])
    pipeline = UnCLIPPipeline(
        **networks,
        tokenizer=build_tokenizer(),
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline.to(device, dtype)


def _build_networks(widths: Widths) -> dict[str, torch.nn.Module]:
    """Build the pipeline's networks by the names of its components."""
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.unclip import UnCLIPTextProjModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    unet: dict[str, Any] = {
        "layers_per_block": 3,
        "block_out_channels": widths.channels,
        "norm_num_groups": widths.norm_groups,
    }
    decoder = UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", *3 * ["SimpleCrossAttnDownBlock2D"]),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*3 * ["SimpleCrossAttnUpBlock2D"], "ResnetUpsampleBlock2D"),
        cross_attention_dim=widths.context,
        attention_head_dim=widths.head_channels,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
        **unet,
    )
    first_upsampler, last_upsampler = (
        UNet2DModel(
            sample_size=256,
            in_channels=6,
            out_channels=3,
            add_attention=False,
            down_block_types=4 * ("ResnetDownsampleBlock2D",),
            up_block_types=4 * ("ResnetUpsampleBlock2D",),
            **unet,
        )
        for _ in range(2)
    )
    prior = PriorTransformer(
        num_attention_heads=widths.prior_heads,
        attention_head_dim=64,
        num_layers=20,
        embedding_dim=widths.embed,
    )
    torch.nn.init.ones_(prior.clip_std)
    text_proj = UnCLIPTextProjModel(
        clip_embeddings_dim=widths.embed,
        time_embed_dim=4 * widths.channels[0],
        cross_attention_dim=widths.context,
    )
    text_config = CLIPTextConfig(
        hidden_size=widths.embed,
        intermediate_size=4 * widths.embed,
        num_hidden_layers=12,
        num_attention_heads=widths.clip_heads,
        projection_dim=widths.embed,
        vocab_size=49408,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
    )
    return {
        "prior": prior,
        "decoder": decoder,
        "text_encoder": CLIPTextModelWithProjection(text_config),
        "text_proj": text_proj,
        "super_res_first": first_upsampler,
        "super_res_last": last_upsampler,
    }


@torch.inference_mode()
def relative_differences(
    theirs: Any, ours: UnCLIP, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Compare our networks' outputs with theirs for the same numbers.

    Returns |ours - theirs| / |theirs| by network.

    Raises:
        RuntimeError: CLIP's embeddings differ, so the two pipelines have different weights.
    """
    ids = theirs.tokenizer(
        ["a red cube"], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    z_t = theirs.text_encoder(ids.to(device)).text_embeds.float()
    encoded = ours.clip.encode_text(ours.clip.tokenize(["a red cube"])[0]).z_t
    if not torch.allclose(z_t, encoded, rtol=0, atol=1e-2 * float(z_t.abs().max())):
        raise RuntimeError("the two pipelines have different weights")

    t = torch.tensor([700], device=device)
    width = z_t.shape[1]
    z_i = torch.randn(1, width, device=device)
    text = TextEncoding(
        torch.randn(1, width, device=device),
        torch.randn(1, 77, ours.clip.text_width, device=device).to(dtype),
        torch.ones(1, 77, dtype=torch.bool, device=device),
    )
    x_64 = torch.randn(1, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    x_256 = torch.randn(1, 3, 256, 256, device=device)
    x_256 = x_256.contiguous(memory_format=torch.channels_last)
    low_res = torch.randn(1, 3, 64, 64, device=device).clamp(-1, 1)
    is_dropped = torch.zeros(1, dtype=torch.bool, device=device)
    pairs = {
        "prior": (
            ours.prior(z_i, t, text),
            _run_their_prior(theirs, z_i, t, text),
        ),
        "decoder": (
            ours.decoder(x_64, t, z_i, text, is_dropped),
            _run_their_decoder(theirs, x_64, t, z_i, text),
        ),
        "upsampler": (
            ours.upsamplers[256].predict(False, x_256, t, low_res),
            _run_their_upsampler(theirs, x_256, t, low_res, dtype),
        ),
    }
    return {
        name: float((own - other.float()).norm() / other.float().norm())
        for name, (own, other) in pairs.items()
    }


def _run_their_prior(theirs: Any, z_i: Tensor, t: Tensor, text: TextEncoding) -> Tensor:
    dtype = text.hidden.dtype
    output = theirs.prior(
        z_i.to(dtype),
        timestep=t,
        proj_embedding=text.z_t.to(dtype),
        encoder_hidden_states=text.hidden,
        attention_mask=text.mask,
    )
    embedding: Tensor = output.predicted_image_embedding
    return embedding


def _run_their_decoder(
    theirs: Any, x_t: Tensor, t: Tensor, z_i: Tensor, text: TextEncoding
) -> Tensor:
    dtype = text.hidden.dtype
    tokens, time_embedding = theirs.text_proj(
        image_embeddings=z_i.to(dtype),
        prompt_embeds=text.z_t.to(dtype),
        text_encoder_hidden_states=text.hidden,
        do_classifier_free_guidance=False,
    )
    output: Tensor = theirs.decoder(
        x_t.to(dtype),
        t,
        encoder_hidden_states=tokens,
        class_labels=time_embedding,
        attention_mask=torch.ones(1, tokens.shape[1], dtype=torch.bool, device=x_t.device),
    ).sample
    return output


def _run_their_upsampler(
    theirs: Any, x_t: Tensor, t: Tensor, low_res: Tensor, dtype: torch.dtype
) -> Tensor:
    resized = torch.nn.functional.interpolate(low_res, (256, 256), mode="bicubic", antialias=True)
    output: Tensor = theirs.super_res_first(torch.cat((x_t, resized), dim=1).to(dtype), t).sample
    return output
