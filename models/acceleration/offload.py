"""CPU offloading: networks share a device that is too small for all of their weights.

Every network's weights stay in host memory. Those that a stage needs are copied to the device, and
the least recently used ones make room. A device with room for all copies each network once. Weights
do not change, so nothing is copied back. Buffers and single numbers (see `checkpoint.fill`) always
stay on the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightOffloader:
    """Offload weights to host memory so that at most `budget` bytes are on the device.

    Weights leave the device least recently used first. A single network that is larger than the
    budget is on the device alone. The networks must have been loaded in host memory."""

    def __init__(
        self, networks: Mapping[str, nn.Module], device: torch.device, budget: int
    ) -> None:
        self.device = device
        self.budget = budget
        self.num_transfers = 0  # copies of a network to the device
        self._parameters = {
            name: [p for p in network.parameters() if p.dim()] for name, network in networks.items()
        }
        self._host_weights: dict[str, list[Tensor]] = {}
        # The networks on the device, the most recently used last.
        self._order: list[str] = []
        for name, network in networks.items():
            for single in [*network.buffers(), *(p for p in network.parameters() if not p.dim())]:
                single.data = single.data.to(device)
            for parameter in self._parameters[name]:
                # Copies from memory that is not pinned are several times slower.
                if device.type == "cuda":
                    parameter.data = parameter.data.pin_memory()
            self._host_weights[name] = [parameter.data for parameter in self._parameters[name]]

    @property
    def on_device(self) -> tuple[str, ...]:
        """The networks whose weights are on the device, the most recently used last."""
        return tuple(self._order)

    def size(self, name: str) -> int:
        """Return the size of a network's weights in bytes."""
        return sum(tensor.nbytes for tensor in self._host_weights[name])

    @torch.inference_mode(False)
    def ensure_on_device(self, name: str) -> None:
        """Copy a network's weights to the device, evicting the least recently used.

        Raises RuntimeError if they do not fit."""
        if name in self._order:
            self._order.remove(name)
            self._order.append(name)
            return
        while self._order and sum(map(self.size, (*self._order, name))) > self.budget:
            self._offload(self._order[0])
        self._order.append(name)
        pairs = zip(self._parameters[name], self._host_weights[name], strict=True)
        try:
            for parameter, host in pairs:
                parameter.data = host.to(self.device, copy=True, non_blocking=True)
        except RuntimeError:  # out of memory
            self._offload(name)
            raise
        self.num_transfers += 1

    def _offload(self, name: str) -> None:
        self._order.remove(name)
        for parameter, host in zip(self._parameters[name], self._host_weights[name], strict=True):
            parameter.data = host
