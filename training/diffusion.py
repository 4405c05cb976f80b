"""Denoising losses of the prior, the decoder and the upsamplers."""

from __future__ import annotations

import torch
from torch import Tensor

from models.clip import CLIP, TextEncoding
from models.decoder import Decoder
from models.prior import DiffusionPrior
from models.schedule import alphas_cumprod
from models.upsampler import Upsampler
from training.data import World, captions
from training.loop import Loss, Step
from training.upsampling import Crops, corrupt

DROP_TEXT_PRIOR = 0.1  # paper §2.2
DROP_IMAGE = 0.1  # paper §2.1
# The paper drops the caption half of the time. Less, in the hope that a small budget learns sooner from the words which
# colour is whose: not measured against the paper's.
DROP_TEXT = 0.25
MAX_WEIGHT = 5.0


class Denoising:
    """Noising and the weighted loss for one network's schedule and prediction type."""

    def __init__(self, schedule: str, prediction_type: str, *, weighted: bool = True) -> None:
        self.alphas_cumprod = alphas_cumprod(schedule).float()
        self.prediction_type, self.weighted = prediction_type, weighted

    def noised(self, x_0: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 `[B, …]` -> x_t, t `[B]`, eps; timesteps uniform, all from the step's numbers."""
        t = torch.randint(len(self.alphas_cumprod), (len(x_0),), generator=step.generator)
        eps = torch.randn(x_0.shape, generator=step.generator).to(x_0)
        alpha, sigma = (v.view(-1, *[1] * (x_0.dim() - 1)).to(x_0) for v in self._alpha_sigma(t))
        return alpha * x_0 + sigma * eps, t.to(x_0.device), eps

    def loss(self, prediction: Tensor, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the prediction. Predictions of x_0 are weighted by min(SNR + 1, 5): the loss of
        predicting v (Salimans & Ho 2022), bounded as in Hang et al. 2023 (min-SNR)."""
        alpha, sigma = (v.view(-1, *[1] * (x_0.dim() - 1)).to(x_0) for v in self._alpha_sigma(t.cpu()))
        target = {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0}[self.prediction_type]
        error = (prediction.float() - target).square().flatten(1).mean(1)
        if self.weighted and self.prediction_type == "sample":
            error = error * ((alpha / sigma).square().flatten() + 1).clamp(max=MAX_WEIGHT)
        return error.mean()

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alphas_cumprod[t]
        return a.sqrt(), (1 - a).sqrt()


def dropped(texts: list[str], probability: float, step: Step) -> list[str]:
    """The captions, some replaced by "" for classifier-free guidance."""
    drop = torch.rand(len(texts), generator=step.generator) < probability
    return ["" if gone else text for text, gone in zip(texts, drop, strict=True)]


@torch.no_grad()
def encoded(clip: CLIP, texts: list[str]) -> TextEncoding:
    """Captions through the frozen text encoder."""
    return clip.encode_text(clip.tokenize(texts)[0])


@torch.no_grad()
def embedded(clip: CLIP, world: World, count: int = 4096) -> Tensor:
    """z_i `[N, D]` of the first training pictures."""
    indices = list(range(min(count, world.size or count)))
    scenes = world.scenes(indices)
    parts = [
        clip.encode_image(world.images(indices[k : k + 256], scenes[k : k + 256], clip.mean.device)) for k in range(0, len(indices), 256)
    ]
    return torch.cat(parts)


@torch.no_grad()
def fit_statistics(prior: DiffusionPrior, clip: CLIP, world: World) -> None:
    """Set the prior's clip_mean and clip_std from the training pictures' z_i."""
    z_i = embedded(clip, world, 2048)
    prior.clip_mean.copy_(z_i.mean(0))
    prior.clip_std.copy_(z_i.std(0).clamp(min=1e-4))


def prior_loss(prior: DiffusionPrior, clip: CLIP, world: World) -> Loss:
    """The prior predicts the un-noised z_i; plain mean squared error, caption dropped 10 % of the time (paper §2.2)."""
    denoising = Denoising(prior.config.schedule, prior.config.prediction_type, weighted=False)

    def loss(step: Step) -> Tensor:
        indices = world.indices(step)
        scenes = world.scenes(indices)
        with torch.no_grad():
            z_i = clip.encode_image(world.images(indices, scenes, step.device))
        text = encoded(clip, dropped(captions(scenes, step), DROP_TEXT_PRIOR, step))
        x_0 = prior.normalize(z_i)
        x_t, t, eps = denoising.noised(x_0, step)
        return denoising.loss(prior(x_t, t, text), x_0, eps, t)

    return loss


def decoder_loss(decoder: Decoder, clip: CLIP, world: World) -> Loss:
    """The decoder learns pictures from their own z_i and a caption, each dropped for guidance (paper §2.1)."""
    denoising = Denoising(decoder.config.schedule, decoder.config.prediction_type)

    def loss(step: Step) -> Tensor:
        indices = world.indices(step)
        scenes = world.scenes(indices)
        x_0 = world.images(indices, scenes, step.device)
        with torch.no_grad():
            z_i = clip.encode_image(x_0)
        text = encoded(clip, dropped(captions(scenes, step), DROP_TEXT, step))
        drop_image = (torch.rand(step.batch, generator=step.generator) < DROP_IMAGE).to(step.device)
        x_t, t, eps = denoising.noised(x_0, step)
        return denoising.loss(decoder(x_t, t, z_i, text, drop_image), x_0, eps, t)

    return loss


def upsampler_loss(upsampler: Upsampler, crops: Crops) -> Loss:
    """An upsampler learns crops of large drawings from their corrupted small versions."""
    denoising = Denoising(upsampler.config.schedule, upsampler.config.prediction_type)

    def loss(step: Step) -> Tensor:
        x_0 = crops.batch(step)
        low = corrupt(x_0, crops.size, step.generator)
        x_t, t, eps = denoising.noised(x_0, step)
        return denoising.loss(upsampler(x_t, t, low), x_0, eps, t)

    return loss
