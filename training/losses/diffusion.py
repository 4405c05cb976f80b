"""Denoising losses of the prior, the decoder and the upsamplers."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.diffusion.samplers import ddpm_table
from models.diffusion.schedule import alphas_cumprod
from models.networks.clip import CLIP, TextEncoding
from models.networks.decoder import Decoder
from models.networks.prior import DiffusionPrior
from models.networks.upsampler import Upsampler
from training.data.crops import Crops, ImageCrops, KeptCrops
from training.data.sources import Captions, Source
from training.trainer.trainer import Loss, Step

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
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.weighted = weighted

    def noised(self, x_0: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 `[B, …]` -> x_t, t `[B]`, eps; timesteps uniform, all from the step's numbers."""
        t = step.integers(len(self.alphas_cumprod))
        eps = step.normal(*x_0.shape[1:]).to(x_0)
        alpha, sigma = (v.view(-1, *[1] * (x_0.dim() - 1)).to(x_0) for v in self._alpha_sigma(t))
        return alpha * x_0 + sigma * eps, t, eps

    def loss(self, prediction: Tensor, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the prediction. Predictions of x_0 are weighted by min(SNR + 1, 5): the loss of
        predicting v (Salimans & Ho 2022), bounded as in Hang et al. 2023 (min-SNR)."""
        alpha, sigma = (v.view(-1, *[1] * (x_0.dim() - 1)).to(x_0) for v in self._alpha_sigma(t))
        target = {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0}[
            self.prediction_type
        ]
        error = (prediction.float() - target).square().flatten(1).mean(1)
        if self.weighted and self.prediction_type == "sample":
            error = error * ((alpha / sigma).square().flatten() + 1).clamp(max=MAX_WEIGHT)
        return error.mean()

    def variance_loss(
        self, variance: Tensor, prediction: Tensor, x_0: Tensor, eps: Tensor, t: Tensor
    ) -> Tensor:
        """What teaches the learned variance, in nats a dimension: the variational bound's term at t, its mean held fast (Nichol &
        Dhariwal 2021, eq. 15-16, where 0.001 of all thousand terms is one of them). `variance` is in [-1, 1], of a prediction of eps."""
        assert self.prediction_type == "epsilon", "a variance is learned beside a prediction of eps"
        of_x_t, of_x_0, least, widest = (
            values.to(t.device)[t].view(-1, 1, 1, 1).to(x_0) for values in self._posterior
        )
        alpha, sigma = (v.view(-1, 1, 1, 1).to(x_0) for v in self._alpha_sigma(t))
        log_variance = (variance + 1) * widest.log() + (1 - variance) * least.log()
        x_t = alpha * x_0 + sigma * eps
        mean = of_x_t * x_t + of_x_0 * (x_t - sigma * prediction.detach()) / alpha
        true_mean = of_x_t * x_t + of_x_0 * x_0
        divergence = 0.5 * (
            log_variance - 2 * least.log() - 1 + (2 * least.log() - log_variance).exp()
        )
        divergence = divergence + 0.5 * (true_mean - mean).square() * (-log_variance).exp()
        last = -_log_likelihood(x_0, mean, 0.5 * log_variance)
        return torch.where(t.view(-1, 1, 1, 1) == 0, last, divergence).mean()

    @cached_property
    def _posterior(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each timestep: the posterior mean's factors of x_t and x_0, and the least and largest standard deviation."""
        table = ddpm_table(
            alphas_cumprod(self.schedule), len(self.alphas_cumprod)
        )  # from the last timestep to 0
        of_x_t, of_x_0, _, least, _ = table.coefficients.flip(0).float().unbind(1)
        # At t = 0 the posterior has no variance of its own: the next step's stands for it (Nichol & Dhariwal 2021).
        least = torch.cat((least[1:2], least[1:]))
        assert table.widest is not None
        return of_x_t, of_x_0, least, torch.tensor(table.widest[::-1])

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if (
            self.alphas_cumprod.device != t.device
        ):  # once: to copy at each step would make the host wait
            self.alphas_cumprod = self.alphas_cumprod.to(t.device)
        a = self.alphas_cumprod[t]
        return a.sqrt(), (1 - a).sqrt()


