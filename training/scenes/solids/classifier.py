"""The scene classifier: answers QUESTIONS about an image, to judge generated images.

It is trained on renderings and used for evaluation only: no other network learns from it. Reports
give its own accuracy on renderings next to every figure.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.scenes.solids.labels import QUESTIONS

CLASSIFIER_FILE = Path(__file__).with_name("classifier.safetensors")


class SceneClassifier(nn.Module):
    """A small residual network with one linear head for each of QUESTIONS.

    It flattens its last feature map, since many questions depend on positions."""

    def __init__(self, widths: tuple[int, ...] = (96, 128, 192)) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, widths[0], 3, padding=1),
            _Residual(widths[0]),
        ]  # 16²
        for width, wider in zip(widths, widths[1:], strict=False):
            layers += [
                _Residual(width),
                _Residual(width),
                nn.Conv2d(width, wider, 3, stride=2, padding=1),
            ]
        self.trunk = nn.Sequential(
            *layers,
            _Residual(widths[-1]),
            _Residual(widths[-1]),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * 16, 256), nn.ReLU(), nn.Dropout(0.1)
        )
        self.heads = nn.Linear(256, sum(len(values) for values in QUESTIONS.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits `[B, answers]` by question, of images `[B, 3, 64, 64]` in [-1, 1]."""
        logits = self.heads(self.hidden(self.trunk(images)))
        return dict(
            zip(QUESTIONS, logits.split([len(v) for v in QUESTIONS.values()], dim=1), strict=True)
        )

    @torch.inference_mode()
    def classify(self, images: Tensor) -> list[dict[str, object]]:
        """Return the most likely answer to every question, for each image."""
        best = {question: logits.argmax(1).tolist() for question, logits in self(images).items()}
        return [
            {question: QUESTIONS[question][best[question][row]] for question in QUESTIONS}
            for row in range(len(images))
        ]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def load_classifier(path: Path = CLASSIFIER_FILE) -> SceneClassifier:
    """Load the scene classifier from its file, in eval mode."""
    classifier = SceneClassifier()
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in load_file(path).items()
    }
    classifier.load_state_dict(state)
    return classifier.eval()
