"""What diffusers makes of a tiny Karlo: the recordings that test_karlo.py holds our loader against.

    python tests/models/checkpoints/karlo_reference.py        with diffusers 0.37.1 (the last that has the pipeline) and transformers

writes karlo/tiny.json (every config file, and every key with its shape) and karlo/tiny.safetensors (what went in and
what came out). Weights are not stored: `weight` makes them anew from their names.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "karlo"
PROMPTS = ["a red cube on snow", "", "Two BLUE cones, and a caffè; " + "very " * 90 + "late"]
SEED = 3
STEPS = {"prior": 5, "decoder": 5, "super_res": 3}
GUIDANCE = {"prior": 4.0, "decoder": 8.0}
STAGES = (
    "text",
    "prior",
    "decoder",
    "upsampler_256",
    "upsampler_1024",
)  # as models/row.py numbers them


def weight(name: str, shape: list[int]) -> Tensor:
    """A weight that is made from its name: of variance 1 / fan-in, or a norm's around 1, or a small bias."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("clip_std"):
        return 1 + noise.abs()
    if len(shape) > 1:
        return noise / max(1, torch.Size(shape[1:]).numel()) ** 0.5
    return 1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.1 * noise


def write_folder(folder: Path, *, image_encoder: bool = False) -> None:
    """The tiny Karlo as diffusers lays it out, from karlo/tiny.json."""
    tiny = json.loads((FOLDER / "tiny.json").read_text())
    for name, config in tiny["configs"].items():
        if "/" in name and (image_encoder or not name.startswith("image_encoder")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if image_encoder or not name.startswith("image_encoder"):
            (folder / name).write_text(json.dumps(config))
    for part, shapes in tiny["shapes"].items():
        if image_encoder or part != "image_encoder":
            name = "model" if part.endswith("encoder") else "diffusion_pytorch_model"
            save_file(
                {key: weight(f"{part}.{key}", shape) for key, shape in shapes.items()},
                folder / part / f"{name}.safetensors",
            )


def tiny_pipeline() -> tuple[Any, Any]:
    """UnCLIPPipeline of networks as small as they get, and the image encoder of its sister."""
    import open_clip
    from diffusers import (
        PriorTransformer,
        UnCLIPPipeline,
        UnCLIPScheduler,
        UNet2DConditionModel,
        UNet2DModel,
    )
    from diffusers.pipelines.unclip import UnCLIPTextProjModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    with tempfile.TemporaryDirectory() as scratch:
        with gzip.open(
            Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8"
        ) as file:
            merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
        encoder = open_clip.tokenizer.SimpleTokenizer().encoder
        names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        Path(scratch, "vocab.json").write_text(
            json.dumps({names.get(word, word): index for word, index in encoder.items()})
        )
        Path(scratch, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        tokenizer = CLIPTokenizer(
            f"{scratch}/vocab.json", f"{scratch}/merges.txt", pad_token="!", model_max_length=77
        )
    clip = {
        "hidden_size": 16,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = CLIPTextConfig(
        **clip, vocab_size=49408, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407
    )
    vision = CLIPVisionConfig(**clip, image_size=32, patch_size=8, hidden_act="quick_gelu")
    unet = {"layers_per_block": 2, "block_out_channels": (8, 16), "norm_num_groups": 4}
    decoder = UNet2DConditionModel(
        sample_size=64,
        out_channels=6,
        in_channels=3,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=8,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
        **unet,
    )

    def super_res() -> Any:
        kinds = {
            "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
            "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        }
        return UNet2DModel(
            sample_size=256, in_channels=6, out_channels=3, add_attention=False, **kinds, **unet
        )

    pipeline = UnCLIPPipeline(
        prior=PriorTransformer(
            num_attention_heads=3, attention_head_dim=8, num_layers=2, embedding_dim=16
        ),
        decoder=decoder,
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_proj=UnCLIPTextProjModel(
            clip_embeddings_dim=16, time_embed_dim=32, cross_attention_dim=12
        ),
        super_res_first=super_res(),
        super_res_last=super_res(),
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, CLIPVisionModelWithProjection(vision)


def refill(parts: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Give every network its weights by name; their shapes."""
    shapes = {}
    for part, network in parts.items():
        network.eval()
        state = network.state_dict()
        shapes[part] = {
            key: list(value.shape)
            for key, value in state.items()
            if not key.endswith("position_ids")
        }
        state |= {key: weight(f"{part}.{key}", shape) for key, shape in shapes[part].items()}
        network.load_state_dict(state)
    return shapes


def random(name: str, *shape: int) -> Tensor:
    """Input of this name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


@torch.no_grad()
def record(pipeline: Any, image_encoder: Any) -> dict[str, Tensor]:
    """Each stage alone, then all of them in a row."""
    out: dict[str, Tensor] = {}
    inputs = pipeline.tokenizer(
        PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    text = pipeline.text_encoder(inputs.input_ids)
    mask = inputs.attention_mask.bool()
    out |= {
        "tokens": inputs.input_ids,
        "mask": mask,
        "z_t": text.text_embeds,
        "hidden": text.last_hidden_state,
    }

    x_t = random("prior", 3, 16)
    t = torch.tensor([999, 500, 0])
    said = pipeline.prior(
        x_t, t, text.text_embeds, text.last_hidden_state, mask
    ).predicted_image_embedding
    out |= {
        "prior_x_t": x_t,
        "prior_t": t,
        "prior": said,
        "prior_z_i": pipeline.prior.post_process_latents(said),
    }

    z_i = said[:1]
    order = [1, 0]  # the empty caption comes first
    context, emb = pipeline.text_proj(
        image_embeddings=z_i,
        prompt_embeds=text.text_embeds[order],
        text_encoder_hidden_states=text.last_hidden_state[order],
        do_classifier_free_guidance=True,
    )
    x_t = random("decoder", 1, 3, 16, 16)
    keep = torch.nn.functional.pad(mask[order], (4, 0), value=True)
    t = torch.tensor([500, 500])
    said = pipeline.decoder(
        x_t.repeat(2, 1, 1, 1), t, context, class_labels=emb, attention_mask=keep
    ).sample
    out |= {
        "decoder_z_i": z_i,
        "decoder_context": context,
        "decoder_emb": emb,
        "decoder_x_t": x_t,
        "decoder": said,
    }

    x_t = random("super_res", 1, 3, 32, 32)
    low = random("low", 1, 3, 8, 8).clamp(-1, 1)
    x = torch.cat(
        (
            x_t,
            torch.nn.functional.interpolate(
                low, 32, mode="bicubic", align_corners=False, antialias=True
            ),
        ),
        1,
    )
    out |= {"super_res_x_t": x_t, "super_res_low": low}
    for part, t in (("super_res_first", 333), ("super_res_last", 0)):
        out[part] = getattr(pipeline, part)(x, t).sample

    images = random("images", 2, 3, 32, 32).clamp(-1, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    out |= {
        "images": images,
        "z_i": image_encoder(
            (images / 2 + 0.5 - mean[:, None, None]) / std[:, None, None]
        ).image_embeds,
    }
    return out | whole_run(pipeline)


def in_float64(scheduler: Any) -> None:
    """UnCLIPScheduler keeps its tables in float32. At t = 0, where 1 - alphas_cumprod is 4e-5, that scales the last x_0 by 0.9995."""
    bar = (
        torch.cos((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * torch.pi / 2)
        ** 2
    )
    scheduler.betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)


def whole_run(pipeline: Any) -> dict[str, Tensor]:
    """x_t after every step of a whole run, thinned out, with noise drawn as models/row.py draws it.

    All of it in float64: the step from t = 999 divides by sqrt(alphas_cumprod), 5e-5, so that in float32 a rounding error shows
    in the image's second digit, in theirs as in ours."""
    from diffusers.pipelines.unclip import pipeline_unclip
    from diffusers.schedulers import scheduling_unclip

    generator = torch.Generator()
    stage = 0

    def begin(shape: tuple[int, ...], **_: Any) -> Tensor:
        nonlocal stage
        stage += 1
        return torch.randn(
            shape, generator=generator.manual_seed(SEED * 8 + stage), dtype=torch.float64
        )

    pipeline_unclip.randn_tensor = begin
    scheduling_unclip.randn_tensor = lambda shape, **_: torch.randn(
        shape, generator=generator, dtype=torch.float64
    )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    seen: dict[str, list[Tensor]] = {part: [] for part in STEPS}
    for part in STEPS:
        scheduler = getattr(pipeline, f"{part}_scheduler")
        in_float64(scheduler)

        def step(*args: Any, part: str = part, plain: Any = scheduler.step, **kwargs: Any) -> Any:
            result = plain(*args, **kwargs)
            seen[part].append(result.prev_sample)
            return result

        scheduler.step = step
    pipeline(
        PROMPTS[0],
        output_type="np",
        **{f"{part}_num_inference_steps": steps for part, steps in STEPS.items()},
        **{f"{part}_guidance_scale": scale for part, scale in GUIDANCE.items()},
    )
    x = {part: torch.cat(steps).float() for part, steps in seen.items()}
    return {
        "run_prior": x["prior"],
        "run_decoder": x["decoder"][..., ::4, ::4],
        "run_super_res": x["super_res"][..., ::8, ::8],
    }


def main() -> None:
    """Write both files."""
    pipeline, image_encoder = tiny_pipeline()
    parts = {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    shapes = refill(parts | {"image_encoder": image_encoder})
    with tempfile.TemporaryDirectory() as scratch:
        pipeline.save_pretrained(scratch)
        image_encoder.save_pretrained(f"{scratch}/image_encoder")
        for part, keys in shapes.items():  # what lies on disk is what the test will write
            assert set(load_file(next(Path(scratch, part).glob("*.safetensors")))) == set(keys), (
                part
            )
        paths = sorted(
            path for path in Path(scratch).rglob("*.json") if "tokenizer" not in path.parts
        )
        configs = {str(path.relative_to(scratch)): json.loads(path.read_text()) for path in paths}
    FOLDER.mkdir(exist_ok=True)
    recordings = record(pipeline, image_encoder)
    (FOLDER / "tiny.json").write_text(
        json.dumps({"configs": configs, "shapes": shapes}, separators=(",", ":")) + "\n"
    )
    save_file(
        {key: value.clone().contiguous() for key, value in recordings.items()},
        FOLDER / "tiny.safetensors",
    )
    for key, value in recordings.items():
        sys.stdout.write(f"{key} {list(value.shape)} {float(value.float().abs().mean()):.3g}\n")


if __name__ == "__main__":
    main()
