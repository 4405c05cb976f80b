"""Training in several processes, started by `torchrun`: DDP, or FSDP for sharded weights.

Both are torch's own. The state file is the same as that of one process, written by the first one.
A run without sharding may continue with another number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from models.networks.priors.transformer import Block
from models.networks.unet import Attention, ResBlock
from training.errors import TrainingError

# FSDP gathers one of these at a time.
SHARDED_MODULES = (Block, ResBlock, Attention)
# Steps between two decisions of the first process: a decision makes all processes wait.
DECIDE_EVERY = 20
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class LossModule(nn.Module):
    """A loss as a module around its network, which DDP can wrap.

    DDP's hooks are on the parameters, so the loss may call the network in any way."""

    def __init__(self, network: nn.Module, loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, step: Any) -> Tensor:
        return self.loss(step)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a training. With a single one every method is a no-op."""

    rank: int = 0
    world_size: int = 1

    def wrap_loss(
        self, network: nn.Module, loss: Callable[[Any], Tensor], *, sharded: bool
    ) -> Callable[[Any], Tensor]:
        """Return the loss with gradients averaged over the processes.

        `sharded` uses FSDP if the network allows it; otherwise each process has all weights."""
        if self.world_size == 1:
            return loss
        # FSDP takes no scalars, such as CLIP's temperature.
        if not sharded or not all(parameter.dim() for parameter in network.parameters()):
            return DistributedDataParallel(LossModule(network, loss))
        # FSDP takes contiguous tensors only.
        network.to(memory_format=torch.contiguous_format)
        for module in [m for m in network.modules() if isinstance(m, SHARDED_MODULES)]:
            fully_shard(module)
            if isinstance(module, Attention):
                # A U-Net computes the context's keys before its blocks run.
                register_fsdp_forward_method(module, "encode_context")
        fully_shard(network)
        return loss

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def rank0_decides(self, wish: bool, step: int) -> bool:
        """Return the first process' wish, the same in all processes.

        With several processes the answer is False except every DECIDE_EVERY steps."""
        if self.world_size == 1:
            return wish
        if step % DECIDE_EVERY:
            return False
        decision = [wish]
        dist.broadcast_object_list(decision)
        return decision[0]

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def rank0_first(self) -> Iterator[None]:
        """Run the block in the first process before the others, which can use its files."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def state(
        self,
        weights: Mapping[str, Tensor],
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        averaged: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """Return what a state file contains, with sharded weights put together.

        Every process must call this."""
        if not _is_sharded(network):
            return {
                "model": dict(weights),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "averaged": dict(averaged),
            }
        return {
            "model": _gather(weights),
            "optimizers": [
                get_optimizer_state_dict(network, optimizer, options=_WHOLE)
                for optimizer in optimizers
            ],
            "averaged": _gather(averaged),
        }

    def load_state(
        self,
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        averaged: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Load a state in place. Raises TrainingError if it was saved with another sharding."""
        sharded = _is_sharded(network)
        # FSDP names an optimizer's parameters; torch's own state dicts number them.
        keys = [key for part in state["optimizers"] for key in part["state"]]
        was_sharded = any(isinstance(key, str) for key in keys)
        if was_sharded != sharded:
            raise TrainingError(
                f"this run was begun {'with' if was_sharded else 'without'} sharded weights: "
                "continue it in the same way"
            )
        for key, value in state["averaged"].items():
            averaged[key].copy_(_distribute_like(value, averaged[key]))
        if not sharded:
            network.load_state_dict(state["model"], strict=False)
            for optimizer, part in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(part)
            return
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(network, state["model"], options=options)
        for optimizer, part in zip(optimizers, state["optimizers"], strict=True):
            set_optimizer_state_dict(network, optimizer, part, options=options)


SINGLE_PROCESS = ProcessGroup()


def _is_sharded(network: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


def _gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        for key, value in tensors.items()
    }


def _distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


@contextmanager
def join_process_group(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """Yield this process' group and device: a single process unless torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
