"""Features that stand in for photographs, made from an ImageNet classifier's own weights.

No photographs are needed: a class's weight vector points where photographs of the class lie in
feature space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from training.data.illustrated.wordnet import WordNet, nearest_thing

CLASSES = 1000


@dataclass(frozen=True)
class PseudoPhotographs:
    """`mean` and `spread` of each channel, and each class's direction."""

    mean: Tensor  # [W]
    spread: Tensor  # [W]
    directions: Tensor  # [1000, W], unit vectors

    def draw(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return features `[B, W]` of classes `[B]`."""
        count, width = len(classes), len(self.mean)
        noise = torch.randn(2, count, width, generator=generator)
        strength = 4 + 10 * torch.rand(count, 1, generator=generator)
        base = self.mean * torch.exp(0.3 * noise[0]) + 0.7 * self.spread * noise[1]
        return F.relu(base + strength * self.directions[classes])


def make_pseudo_photographs(trunk: nn.Module, weights: Tensor) -> PseudoPhotographs:
    """Derive the statistics from the trunk's last batch norm, and the directions from the
    classifier's weights `[1000, W]`.

    A channel before its ReLU6 is normal with the batch norm's bias and weight as mean and
    standard deviation."""
    state = trunk.state_dict()
    mean = state["bn2.bias"]
    spread = state["bn2.weight"].abs()
    generator = torch.Generator().manual_seed(0)
    samples = mean + spread * torch.randn(4096, len(mean), generator=generator)
    positions = samples.clamp(0, 6)
    centred = weights - weights.mean(0)
    return PseudoPhotographs(positions.mean(0), positions.std(0), F.normalize(centred, dim=1))


def class_names() -> list[list[str]]:
    """Return the names of ImageNet's classes, several a class."""
    info = ImageNetInfo()
    return [info.index_to_description(index).split(", ") for index in range(CLASSES)]


def class_things(names: list[list[str]], wordnet: WordNet, owners: dict[int, int]) -> list[int]:
    """Return for each class the thing at or above it in WordNet, -1 where there is none."""
    return [
        next(
            (thing for name in several if (thing := nearest_thing(wordnet, name, owners)) >= 0), -1
        )
        for several in names
    ]
