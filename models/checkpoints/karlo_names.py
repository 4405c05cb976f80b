"""The tensor names of Karlo-v1-alpha, as diffusers saves it, by our networks' names."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from models.networks.decoder import Decoder
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.unet import UNetConfig
from models.networks.upsampler import Upsampler

# Names, ours -> theirs: of a module, for its weight and bias, or of a single tensor. Several names,
# separated by spaces, are stacked in this order.
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
    "norm2": "norm3",  # their norm2 belongs to a cross-attention that does not exist here
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
    "attn.in_proj_weight": (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight"
    ),
    "attn.in_proj_bias": "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def _token_by_token(x: Tensor) -> Tensor:
    """Reorder the projection to the four image tokens.

    Their fastest axis is the token; ours is the slowest."""
    by_token: Tensor = x.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
    return by_token


# How to convert tensors that have another layout, by our names.
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
# What their folders lack: CLIP's temperature, which reached its bound of 100 in training (Radford
# et al. 2021, §2.5).
CONSTANTS = {"network.logit_scale": math.log(100)}


def names_of(name: str, network: nn.Module) -> Names:
    """Return the names of one of our networks; theirs begin with the folder."""
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
    """Prefix both sides of a table."""
    return {
        ours + key: " ".join(f"{theirs}.{name}" for name in names.split())
        for key, names in table.items()
    }


def _clip_names(ours: str, theirs: str, table: Names, network: nn.Module) -> Names:
    """Return the names of one of CLIP's encoders, with the network's number of blocks."""
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
    """Return the names of a U-Net: they number blocks within a level, we number all of them."""
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
    # From the coarsest level, in both.
    for level in range(levels):
        for n in range(config.blocks + 1):
            block(f"up.{level * (config.blocks + 1) + n}", f"up_blocks.{level}", n)
        last = level * (config.blocks + 1) + config.blocks
        names.update(
            _under(f"{ours}up.{last}.2.", f"{theirs}.up_blocks.{level}.upsamplers.0", RES_BLOCK)
        )
    return names


def sources(key: str, names: Names) -> list[str]:
    """Return their names of the tensors that form our tensor `key`; none for a constant."""
    if key in CONSTANTS:
        return []
    if key in names:
        return names[key].split()
    module, _, leaf = key.rpartition(".")
    return [f"{name}.{leaf}" for name in names[module].split()]
