"""Karlo-v1-alpha (kakaobrain), read from the folder that diffusers saves.

Only this file and `karlo_names` know that layout. Each of our networks has a table of names, ours
-> theirs. Every tensor of both sides must be used once, or an error names those that are not. Their
config files are read the same way: a value that our networks have a field for is copied, and any
other must be the one that our networks implement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import BASE_SIZE, Checkpoint, build_empty, fill
from models.checkpoints.karlo_names import CONSTANTS, REARRANGED, Names, names_of, sources
from models.checkpoints.tensor_files import (
    CheckpointError,
    PickledFile,
    TensorFile,
    open_tensors,
    raise_for_faults,
)

# Our networks and the folders of their tensors. The image encoder comes from the image-variations
# repository. It is optional: without it images cannot be encoded.
PARTS = {
    "clip": ("text_encoder", "image_encoder"),
    "prior": ("prior",),
    "decoder": ("decoder", "text_proj"),
    "upsampler_256": ("super_res_first", "super_res_last"),
}
OPTIONAL = "image_encoder"
SCHEDULERS = ("prior_scheduler", "decoder_scheduler", "super_res_scheduler")
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)

# Karlo's "fast" preset, as diffusers has it ("default" has 50 decoder steps). The upsampler was
# trained for 7.
DEFAULTS = {
    "size": 256,
    "prior": "diffusion",
    "prior_sampler": "ddpm",
    "prior_num_candidates": 1,
    "prior_num_inference_steps": 25,
    "prior_guidance_scale": 4.0,
    "negative_prompt": "",
    "sampler": "ddpm",
    "eta": 0.0,
    "decoder_num_inference_steps": 25,
    "decoder_guidance_scale": 8.0,
    "upsampler_sampler": "ddpm",
    "upsampler_num_inference_steps": 7,
}

# Values that their configs must have, because our networks support no other. An absent field has
# the right value by default.
_UNET = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "time_embedding_type": "positional",
}
_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
}
FIXED: dict[str, dict[str, Any]] = {
    "text_encoder": {"layer_norm_eps": 1e-5},
    "image_encoder": {"layer_norm_eps": 1e-5, "num_channels": 3},
    "prior": {
        "added_emb_type": "prd",
        "additional_embeddings": 4,
        "embedding_proj_norm_type": None,
        "encoder_hid_proj_type": "linear",
        "norm_in_type": None,
        "time_embed_act_fn": "silu",
    },
    "text_proj": {"clip_extra_context_tokens": 4},
    "decoder": _UNET
    | {
        "sample_size": BASE_SIZE,
        "in_channels": 3,
        "out_channels": 6,
        "class_embed_type": "identity",
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "only_cross_attention": False,
        "resnet_time_scale_shift": "scale_shift",
    },
    "super_res_first": _UNET
    | {
        "sample_size": 256,
        "in_channels": 6,
        "out_channels": 3,
        "add_attention": False,
        "resnet_time_scale_shift": "default",
    },
    "prior_scheduler": _SCHEDULER | {"variance_type": "fixed_small_log"},
    "decoder_scheduler": _SCHEDULER | {"variance_type": "learned_range", "clip_sample_range": 1.0},
    "super_res_scheduler": _SCHEDULER
    | {"variance_type": "fixed_small_log", "clip_sample_range": 1.0},
}


def is_karlo(folder: Path | str) -> bool:
    """Whether diffusers saved this folder."""
    return (Path(folder) / "model_index.json").exists()


def load(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Load Karlo's folder onto `device`, ready for inference; `dtype` is as in `checkpoint.fill`.

    Raises CheckpointError for a folder that does not fit."""
    folder = Path(folder)
    config = read_config(folder)
    networks = {
        name: fill(network, read, device, dtype)
        for name, network, read in translate(folder, config)
    }
    return Checkpoint(config["name"], config, networks)


def translate(
    folder: Path, config: dict[str, Any]
) -> Iterator[tuple[str, nn.Module, Callable[[str], Tensor]]]:
    """Yield the name of each of our networks, the empty network, and a reader of its tensors.

    The reader takes our names and reads from their folder."""
    for name, parts in PARTS.items():
        network = build_empty(name, config[name])
        files = {part: open_weights(folder / part) for part in parts if (folder / part).exists()}
        yield name, network, reader(network, names_of(name, network), files, folder)


def read_config(folder: Path) -> dict[str, Any]:
    """Convert their config files into one of ours.

    Raises CheckpointError for a value that our networks do not support."""
    names = [
        part
        for parts in PARTS.values()
        for part in parts
        if part != OPTIONAL or (folder / part).exists()
    ]
    configs = {name: _json(folder / name / "config.json") for name in names}
    for name in SCHEDULERS:
        configs[name] = _json(folder / name / "scheduler_config.json")
    faults = [
        f"{name} has {field} {configs[name][field]!r}, only {value!r} is supported"
        for name, fields in FIXED.items()
        for field, value in fields.items()
        if name in configs and configs[name].get(field, value) != value
    ]
    first, last = (
        {k: v for k, v in configs[name].items() if not k.startswith("_")}
        for name in ("super_res_first", "super_res_last")
    )
    if first != last:
        faults.append("super_res_first and super_res_last differ: they must have one shape")
    if faults:
        raise CheckpointError(f"{folder} differs from Karlo-v1-alpha: {'; '.join(faults)}")
    try:
        return _convert(configs)
    except KeyError as error:
        raise CheckpointError(f"{folder}: a config file lacks the field {error}") from error


