"""The loss of the scene classifier: cross entropy over the questions that an image answers."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from training.scenes.solids.classifier import SceneClassifier
from training.scenes.solids.labels import QUESTIONS, UNLABELLED
from training.trainer.step import Loss, Step


class LabelledSource(Protocol):
    """Images with labels, see labels.encode_labels."""

    def labelled(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return this process' images of a step, `[B, 3, 64, 64]`, and labels `[B, questions]`."""


def classifier_loss(classifier: SceneClassifier, source: LabelledSource) -> Loss:
    """Return the sum over questions of the mean cross entropy.

    Images are slightly blurred and noisy, as generated ones are."""

    def loss(step: Step) -> Tensor:
        images, labels = source.labelled(step)
        soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
        mix = step.uniform(1, 1, 1) * 0.6
        grain = step.normal(*images.shape[1:]) * 0.03
        logits = classifier(images * (1 - mix) + soft * mix + grain)
        total = torch.zeros((), device=step.device)
        for question, target in zip(QUESTIONS, labels.unbind(1), strict=True):
            summed = F.cross_entropy(
                logits[question], target, ignore_index=UNLABELLED, reduction="sum"
            )
            total = total + summed / len(images)
        return total

    return loss