def _log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability of a pixel's 256th of [-1, 1] under a Gaussian; the outermost reach to infinity (Ho et al. 2020, eq. 13)."""
    upper, lower = (
        torch.special.ndtr((x - mean + side / 255) * (-log_std).exp()) for side in (1, -1)
    )
    upper = torch.where(x > 0.999, 1.0, upper)
    lower = torch.where(x < -0.999, 0.0, lower)
    return (upper - lower).clamp(min=1e-12).log()


def dropped(clip: CLIP, said: Captions, probability: float, step: Step) -> Captions:
    """The captions of this process' rows, some replaced by "" for classifier-free guidance."""
    drop = step.uniform() < probability
    if isinstance(said, Tensor):
        nothing = clip.tokenize([""])[0][:, : said.shape[1]].to(said)
        return torch.where(drop[:, None], nothing, said)
    return ["" if gone else text for text, gone in zip(said, drop.tolist(), strict=True)]


@torch.no_grad()
def encoded(clip: CLIP, said: Captions) -> TextEncoding:
    """Captions through the frozen text encoder."""
    return encoding(clip, said)


def encoding(clip: CLIP, said: Captions) -> TextEncoding:
    """Captions through the text encoder. Tokens keep their padding, so that all batches have one shape."""
    if isinstance(said, Tensor):
        return clip.encode_text(said, shortened=False)
    return clip.encode_text(clip.tokenize(said)[0])


@torch.no_grad()
def embedded(clip: CLIP, source: Source, count: int = 4096) -> Tensor:
    """z_i `[N, D]` of the first training images."""
    return torch.cat(
        [clip.encode_image(images) for images, _ in source.first(count, clip.mean.device)]
    )


@torch.no_grad()
def fit_statistics(prior: DiffusionPrior, clip: CLIP, source: Source) -> None:
    """Set the prior's clip_mean and clip_std from the training images' z_i."""
    z_i = embedded(clip, source, 2048)
    prior.clip_mean.copy_(z_i.mean(0))
    prior.clip_std.copy_(z_i.std(0).clamp(min=1e-4))


def prior_loss(prior: DiffusionPrior, clip: CLIP, source: Source) -> Loss:
    """The prior predicts the un-noised z_i; plain mean squared error, caption dropped 10 % of the time (paper §2.2)."""
    denoising = Denoising(prior.config.schedule, prior.config.prediction_type, weighted=False)

    def loss(step: Step) -> Tensor:
        images, said = source.pairs(step)
        with torch.no_grad():
            z_i = clip.encode_image(images)
        text = encoded(clip, dropped(clip, said, DROP_TEXT_PRIOR, step))
        x_0 = prior.normalize(z_i)
        x_t, t, eps = denoising.noised(x_0, step)
        return denoising.loss(prior(x_t, t, text), x_0, eps, t)

    return loss


def decoder_loss(
    decoder: Decoder, clip: CLIP, source: Source, drop_text: float = DROP_TEXT
) -> Loss:
    """The decoder learns images from their own z_i and a caption, each dropped for guidance (paper §2.1); and its variance, where
    it has one to learn. z_i is of the images as they come, which may be larger than the decoder's."""
    denoising = Denoising(decoder.config.schedule, decoder.config.prediction_type)

    def loss(step: Step) -> Tensor:
        images, said = source.pairs(step)
        x_0 = resized(images, decoder.config.image_size)
        with torch.no_grad():
            z_i = clip.encode_image(images)
        text = encoded(clip, dropped(clip, said, drop_text, step))
        drop_image = step.uniform() < DROP_IMAGE
        x_t, t, eps = denoising.noised(x_0, step)
        prediction, variance = decoder(x_t, t, z_i, text, drop_image).split(
            (3, decoder.variance_channels), dim=1
        )
        value = denoising.loss(prediction, x_0, eps, t)
        return (
            value + denoising.variance_loss(variance, prediction, x_0, eps, t)
            if decoder.variance_channels
            else value
        )

    return loss


def resized(images: Tensor, size: int) -> Tensor:
    """Images `[B, 3, S, S]` in [-1, 1] at another size, or as they are."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def upsampler_loss(upsampler: Upsampler, crops: Crops | KeptCrops | ImageCrops) -> Loss:
    """An upsampler learns crops of large images from their corrupted small versions."""
    denoising = Denoising(upsampler.config.schedule, upsampler.config.prediction_type)

    def loss(step: Step) -> Tensor:
        x_0, low = crops.pairs(step)
        x_t, t, eps = denoising.noised(x_0, step)
        return denoising.loss(upsampler(x_t, t, low), x_0, eps, t)

    return loss
