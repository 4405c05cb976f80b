"""Record what diffusers computes with a tiny Karlo, for test_karlo.py.

    python tests/models/checkpoints/karlo_reference.py

It needs transformers and diffusers 0.37.1, the last version with the pipeline. It writes
karlo/tiny.json (every config file, and every key with its shape) and karlo/tiny.safetensors (inputs
and outputs). Weights are not stored: `weight` computes them from their names.
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


def weight(name: str, shape: list[int]) -> Tensor:
    """Return a weight that is a function of its name.

    It has variance 1 / fan-in, or is near 1 for a norm, or is a small bias."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("clip_std"):
        return 1 + noise.abs()
    if len(shape) > 1:
        return noise / max(1, torch.Size(shape[1:]).numel()) ** 0.5
    return 1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.1 * noise


def write_folder(folder: Path, *, image_encoder: bool = False) -> None:
    """Write the tiny Karlo as diffusers saves it, from karlo/tiny.json."""
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


def clip_tokenizer() -> Any:
    """Return CLIP's tokenizer as transformers has it, from open_clip's vocabulary."""
    import open_clip
    from transformers import CLIPTokenizer

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
        return CLIPTokenizer(
            f"{scratch}/vocab.json", f"{scratch}/merges.txt", pad_token="!", model_max_length=77
        )


def tiny_pipeline() -> tuple[Any, Any]:
    """Return a UnCLIPPipeline of the smallest possible networks, and an image encoder."""
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
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    tokenizer = clip_tokenizer()
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
    """Set every weight of every network by its name, and return the shapes."""
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
    """Return normal noise that is a function of the name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


@torch.no_grad()
def record(pipeline: Any, image_encoder: Any) -> dict[str, Tensor]:
    """Record each stage alone, and then a whole run."""
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
    predicted = pipeline.prior(
        x_t, t, text.text_embeds, text.last_hidden_state, mask
    ).predicted_image_embedding
    out |= {
        "prior_x_t": x_t,
        "prior_t": t,
        "prior": predicted,
        "prior_z_i": pipeline.prior.post_process_latents(predicted),
    }

    z_i = predicted[:1]
    order = [1, 0]  # the empty prompt comes first
    context, emb = pipeline.text_proj(
        image_embeddings=z_i,
        prompt_embeds=text.text_embeds[order],
        text_encoder_hidden_states=text.last_hidden_state[order],
        do_classifier_free_guidance=True,
    )
    x_t = random("decoder", 1, 3, 16, 16)
    keep = torch.nn.functional.pad(mask[order], (4, 0), value=True)
    t = torch.tensor([500, 500])
    noise_and_variance = pipeline.decoder(
        x_t.repeat(2, 1, 1, 1), t, context, class_labels=emb, attention_mask=keep
    ).sample
    out |= {
        "decoder_z_i": z_i,
        "decoder_context": context,
        "decoder_emb": emb,
        "decoder_x_t": x_t,
        "decoder": noise_and_variance,
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
    """Run UnCLIPScheduler in float64.

    Its tables in float32 would scale the last x_0 by 0.9995, because 1 - alphas_cumprod is 4e-5 at
    t = 0."""
    bar = (
        torch.cos((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * torch.pi / 2)
        ** 2
    )
    scheduler.betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)


def whole_run(pipeline: Any) -> dict[str, Tensor]:
    """Return x_t after every step of a whole run, subsampled, with the noise of our stages.

    All of it is in float64. The step from t = 999 divides by sqrt(alphas_cumprod), 5e-5, so that in
    float32 a rounding error reaches the image's second digit, in both implementations."""
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
        # The files have the keys that the test writes.
        for part, keys in shapes.items():
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
