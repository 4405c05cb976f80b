"""Networks that take turns on a device too small for all of them.

Every network's weights stay in host memory. Those that a stage needs are copied to the device, and the ones that were not
used for longest make room, so that a device with room for all copies each once. Weights do not change, so nothing is copied
back. Buffers and single numbers (see `checkpoint.fill`) are on the device always.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightOffloader:
    """Networks loaded on the host, of which `budget` bytes of weights are on the device at a time, and of one network more
    where it alone is larger."""

    def __init__(
        self, networks: Mapping[str, nn.Module], device: torch.device, budget: int
    ) -> None:
        self.device = device
        self.budget = budget
        self.num_transfers = 0  # how often a network was copied to the device
        self._parameters = {
            name: [p for p in network.parameters() if p.dim()] for name, network in networks.items()
        }
        self._host_weights: dict[str, list[Tensor]] = {}
        self._order: list[str] = []  # those on the device, the most recently used last
        for name, network in networks.items():
            for single in [*network.buffers(), *(p for p in network.parameters() if not p.dim())]:
                single.data = single.data.to(device)
            for parameter in self._parameters[name]:
                if device.type == "cuda":  # pinned, or the copies are several times slower
                    parameter.data = parameter.data.pin_memory()
            self._host_weights[name] = [parameter.data for parameter in self._parameters[name]]

    @property
    def on_device(self) -> tuple[str, ...]:
        """The networks whose weights are on the device."""
        return tuple(self._order)

    def size(self, name: str) -> int:
        """Bytes of a network's weights."""
        return sum(tensor.nbytes for tensor in self._host_weights[name])

    @torch.inference_mode(False)
    def ensure_on_device(self, name: str) -> None:
        """Have this network on the device."""
        if name in self._order:
            self._order.remove(name)
            self._order.append(name)
            return
        while self._order and sum(map(self.size, (*self._order, name))) > self.budget:
            self._offload(self._order[0])
        self._order.append(name)
        try:
            for parameter, home in zip(
                self._parameters[name], self._host_weights[name], strict=True
            ):
                parameter.data = home.to(self.device, copy=True, non_blocking=True)
        except RuntimeError:  # no room
            self._offload(name)
            raise
        self.num_transfers += 1

    def _offload(self, name: str) -> None:
        self._order.remove(name)
        for parameter, home in zip(self._parameters[name], self._host_weights[name], strict=True):
            parameter.data = home
