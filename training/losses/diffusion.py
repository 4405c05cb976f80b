"""Denoising losses of the prior, the decoder and the upsamplers."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.diffusion.samplers import ddpm_coefficients
from models.diffusion.schedule import alphas_cumprod
from models.networks.clip import CLIP
from models.networks.decoder import Decoder
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.upsampler import Upsampler
from training.data.crops import CropSource
from training.data.sources import Source
from training.losses.captions import drop_captions, embed_source, encode_captions_frozen
from training.trainer.step import Loss, Step

DROP_TEXT_PRIOR = 0.1  # paper §2.2
DROP_IMAGE = 0.1  # paper §2.1
# The paper drops half of the captions. With fewer dropped, a small budget may learn sooner which
# colour belongs to what. That was not measured against the paper's share.
DROP_TEXT = 0.25
MAX_WEIGHT = 5.0


class Denoising:
    """Noising and the weighted loss, for one network's schedule and prediction type."""

    def __init__(self, schedule: str, prediction_type: str, *, weighted: bool = True) -> None:
        self.alphas_cumprod = alphas_cumprod(schedule).float()
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.weighted = weighted

    def add_noise(self, x_0: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t `[B, …]`, uniform timesteps t `[B]` and eps `[B, …]` for x_0 `[B, …]`."""
        t = step.integers(len(self.alphas_cumprod))
        eps = step.normal(*x_0.shape[1:]).to(x_0)
        alpha, sigma = self._alpha_sigma(t, x_0)
        return alpha * x_0 + sigma * eps, t, eps

    def loss(self, prediction: Tensor, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the mean squared error of a prediction.

        Predictions of x_0 are weighted by min(SNR + 1, 5): the loss of predicting v (Salimans & Ho
        2022), bounded as in Hang et al. 2023 (min-SNR)."""
        alpha, sigma = self._alpha_sigma(t, x_0)
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
        """Return the loss of the learned variance, in nats a dimension.

        It is the variational bound's term at t without gradient to the mean (Nichol & Dhariwal
        2021, eq. 15-16; 0.001 of all thousand terms is one of them). `variance` is in [-1, 1], and
        `prediction` is of eps."""
        assert self.prediction_type == "epsilon", "a learned variance needs a prediction of eps"
        of_x_t, of_x_0, smallest, largest = (
            values.to(t.device)[t].view(-1, 1, 1, 1).to(x_0) for values in self._posterior
        )
        alpha, sigma = self._alpha_sigma(t, x_0)
        log_variance = (variance + 1) * largest.log() + (1 - variance) * smallest.log()
        x_t = alpha * x_0 + sigma * eps
        mean = of_x_t * x_t + of_x_0 * (x_t - sigma * prediction.detach()) / alpha
        true_mean = of_x_t * x_t + of_x_0 * x_0
        log_ratio = log_variance - 2 * smallest.log()
        divergence = 0.5 * (log_ratio - 1 + (-log_ratio).exp())
        divergence = divergence + 0.5 * (true_mean - mean).square() * (-log_variance).exp()
        # At t = 0 the term is the likelihood of the image.
        last = -_log_likelihood(x_0, mean, 0.5 * log_variance)
        return torch.where(t.view(-1, 1, 1, 1) == 0, last, divergence).mean()

    @cached_property
    def _posterior(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """By timestep: the posterior mean's factors of x_t and x_0, and bounds of its deviation."""
        # DDPM's steps go from the last timestep to 0.
        table = ddpm_coefficients(alphas_cumprod(self.schedule), len(self.alphas_cumprod))
        of_x_t, of_x_0, _, smallest, _ = table.values.flip(0).float().unbind(1)
        # At t = 0 the posterior has no variance: take the next step's (Nichol & Dhariwal 2021).
        smallest = torch.cat((smallest[1:2], smallest[1:]))
        assert table.max_noise is not None
        return of_x_t, of_x_0, smallest, torch.tensor(table.max_noise[::-1])

    def _alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at t `[B]`, of a shape and dtype to multiply `like` `[B, …]`."""
        if self.alphas_cumprod.device != t.device:
            # Once: a copy at each step would make the host wait.
            self.alphas_cumprod = self.alphas_cumprod.to(t.device)
        a = self.alphas_cumprod[t]
        shape = (-1, *[1] * (like.dim() - 1))
        return a.sqrt().view(shape).to(like), (1 - a).sqrt().view(shape).to(like)


def _log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-probability of a pixel's bin, one of 256 in [-1, 1], under a Gaussian.

    The outermost bins extend to infinity (Ho et al. 2020, eq. 13)."""
    upper, lower = (
        torch.special.ndtr((x - mean + side / 255) * (-log_std).exp()) for side in (1, -1)
    )
    upper = torch.where(x > 0.999, 1.0, upper)
    lower = torch.where(x < -0.999, 0.0, lower)
    return (upper - lower).clamp(min=1e-12).log()


@torch.no_grad()
def fit_statistics(prior: DiffusionPrior, clip: CLIP, source: Source) -> None:
    """Set the prior's clip_mean and clip_std from the z_i of training images."""
    z_i = embed_source(clip, source, 2048)
    prior.clip_mean.copy_(z_i.mean(0))
    prior.clip_std.copy_(z_i.std(0).clamp(min=1e-4))


def prior_loss(prior: DiffusionPrior, clip: CLIP, source: Source) -> Loss:
    """Return the mean squared error of the predicted z_i (paper §2.2).

    The caption is dropped 10 % of the time."""
    denoising = Denoising(prior.config.schedule, prior.config.prediction_type, weighted=False)

    def loss(step: Step) -> Tensor:
        images, captions = source.pairs(step)
        with torch.no_grad():
            z_i = clip.encode_image(images)
        dropped = drop_captions(clip, captions, DROP_TEXT_PRIOR, step)
        text = encode_captions_frozen(clip, dropped)
        x_0 = prior.normalize(z_i)
        x_t, t, eps = denoising.add_noise(x_0, step)
        return denoising.loss(prior(x_t, t, text), x_0, eps, t)

    return loss


def decoder_loss(
    decoder: Decoder, clip: CLIP, source: Source, drop_text: float = DROP_TEXT
) -> Loss:
    """Return the decoder's loss of images given their own z_i and caption (paper §2.1).

    Each of both is dropped at times, for guidance. A learned variance adds its own loss. z_i is of
    the source's images, which may be larger than the decoder's."""
    denoising = Denoising(decoder.config.schedule, decoder.config.prediction_type)

    def loss(step: Step) -> Tensor:
        images, captions = source.pairs(step)
        x_0 = resize(images, decoder.config.image_size)
        with torch.no_grad():
            z_i = clip.encode_image(images)
        dropped = drop_captions(clip, captions, drop_text, step)
        text = encode_captions_frozen(clip, dropped)
        drop_image = step.uniform() < DROP_IMAGE
        x_t, t, eps = denoising.add_noise(x_0, step)
        output = decoder(x_t, t, z_i, text, drop_image)
        prediction, variance = output.split((3, decoder.variance_channels), dim=1)
        value = denoising.loss(prediction, x_0, eps, t)
        if decoder.variance_channels:
            value = value + denoising.variance_loss(variance, prediction, x_0, eps, t)
        return value

    return loss


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images `[B, 3, S, S]` in [-1, 1] to `size`; return them unchanged if they have it."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def upsampler_loss(upsampler: Upsampler, crops: CropSource) -> Loss:
    """Return an upsampler's loss of crops given their degraded small versions."""
    denoising = Denoising(upsampler.config.schedule, upsampler.config.prediction_type)

    def loss(step: Step) -> Tensor:
        x_0, low = crops.pairs(step)
        x_t, t, eps = denoising.add_noise(x_0, step)
        return denoising.loss(upsampler(x_t, t, low), x_0, eps, t)

    return loss
