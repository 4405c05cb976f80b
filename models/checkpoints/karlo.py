"""Karlo-v1-alpha (kakaobrain), from the folder that diffusers saves, as a checkpoint of ours.

The one file that knows that layout. Each of our networks has a table of names, ours -> theirs; every tensor of both
sides is used once, or the folder is refused with the names of those that are not. Their config files are read the same
way: what our networks have a number for is taken over, and what they do not is checked to be the one thing they can do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints.checkpoint import (
    BASE_SIZE,
    Checkpoint,
    CheckpointError,
    PickledFile,
    TensorFile,
    build_empty,
    fill,
    open_tensors,
    refuse,
)
from models.networks.decoder import Decoder
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.unet import UNetConfig
from models.networks.upsampler import Upsampler

# Our networks and the folders they come from. The image encoder is in the image-variations repository; put beside the
# others it is used, and without it images cannot be taken in.
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

# Karlo's "fast" preset, as diffusers has it (its own "default" has 50 decoder steps). The upsampler was made for 7.
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

# What their configs must say where ours say nothing. A field that is absent has the right value by default.
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

# Names, ours -> theirs: of a module, whose weight and bias follow, or of a single tensor. Several, with spaces between
# them, are stacked in this order.
Names = dict[str, str]

PRIOR = {
    "text_proj": "encoder_hidden_states_proj",
    "z_t_proj": "embedding_proj",
    "x_proj": "proj_in",
    "time_in": "time_embedding.linear_1",
    "time_out": "time_embedding.linear_2",
    "query": "prd_embedding",
    "positions": "positional_embedding",
    "norm_out": "norm_out",
    "out": "proj_to_clip_embeddings",
    "clip_mean": "clip_mean",
    "clip_std": "clip_std",
}
PRIOR_BLOCK = {
    "norm1": "norm1",
    "to_q": "attn1.to_q",
    "to_k": "attn1.to_k",
    "to_v": "attn1.to_v",
    "to_out": "attn1.to_out.0",
    "norm2": "norm3",  # their norm2 is that of a cross-attention there is not
    "up": "ff.net.0.proj",
    "down": "ff.net.2",
}
DECODER = {
    "null_image": "learned_classifier_free_guidance_embeddings",
    "image_to_time.0": "clip_image_embeddings_project_to_time_embeddings",
    "text_to_time": "embedding_proj",
    "image_to_tokens": "clip_extra_context_tokens_proj",
    "text_to_tokens": "encoder_hidden_states_proj",
    "text_norm": "text_encoder_hidden_states_norm",
}
UNET = {
    "time_in": "time_embedding.linear_1",
    "time_out": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
RES_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}
ATTENTION = {
    "norm": "group_norm",
    "to_q": "to_q",
    "to_k": "to_k",
    "to_v": "to_v",
    "context_k": "add_k_proj",
    "context_v": "add_v_proj",
    "to_out": "to_out.0",
}
CLIP_TEXT = {
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final": "final_layer_norm",
}
CLIP_IMAGE = {
    "class_embedding": "embeddings.class_embedding",
    "conv1": "embeddings.patch_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",  # sic
    "ln_post": "post_layernorm",
}
CLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.in_proj_weight": "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
    "attn.in_proj_bias": "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _token_by_token(x: Tensor) -> Tensor:
    """Their projection to the four image tokens has the token as its fastest axis, ours as its slowest."""
    by_token: Tensor = x.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
    return by_token


# Tensors that lie differently, by our names.
REARRANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "positions": lambda x: x.squeeze(0),
    "query": lambda x: x.squeeze(0).squeeze(0),
    "clip_mean": lambda x: x.squeeze(0),
    "clip_std": lambda x: x.squeeze(0),
    "image_to_tokens.weight": _token_by_token,
    "image_to_tokens.bias": _token_by_token,
    "network.text_projection": lambda x: x.mT,
    "network.visual.proj": lambda x: x.mT,
}
# What their folders lack: CLIP's temperature, which ended its training at the bound of 100 (Radford et al. 2021, §2.5).
CONSTANTS = {"network.logit_scale": math.log(100)}


def is_karlo(folder: Path | str) -> bool:
    """Whether this is a folder that diffusers saved."""
    return (Path(folder) / "model_index.json").exists()


def load(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Read Karlo's folder onto `device`, ready to sample; `dtype` as in `checkpoint.fill`. CheckpointError for one that does not fit."""
    folder = Path(folder)
    config = read_config(folder)
    networks = {
        name: fill(network, value_of, device, dtype)
        for name, network, value_of in translated(folder, config)
    }
    return Checkpoint(config["name"], config, networks)


