"""Several processes that train one network, as `torchrun` starts them: DDP, or FSDP where the weights are sharded.

Both are torch's own. What is saved is the same file as that of one process, written by the first; a run without sharding may go
on with another number of processes.
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

from models.networks.prior import Block
from models.networks.unet import Attention, ResBlock
from training.errors import TrainingError

# What FSDP gathers at a time.
UNITS = (Block, ResBlock, Attention)
AGREE_EVERY = 20  # steps: to agree is to wait for each other
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Lesson(nn.Module):
    """A loss as a module around its network, which is what DDP wraps: its hooks are on the parameters, and the loss may call the
    network as it likes."""

    def __init__(self, network: nn.Module, loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, step: Any) -> Tensor:
        return self.loss(step)


@dataclass(frozen=True)
class Team:
    """The processes of a training; of one alone nothing here does anything."""

    rank: int = 0
    ranks: int = 1

    def lesson(
        self, network: nn.Module, loss: Callable[[Any], Tensor], *, sharded: bool
    ) -> Callable[[Any], Tensor]:
        """The loss, its gradients averaged over the processes. `sharded` where FSDP can: else each has all weights."""
        if self.ranks == 1:
            return loss
        if sharded and all(
            parameter.dim() for parameter in network.parameters()
        ):  # FSDP takes no scalars, as CLIP's temperature is
            network.to(memory_format=torch.contiguous_format)  # FSDP takes no others
            for module in [m for m in network.modules() if isinstance(m, UNITS)]:
                fully_shard(module)
                if isinstance(
                    module, Attention
                ):  # a U-Net asks for the context's keys before it goes through its blocks
                    register_fsdp_forward_method(module, "keys_of")
            fully_shard(network)
            return loss
        return DistributedDataParallel(Lesson(network, loss))

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.ranks > 1:
            dist.all_reduce(value)
            value /= self.ranks
        return value

    def agreed(self, wanted: bool, step: int) -> bool:
        """Whether the first process wants something, so that all do it at the same step: of several, asked now and then."""
        if self.ranks == 1:
            return wanted
        if step % AGREE_EVERY:
            return False
        said = [wanted]
        dist.broadcast_object_list(said)
        return said[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.ranks > 1:
            dist.barrier()

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes before the others, who find what it has made."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def state(
        self,
        learned: Mapping[str, Tensor],
        network: nn.Module,
        steppers: list[torch.optim.Optimizer],
        averaged: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """What a file keeps of a training; sharded weights whole again. All processes must ask."""
        if not _is_sharded(network):
            return {
                "model": dict(learned),
                "optimizers": [stepper.state_dict() for stepper in steppers],
                "averaged": dict(averaged),
            }
        optimizers = [
            get_optimizer_state_dict(network, stepper, options=_WHOLE) for stepper in steppers
        ]
        return {"model": _whole(learned), "optimizers": optimizers, "averaged": _whole(averaged)}

    def restore(
        self,
        network: nn.Module,
        steppers: list[torch.optim.Optimizer],
        averaged: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """The way back, in place. TrainingError for what a training with another sharding has kept."""
        sharded = _is_sharded(network)
        if (
            any(isinstance(key, str) for kept in state["optimizers"] for key in kept["state"])
            != sharded
        ):
            raise TrainingError(
                "a training that was sharded goes on with several processes, and another not sharded: go on as it was begun"
            )
        for key, value in state["averaged"].items():
            averaged[key].copy_(_like(value, averaged[key]))
        if not sharded:
            network.load_state_dict(state["model"], strict=False)
            for stepper, kept in zip(steppers, state["optimizers"], strict=True):
                stepper.load_state_dict(kept)
            return
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(network, state["model"], options=options)
        for stepper, kept in zip(steppers, state["optimizers"], strict=True):
            set_optimizer_state_dict(network, stepper, kept, options=options)


ALONE = Team()


def _is_sharded(network: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        for key, value in tensors.items()
    }


def _like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as the part of it that `own` is."""
    return (
        distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
        if isinstance(own, DTensor)
        else value
    )


@contextmanager
def joined(device: str) -> Iterator[tuple[Team, str]]:
    """This process' team and device: one alone, unless torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