def _convert(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return our config from theirs, which are by folder."""
    text = configs["text_encoder"]
    prior = configs["prior"]
    decoder = configs["decoder"]
    prior_scheduler = configs["prior_scheduler"]
    return {
        "name": "karlo-v1-alpha",
        "clip": {
            "embed_dim": configs["text_proj"]["clip_embeddings_dim"],
            "vision_cfg": _vision(configs[OPTIONAL]) if OPTIONAL in configs else None,
            "text_cfg": _transformer(text)
            | {
                "context_length": text["max_position_embeddings"],
                "vocab_size": text["vocab_size"],
                "heads": text["num_attention_heads"],
            },
            "quick_gelu": text["hidden_act"] == "quick_gelu",
            "unit_norm": False,
        },
        "prior": {
            "embed_dim": prior["embedding_dim"],
            "text_width": text["hidden_size"],
            "width": prior["num_attention_heads"] * prior["attention_head_dim"],
            "layers": prior["num_layers"],
            "heads": prior["num_attention_heads"],
            "context_length": prior["num_embeddings"],
            "clip_range": prior_scheduler["clip_sample_range"],
            "prediction_type": prior_scheduler["prediction_type"],
            "unit_norm": False,
        },
        "decoder": {
            "unet": _unet(decoder)
            | {
                "context_dim": decoder["cross_attention_dim"],
                "head_channels": decoder["attention_head_dim"],
                "scale_shift": True,
            },
            "embed_dim": configs["text_proj"]["clip_embeddings_dim"],
            "text_width": text["hidden_size"],
            "prediction_type": configs["decoder_scheduler"]["prediction_type"],
            "unit_norm": False,
            "image_to_time_layers": 1,
            "text_to_time": True,
            "norm_last": True,
        },
        "upsampler_256": {
            "unet": _unet(configs["super_res_first"]) | {"scale_shift": False},
            "prediction_type": configs["super_res_scheduler"]["prediction_type"],
            "own_last_step": True,
        },
        "defaults": DEFAULTS,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: Karlo's folder must have it") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    return config


def _transformer(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that open_clip's two encoders share."""
    width = config["hidden_size"]
    return {
        "width": width,
        "layers": config["num_hidden_layers"],
        "mlp_ratio": config["intermediate_size"] / width,
    }


def _vision(config: dict[str, Any]) -> dict[str, Any]:
    head_width = config["hidden_size"] // config["num_attention_heads"]
    return _transformer(config) | {
        "head_width": head_width,
        "patch_size": config["patch_size"],
        "image_size": config["image_size"],
    }


def _unet(config: dict[str, Any]) -> dict[str, Any]:
    channels = config["block_out_channels"]
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "channels": channels,
        "blocks": config["layers_per_block"],
        "attention": ["CrossAttn" in kind for kind in config["down_block_types"]],
        "time_embed_dim": 4 * channels[0],
        "norm_groups": config["norm_num_groups"],
    }


def open_weights(folder: Path) -> TensorFile | PickledFile:
    """Open the weights of one of their folders, in .safetensors or .bin.

    The position_ids that old versions saved are left out. Raises CheckpointError if there are none.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has no weights: it must contain one of {', '.join(WEIGHTS)}"
        )
    file = open_tensors(path)
    file.shapes = {
        key: shape for key, shape in file.shapes.items() if not key.endswith(".position_ids")
    }
    return file


def reader(
    network: nn.Module, names: Names, files: Mapping[str, TensorFile | PickledFile], folder: Path
) -> Callable[[str], Tensor]:
    """Return a function that reads our tensors by name from theirs, `files` by their folders.

    Raises CheckpointError unless every tensor of both sides is used."""
    theirs = {f"{part}.{key}": (file, key) for part, file in files.items() for key in file.shapes}
    empty = {
        name: torch.empty(file.shapes[key], device="meta") for name, (file, key) in theirs.items()
    }
    faults = []
    unused = set(theirs)
    for key, ours in network.state_dict().items():
        parts = sources(key, names)
        missing = [name for name in parts if name not in theirs]
        unused.difference_update(parts)
        if missing:
            faults += [f"missing {name} (of our {key} {list(ours.shape)})" for name in missing]
        elif _combine(key, [empty[name] for name in parts]).shape != ours.shape:
            shapes = ", ".join(f"{name} is {list(empty[name].shape)}" for name in parts)
            faults.append(f"{shapes}; our {key} is {list(ours.shape)}")
    faults += [f"unexpected {name} {list(empty[name].shape)}" for name in unused]
    raise_for_faults(folder, faults)

    def read(key: str) -> Tensor:
        parts = (theirs[name] for name in sources(key, names))
        return _combine(key, [file.read(name) for file, name in parts])

    return read


def _combine(key: str, parts: list[Tensor]) -> Tensor:
    """Return our tensor from their parts; its shape is wrong if theirs are."""
    if not parts:
        return torch.tensor(CONSTANTS[key])
    try:
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        return REARRANGED.get(key, Tensor.contiguous)(value)
    except (IndexError, RuntimeError):
        return parts[0].new_empty(0)