def translated(
    folder: Path, config: dict[str, Any]
) -> Iterator[tuple[str, nn.Module, Callable[[str], Tensor]]]:
    """Each of our networks, empty, with what reads its tensors by our names from their folder."""
    for name, parts in PARTS.items():
        network = build_empty(name, config[name])
        files = {part: open_weights(folder / part) for part in parts if (folder / part).exists()}
        yield name, network, reader(network, names_of(name, network), files, folder)


def read_config(folder: Path) -> dict[str, Any]:
    """Their config files as one of ours."""
    names = [
        part
        for parts in PARTS.values()
        for part in parts
        if part != OPTIONAL or (folder / part).exists()
    ]
    given = {name: _json(folder / name / "config.json") for name in names}
    for name in SCHEDULERS:
        given[name] = _json(folder / name / "scheduler_config.json")
    faults = [
        f"{name} has {field} {given[name][field]!r}, only {value!r} is understood"
        for name, fields in FIXED.items()
        for field, value in fields.items()
        if name in given and given[name].get(field, value) != value
    ]
    first, last = (
        {k: v for k, v in given[name].items() if not k.startswith("_")}
        for name in ("super_res_first", "super_res_last")
    )
    if first != last:
        faults.append("super_res_first and super_res_last differ, they must be of one shape")
    if faults:
        raise CheckpointError(f"{folder} is not as Karlo-v1-alpha is made: {'; '.join(faults)}")
    try:
        return _translated(given)
    except KeyError as error:
        raise CheckpointError(f"{folder}: a config file lacks the field {error}") from error


def _translated(given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Our config from theirs, by folder."""
    text = given["text_encoder"]
    prior = given["prior"]
    decoder = given["decoder"]
    prior_scheduler = given["prior_scheduler"]
    return {
        "name": "karlo-v1-alpha",
        "clip": {
            "embed_dim": given["text_proj"]["clip_embeddings_dim"],
            "vision_cfg": _vision(given[OPTIONAL]) if OPTIONAL in given else None,
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
            "embed_dim": given["text_proj"]["clip_embeddings_dim"],
            "text_width": text["hidden_size"],
            "prediction_type": given["decoder_scheduler"]["prediction_type"],
            "unit_norm": False,
            "image_to_time_layers": 1,
            "text_to_time": True,
            "norm_last": True,
        },
        "upsampler_256": {
            "unet": _unet(given["super_res_first"]) | {"scale_shift": False},
            "prediction_type": given["super_res_scheduler"]["prediction_type"],
            "own_last_step": True,
        },
        "defaults": DEFAULTS,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: Karlo's folder has one") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    return config


def _transformer(config: dict[str, Any]) -> dict[str, Any]:
    """What open_clip's two encoders have in common."""
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
    """The tensors of one of their folders, from .safetensors or .bin, less what old versions saved without need."""
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has no weights: one of {', '.join(WEIGHTS)} should be there"
        )
    file = open_tensors(path)
    file.shapes = {
        key: shape for key, shape in file.shapes.items() if not key.endswith(".position_ids")
    }
    return file


def names_of(name: str, network: nn.Module) -> Names:
    """The table of one of our networks, theirs with the folder before them."""
    if isinstance(network, DiffusionPrior):
        names = _under("", "prior", PRIOR)
        for n in range(network.config.layers):
            names |= _under(f"blocks.{n}.", f"prior.transformer_blocks.{n}", PRIOR_BLOCK)
        return names
    if isinstance(network, Decoder):
        return _under("", "text_proj", DECODER) | _unet_names(
            "unet.", "decoder", network.unet.config
        )
    if isinstance(network, Upsampler):
        config = network.unet.config
        return _unet_names("unet.", "super_res_first", config) | _unet_names(
            "unet_last.", "super_res_last", config
        )
    names = _clip_names("network.", "text_encoder.text_model", CLIP_TEXT, network)
    names["network.text_projection"] = "text_encoder.text_projection.weight"
    names |= _clip_names("network.visual.", "image_encoder.vision_model", CLIP_IMAGE, network)
    names["network.visual.proj"] = "image_encoder.visual_projection.weight"
    return names


def _under(ours: str, theirs: str, table: Names) -> Names:
    """A table, of modules deeper in."""
    return {
        ours + key: " ".join(f"{theirs}.{name}" for name in names.split())
        for key, names in table.items()
    }


def _clip_names(ours: str, theirs: str, table: Names, network: nn.Module) -> Names:
    """One of CLIP's encoders, with as many blocks as the network has."""
    names = _under(ours, theirs, table)
    blocks = {
        key.split(".resblocks.")[1].split(".")[0]
        for key in network.state_dict()
        if key.startswith(f"{ours}transformer.")
    }
    for n in blocks:
        names |= _under(
            f"{ours}transformer.resblocks.{n}.", f"{theirs}.encoder.layers.{n}", CLIP_BLOCK
        )
    return names


def _unet_names(ours: str, theirs: str, config: UNetConfig) -> Names:
    """A U-Net: they count blocks level by level, we count them through."""
    names = _under(ours, theirs, UNET)

    def block(our_block: str, their_level: str, n: int) -> None:
        names.update(
            _under(f"{ours}{our_block}.0.", f"{theirs}.{their_level}.resnets.{n}", RES_BLOCK)
        )
        names.update(
            _under(f"{ours}{our_block}.1.", f"{theirs}.{their_level}.attentions.{n}", ATTENTION)
        )

    levels = len(config.channels)
    index = 0
    for level in range(levels):
        for n in range(config.blocks):
            block(f"down.{index}", f"down_blocks.{level}", n)
            index += 1
        if level < levels - 1:
            names.update(
                _under(
                    f"{ours}down.{index}.0.",
                    f"{theirs}.down_blocks.{level}.downsamplers.0",
                    RES_BLOCK,
                )
            )
            index += 1
    block("middle", "mid_block", 0)
    names.update(_under(f"{ours}middle.2.", f"{theirs}.mid_block.resnets.1", RES_BLOCK))
    for level in range(levels):  # from the coarsest on, with both
        for n in range(config.blocks + 1):
            block(f"up.{level * (config.blocks + 1) + n}", f"up_blocks.{level}", n)
        last = level * (config.blocks + 1) + config.blocks
        names.update(
            _under(f"{ours}up.{last}.2.", f"{theirs}.up_blocks.{level}.upsamplers.0", RES_BLOCK)
        )
    return names


def sources(key: str, names: Names) -> list[str]:
    """Their names of the tensors that make our tensor `key`; none for a constant."""
    if key in CONSTANTS:
        return []
    if key in names:
        return names[key].split()
    module, _, leaf = key.rpartition(".")
    return [f"{name}.{leaf}" for name in names[module].split()]


def reader(
    network: nn.Module, names: Names, files: Mapping[str, TensorFile | PickledFile], folder: Path
) -> Callable[[str], Tensor]:
    """What reads a network's tensors from theirs, every one of both and nothing else. `files` by the names of their folders."""
    found = {f"{part}.{key}": (file, key) for part, file in files.items() for key in file.shapes}
    blank = {
        name: torch.empty(file.shapes[key], device="meta") for name, (file, key) in found.items()
    }
    faults = []
    unused = set(found)
    for key, own in network.state_dict().items():
        theirs = sources(key, names)
        missing = [name for name in theirs if name not in found]
        unused.difference_update(theirs)
        if missing:
            faults += [f"missing {name} (of our {key} {list(own.shape)})" for name in missing]
        elif _ours(key, [blank[name] for name in theirs]).shape != own.shape:
            shapes = ", ".join(f"{name} is {list(blank[name].shape)}" for name in theirs)
            faults.append(f"{shapes}; our {key} is {list(own.shape)}")
    faults += [f"unexpected {name} {list(blank[name].shape)}" for name in unused]
    refuse(folder, faults)

    def value_of(key: str) -> Tensor:
        return _ours(
            key,
            [file.read(name) for file, name in (found[theirs] for theirs in sources(key, names))],
        )

    return value_of


def _ours(key: str, theirs: list[Tensor]) -> Tensor:
    """Our tensor from theirs; of a wrong shape if theirs are."""
    if not theirs:
        return torch.tensor(CONSTANTS[key])
    try:
        value = torch.cat(theirs) if len(theirs) > 1 else theirs[0]
        return REARRANGED.get(key, Tensor.contiguous)(value)
    except (IndexError, RuntimeError):
        return theirs[0].new_empty(0)
