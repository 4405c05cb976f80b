"""The composition root: CLIP, prior, decoder and upsamplers as one pipeline that moves rows.

`step` is the heart: it takes any rows that need the same network, makes one forward pass, and moves each one step along its
own table. `generate` is a loop over it for people; the worker's engine is another, for rows that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.acceleration.cuda_graphs import Graphs, Pass, Recorder
from models.acceleration.offload import WeightOffloader
from models.acceleration.onednn import prepack_convolutions
from models.checkpoints import external_upsampler, karlo
from models.checkpoints.checkpoint import (
    BASE_SIZE,
    DEFAULT_FOLDER,
    UPSAMPLERS,
    Checkpoint,
    digest,
    load,
)
from models.diffusion.samplers import Table, ddim_inversion_table, resampled, sampler_table, to_x_0
from models.diffusion.schedule import alphas_cumprod
from models.networks.priors.autoregressive import AutoregressivePrior, nucleus, upper_half
from models.networks.clip import CLIP, TextEncoding
from models.networks.decoder import Batch, Decoder, Given, batched
from models.networks.priors.pca import PCA
from models.networks.priors.diffusion import Cache, DiffusionPrior, padded
from models.networks.upsampler import Upsampler
from models.parameters import Parameters
from models.row import Conditioning, Row, Source, advance, sent

# What an operation leaves open differently from the checkpoint: DDIM is the sampler that can be run backwards, and guidance
# would make the way back another than the way there.
_INVERTED = {
    "sampler": "ddim",
    "eta": 0.0,
    "decoder_num_inference_steps": 50,
    "decoder_guidance_scale": 1.0,
}
OPERATION_DEFAULTS: dict[str, dict[str, Any]] = {
    "variations": _INVERTED | {"eta": 0.7},
    "interpolate": _INVERTED,
    "text-diff": _INVERTED
    | {"decoder_guidance_scale": 2.0},  # or the new colour comes at the cost of the shape
    "edit": {"sampler": "ddpm"},
    "probe": {"decoder_guidance_scale": 1.0},
}
# Rough cost of a stage's step beside the decoder's guided one, for progress only.
_STEP_COST = {
    "text": 0.2,
    "image": 0.2,
    "prior": 0.1,
    "ar_prior": 0.1,
    "inversion": 1.0,
    "decoder": 1.0,
    "upsampler_256": 2.0,
    "upsampler_1024": 20.0,
}
# The networks of stages that are not called after theirs.
_NETWORKS = {"text": "clip", "image": "clip", "inversion": "decoder"}
# A step that ends with x_0, whatever it began with.
_ONE_STEP = Table((0,), torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
_PRIOR_STAGES = {"diffusion": "prior", "autoregressive": "ar_prior"}
# How often an edit makes each of the decoder's steps, so that the new agrees with the kept.
EDIT_RESAMPLES = 3
# The decoder's guidance where a negative prompt is given, a scale is not, and the default is none: without guidance nothing leads away.
AWAY_FROM_NEGATIVE = 2.0
# For checkpoints from before there were these parameters.
_LATER_DEFAULTS: dict[str, Any] = {
    "prior_temperature": 1.0,
    "prior_top_p": 1.0,
    "decoder_guidance_start": 0.0,
    "decoder_guidance_stop": 1.0,
    "dynamic_threshold": 0.0,
}


class UnCLIP:
    """A loaded pipeline. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        offloader: WeightOffloader | None = None,
    ) -> None:
        """`offloader`: where the networks take turns on the device."""
        self.offloader = offloader
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.name = checkpoint.name
        self.digest = ""  # of the files it was loaded from
        networks = checkpoint.networks
        self.clip = cast(CLIP, networks["clip"])
        self.prior = cast(DiffusionPrior, networks["prior"])
        self.decoder = cast(Decoder, networks["decoder"])
        self.ar_prior = cast(AutoregressivePrior | None, networks.get("ar_prior"))
        self.priors = ("diffusion",) if self.ar_prior is None else ("diffusion", "autoregressive")
        self.pca = cast(PCA | None, networks.get("pca"))
        self.upsamplers = {
            size: network
            for size, part in UPSAMPLERS.items()
            if isinstance(network := networks.get(part), Upsampler)
        }
        self.sizes = (BASE_SIZE, *(size for size, part in UPSAMPLERS.items() if part in networks))
        self.graphs: Graphs | None = None  # see `record`
        # Of the last pass of decoder and prior: what its rows were given, and the same side by side.
        self._last_given: tuple[list[Given], list[Tensor]] | None = None
        self._last_caches: tuple[list[Cache], list[Tensor]] | None = None
        self._alphas = {schedule: alphas_cumprod(schedule) for schedule in ("cosine", "linear")}

    @classmethod
    def load(
        cls,
        folder: Path | str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        upsampler: Path | str | None = None,
        offload_budget_bytes: int | None = None,
    ) -> UnCLIP:
        """Load a checkpoint folder, ours or Karlo's; None is the embedded default. Raises CheckpointError for one that does not
        fit.

        `dtype`: of the networks' weights; samplers, guidance and what goes from stage to stage are in fp32 always, since a rounding
        error is multiplied there (by 1 / sqrt(alphas_cumprod), 2e4 at the cosine schedule's first step). `upsampler`: a last one
        from elsewhere, see `upscaler.borrowed`. `offload_budget_bytes`: bytes of weights on the device at a time; the others wait in host memory
        (None: all are on the device)."""
        home = device if offload_budget_bytes is None else "cpu"
        with ThreadPoolExecutor(
            1
        ) as beside:  # of Karlo the digest takes seconds, as loading it does
            found = beside.submit(
                digest, folder or DEFAULT_FOLDER, *([upsampler] if upsampler else [])
            )
            checkpoint = (
                karlo.load(folder, home, dtype)
                if folder is not None and karlo.is_karlo(folder)
                else load(folder, home, dtype)
            )
            if upsampler is not None:
                checkpoint = external_upsampler.borrowed(checkpoint, Path(upsampler), home, dtype)
        offloader = (
            None
            if offload_budget_bytes is None
            else WeightOffloader(checkpoint.networks, torch.device(device), offload_budget_bytes)
        )
        pipeline = cls(checkpoint, device, offloader)
        pipeline.digest = found.result()
        return pipeline

    def resolve(self, operation: str = "generate", **given: Any) -> Parameters:
        """Fill what is None or absent from the operation's defaults and the checkpoint's. ValueError for what this checkpoint
        cannot do."""
        defaults = self.checkpoint.defaults | OPERATION_DEFAULTS.get(operation, {})
        defaults = _LATER_DEFAULTS | defaults
        known = Parameters.__dataclass_fields__
        unknown = given.keys() - known.keys()
        if unknown:
            raise ValueError(
                f"unknown parameter {', '.join(sorted(unknown))}: known are {', '.join(known)}"
            )
        if given.get("negative_prompt") and defaults["decoder_guidance_scale"] == 1:
            defaults["decoder_guidance_scale"] = AWAY_FROM_NEGATIVE
        parameters = Parameters(
            **{name: defaults[name] if given.get(name) is None else given[name] for name in known}
        )
        if parameters.size not in self.sizes:
            raise ValueError(
                f"size is {parameters.size}: checkpoint {self.name!r} draws {', '.join(map(str, self.sizes))}"
            )
        if parameters.decoder_guidance_start > parameters.decoder_guidance_stop:
            raise ValueError(
                f"decoder_guidance_start is {parameters.decoder_guidance_start:g} and decoder_guidance_stop "
                f"{parameters.decoder_guidance_stop:g}: the start comes first"
            )
        if parameters.prior not in self.priors:
            raise ValueError(
                f"prior is {parameters.prior!r}: checkpoint {self.name!r} has {' and '.join(map(repr, self.priors))}"
            )
        for stage in ("prior", "decoder", *self._upsampler_stages(parameters)):
            self._table(stage, parameters)
        return parameters

    def row(
        self, prompt: str, seed: int, parameters: Parameters, source: Source | None = None
    ) -> Row:
        """A row from a caption to an image; with a source, to its image redrawn where its mask says so. Runs no network."""
        return self._row(
            (
                "text",
                _PRIOR_STAGES[parameters.prior],
                "decoder",
                *self._upsampler_stages(parameters),
            ),
            prompt,
            seed,
            parameters,
            source,
        )

    def prompt_row(self, prompt: str, seed: int, parameters: Parameters, *, prior: bool) -> Row:
        """A row that ends with the encoded caption, and with `prior` also with an image embedding for it."""
        return self._row(
            ("text", _PRIOR_STAGES[parameters.prior]) if prior else ("text",),
            prompt,
            seed,
            parameters,
        )

    def image_row(self, image: Tensor, parameters: Parameters, *, invert: bool) -> Row:
        """A row that ends with the z_i of an image `[3, S, S]`, and with `invert` also with its x_T: DDIM run backwards by the
        decoder given z_i and no caption (paper §3)."""
        if not self.clip.has_image_encoder:
            raise ValueError(
                f"checkpoint {self.name!r} has no image encoder: use one that has, or give a prompt instead of an image"
            )
        return self._row(
            ("image", "inversion") if invert else ("image",),
            "",
            0,
            parameters,
            Source(image.to(self.device)),
        )

    def latent_row(self, latent: Conditioning, seed: int, parameters: Parameters) -> Row:
        """A row that decodes a latent, (z_i, x_T) or z_i alone, beside the text it holds."""
        row = self._row(("decoder", *self._upsampler_stages(parameters)), "", seed, parameters)
        row.conditioning = replace(latent, low_res=None)
        self._enter(row, "decoder")
        return row

    def _row(
        self,
        stages: Sequence[str],
        prompt: str,
        seed: int,
        parameters: Parameters,
        source: Source | None = None,
    ) -> Row:
        return Row(
            prompt,
            seed,
            parameters,
            {stage: _STEP_COST[stage] * self._steps(stage, parameters, source) for stage in stages},
            source,
        )

    def _steps(self, stage: str, parameters: Parameters, source: Source | None = None) -> int:
        if self.ar_prior is not None and stage == "ar_prior":
            return 1 + self.ar_prior.config.components
        table = self._table(stage, parameters, source)
        return 1 if table is None else len(table)

    def _upsampler_stages(self, parameters: Parameters) -> list[str]:
        return [UPSAMPLERS[size] for size in self.sizes[1:] if size <= parameters.size]

    def _table(
        self, stage: str, parameters: Parameters, source: Source | None = None
    ) -> Table | None:
        """The sampler table of a stage; None for the encoders, which have no steps."""
        defaults = self.checkpoint.defaults
        if stage == "prior":
            return sampler_table(
                defaults["prior_sampler"],
                self.prior.config.schedule,
                parameters.prior_num_inference_steps,
            )
        if stage in ("decoder", "inversion"):
            schedule = self.decoder.config.schedule
            steps = parameters.decoder_num_inference_steps
            if stage == "inversion":
                return ddim_inversion_table(self._alphas[schedule], steps)
            table = sampler_table(parameters.sampler, schedule, steps, parameters.eta)
            masked = source is not None and source.mask is not None
            return resampled(table, self._alphas[schedule], EDIT_RESAMPLES) if masked else table
        if stage in ("text", "image", "ar_prior"):
            return None
        if _size(stage) not in self.upsamplers:
            return _ONE_STEP
        sampler = defaults.get(f"{stage}_sampler", defaults["upsampler_sampler"])
        return sampler_table(
            sampler,
            self.upsamplers[_size(stage)].config.schedule,
            parameters.upsampler_num_inference_steps,
        )

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> None:
        """Move rows one step each, by one forward pass. All must need the same stage. A row whose numbers are no longer
        finite ends with an error; the others go on."""
        stages = {row.stage for row in rows}
        if len(stages) != 1 or None in stages:
            raise ValueError(
                f"rows of one step must need one and the same stage, these need {stages}"
            )
        stage = str(rows[0].stage)
        if self.offloader is not None:
            self.offloader.ensure_on_device(_NETWORKS.get(stage, stage))
        if stage != "prior":
            self._last_caches = None  # as large as a network where rows are many
        if stage in ("text", "image"):
            (self._encode if stage == "text" else self._encode_images)(rows)
            for row in rows:
                self._leave(row)
            return
        if stage == "ar_prior":
            self._draw_tokens(rows)
            return
        variances: Sequence[Tensor | None] = [None] * len(rows)
        if stage == "prior":
            x_0s = self._prior_x_0(rows)
        elif stage in ("decoder", "inversion"):
            x_0s, variances = self._decoder_x_0(rows)
        else:
            x_0s = self._upsampler_x_0(rows)
        kept = [
            x_0 if row.source is None or stage == "prior" else row.source.keep(x_0)
            for row, x_0 in zip(rows, x_0s, strict=True)
        ]
        ended = advance(rows, kept, variances)
        # The one place where the host waits for the device, when all of the step's work has been handed over.
        for row, fine, last in zip(rows, torch.stack(_finite(x_0s)).tolist(), ended, strict=True):
            if not fine:
                row.end(
                    error=f"step {row.step} of {row.steps} of the {stage} gave numbers that are not finite"
                )
            elif last:
                self._leave(row)

    def _encode(self, rows: Sequence[Row]) -> None:
        """The text stage: prompts, and what stands for no prompt (the negative prompt, or "")."""
        pairs = [(row.prompt, row.parameters.negative_prompt) for row in rows]
        prompts = list(
            dict.fromkeys(prompt for pair in pairs for prompt in pair)
        )  # each once, however many images are drawn of it
        tokens, cut = self.clip.tokenize(prompts)
        encoding = self.clip.encode_text(tokens)
        encoded = {
            prompt: (
                TextEncoding(
                    encoding.z_t[k : k + 1], encoding.hidden[k : k + 1], encoding.mask[k : k + 1]
                ),
                cut[k],
            )
            for k, prompt in enumerate(prompts)
        }
        for row, (prompt, negative) in zip(rows, pairs, strict=True):
            (text, row.truncated_prompt) = encoded[prompt]
            (empty, row.truncated_negative_prompt) = encoded[negative]
            row.conditioning = Conditioning(text, empty)

    def _encode_images(self, rows: Sequence[Row]) -> None:
        """The image stage: z_i of the rows' images, and what stands for no prompt."""
        z_i = self.clip.encode_image(
            torch.stack([_source(row).at(self.clip.image_size).image for row in rows])
        )
        empty = self.clip.encode_text(
            self.clip.tokenize([row.parameters.negative_prompt for row in rows])[0]
        )
        for index, row in enumerate(rows):
            text = TextEncoding(
                empty.z_t[index : index + 1],
                empty.hidden[index : index + 1],
                empty.mask[index : index + 1],
            )
            row.conditioning = Conditioning(text, text, z_i[index])

    def _draw_tokens(self, rows: Sequence[Row]) -> None:
        """The autoregressive prior: every row draws its next bucket, whichever that is. Guidance is on the logits."""
        prior = cast(AutoregressivePrior, self.ar_prior)
        halves = [
            (row, half)
            for row in rows
            for half in range(1 if row.parameters.prior_guidance_scale == 1 else 2)
        ]
        first = [(row, half) for row, half in halves if not row.tokens]
        later = [(row, half) for row, half in halves if row.tokens]
        logits: dict[tuple[int, int], Tensor] = {}
        longer: dict[tuple[int, int], Cache] = {}
        for part in (first, later):
            if not part:
                continue
            if part is first:
                texts = [
                    _conditioning(row).empty if half else _conditioning(row).text
                    for row, half in part
                ]
                found, caches = prior.begin(_stacked(texts))
            else:
                found, caches = prior.proceed(
                    [row.caches[half] for row, half in part],
                    [row.tokens[-1] for row, _ in part],
                    [len(row.tokens) - 1 for row, _ in part],
                )
            for (row, half), one, cache in zip(part, found.float(), caches, strict=True):
                logits[id(row), half] = one
                longer[id(row), half] = cache
        for row in rows:
            guided = logits[id(row), 0]
            scale = row.parameters.prior_guidance_scale
            if scale != 1:
                guided = logits[id(row), 1] + scale * (guided - logits[id(row), 1])
            if not guided.isfinite().all():
                row.end(
                    error=f"step {row.step + 1} of {row.steps} of the autoregressive prior gave numbers that are not finite"
                )
                continue
            if not row.tokens:
                guided = upper_half(guided)
            probabilities = nucleus(
                guided, row.parameters.prior_temperature, row.parameters.prior_top_p
            ).cpu()
            row.tokens.append(int(torch.multinomial(probabilities, 1, generator=row.generator)))
            # Only now, together with its token: a pass that failed halfway is made again, row by row.
            row.caches = [longer[id(row), half] for half in range(1 if scale == 1 else 2)]
            row.step += 1
            if row.step == row.steps:
                self._leave(row)

    def _leave(self, row: Row) -> None:
        """From a finished stage to the next one, or out."""
        # the last step of every sampler's table lands on x_0
        conditioning = _conditioning(row)
        x = row.x_t
        following = row.next_stage
        if row.stage == "prior":
            # Of several z_i, the one that says most of what the caption says (paper §2.2).
            z_i = self.prior.denormalize(_state(row))  # (K, D)
            unit = F.normalize(z_i, dim=-1)
            best = row.candidate = (unit @ conditioning.text.z_t[0]).argmax()
            conditioning.z_i = (unit if self.clip.unit_norm else z_i).index_select(0, best[None])[
                0
            ]  # [best] would wait for the device
        elif row.stage == "ar_prior":
            prior = cast(AutoregressivePrior, self.ar_prior)
            pca = cast(PCA, self.pca)
            z_i = pca.reconstruct(
                prior.dequantize(torch.tensor(row.tokens[1:], device=self.device)[None])
            )[0]
            conditioning.z_i = F.normalize(z_i, dim=0) if self.clip.unit_norm else z_i
        elif row.stage == "inversion":
            conditioning.x_T = x
        elif row.stage not in ("text", "image") and x is not None:
            conditioning.low_res = x.clamp(-1, 1)
        if following is None:
            row.end(image=conditioning.low_res)
        else:
            self._enter(row, following)

    def _enter(self, row: Row, stage: str) -> None:
        """Begin a stage of steps: its table, and the x_T that it starts from."""
        if stage == "ar_prior":
            row.begin_tokens(stage, self._steps(stage, row.parameters))
            return
        table = self._table(stage, row.parameters, row.source)
        assert table is not None
        x_T = None
        shape = (3, BASE_SIZE, BASE_SIZE)
        if stage == "prior":
            row.begin(
                stage,
                table,
                (row.parameters.prior_num_candidates, self.clip.embed_dim),
                self.device,
            )
            return
        if stage == "inversion":
            # The image as it is at the table's first timestep, with noise from the row's own numbers.
            a = float(self._alphas[self.decoder.config.schedule][table.timesteps[0]])
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(row.seed)).to(
                self.device
            )
            x_T = a**0.5 * _source(row).at(BASE_SIZE).image + (1 - a) ** 0.5 * noise
        elif stage == "decoder":
            x_T = _conditioning(row).x_T
        else:
            shape = (3, _size(stage), _size(stage))
        row.begin(stage, table, shape, self.device, x_T)

    def _alpha_sigma(self, rows: Sequence[Row], schedule: str) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's timestep `[B]`, on the host, with the square roots of alphas_cumprod and of its complement there, on the device."""
        t = torch.tensor([row.table.timesteps[row.step] for row in rows if row.table is not None])
        a = self._alphas[schedule][t]
        return t, sent(a.sqrt().float(), self.device), sent((1 - a).sqrt().float(), self.device)

    def _prior_x_0(self, rows: Sequence[Row]) -> list[Tensor]:
        """The prior's estimates, `[K, D]` a row, guided and clamped."""
        config = self.prior.config
        t, alpha, sigma = self._alpha_sigma(rows, config.schedule)
        halves = [
            (k, half)
            for k, row in enumerate(rows)
            for half in range(1 if row.parameters.prior_guidance_scale == 1 else 2)
        ]
        fresh = [(k, half) for k, half in halves if not rows[k].caches[half:]]
        if fresh:
            texts = [
                _conditioning(rows[k]).empty if half else _conditioning(rows[k]).text
                for k, half in fresh
            ]
            for (k, _), cache in zip(fresh, self.prior.begin(_stacked(texts)), strict=True):
                rows[k].caches.append(cache)
        counts = [len(_state(rows[k])) for k, _ in halves]
        x_t = torch.cat([_state(rows[k]) for k, _ in halves])
        each = sent(
            torch.cat([t[k].expand(count) for (k, _), count in zip(halves, counts, strict=True)]),
            self.device,
        )
        caches = [
            rows[k].caches[half]
            for (k, half), count in zip(halves, counts, strict=True)
            for _ in range(count)
        ]
        flat = self._pass("prior", self._prior_pass, [x_t, each], self._cached(caches))
        found = dict(zip(halves, flat.split(counts), strict=True))
        x_0s = []
        for k, row in enumerate(rows):
            prediction = found[k, 0]
            scale = row.parameters.prior_guidance_scale
            if scale != 1:
                prediction = found[k, 1] + scale * (prediction - found[k, 1])
            x_0 = to_x_0(prediction, _state(row), alpha[k], sigma[k], config.prediction_type)
            x_0s.append(_clamped(x_0, config.clip_range))
        return x_0s

    def _cached(self, caches: list[Cache]) -> list[Tensor]:
        """Rows' caches side by side, after their mask: put there anew when other rows share a pass than in the one before."""
        if self._last_caches is None or not _same(self._last_caches[0], caches):
            # With a graph, as many for all captions, so that with the step's own tokens they are a multiple of eight.
            least = 0 if self.graphs is None else _eights(self.prior.config.context_length + 4) - 3
            layers, seen = padded(caches, least)
            self._last_caches = caches, [seen, *(x for layer in layers for x in layer)]
        return self._last_caches[1]

    def _prior_pass(self, fresh: Sequence[Tensor], held: Sequence[Tensor]) -> Tensor:
        return self.prior.after(
            fresh[0], fresh[1], list(zip(held[1::2], held[2::2], strict=True)), held[0]
        )

    def _decoder_pass(self, fresh: Sequence[Tensor], held: Sequence[Tensor]) -> Tensor:
        mask = (
            None if len(held) % 2 else held[1]
        )  # beside pairs of keys and values there is emb alone, or a mask too
        keys = held[1:] if mask is None else held[2:]
        return self.decoder.proceed(
            fresh[0], fresh[1], Batch(held[0], list(zip(keys[::2], keys[1::2], strict=True)), mask)
        )

    def _decoder_x_0(self, rows: Sequence[Row]) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """The decoder's estimates, `[3, 64, 64]` a row, and the variance it learned, if it did, from the conditional half. The
        unconditional half drops z_i and the caption (paper §2.1)."""
        config = self.decoder.config
        x_t = torch.stack([_state(row) for row in rows])
        t, alpha, sigma = self._alpha_sigma(rows, config.schedule)
        guided = [k for k, row in enumerate(rows) if _is_guided(row)]
        order = [*range(len(rows)), *guided]
        given = self._given([(rows[k], int(place >= len(rows))) for place, k in enumerate(order)])
        index = torch.tensor(order)
        batch = (x_t[sent(index, self.device)] if guided else x_t).contiguous(
            memory_format=torch.channels_last
        )
        said = self._pass(
            "decoder", self._decoder_pass, [batch, sent(t[index], self.device)], given
        )
        prediction, variance = said.split((3, self.decoder.variance_channels), dim=1)
        prediction = _guide(
            prediction, len(rows), guided, [row.parameters.decoder_guidance_scale for row in rows]
        )
        x_0 = to_x_0(prediction, x_t, _like(alpha, x_t), _like(sigma, x_t), config.prediction_type)
        if any(row.parameters.dynamic_threshold for row in rows):
            x_0s = [
                _thresholded(one, row.parameters.dynamic_threshold)
                for one, row in zip(x_0, rows, strict=True)
            ]
        else:
            x_0s = list(_clamped(x_0, 1.0))
        return x_0s, list(variance[: len(rows)]) if self.decoder.variance_channels else [
            None
        ] * len(rows)

    def _given(self, halves: Sequence[tuple[Row, int]]) -> list[Tensor]:
        """What the decoder is given for each half (1: the unconditional one) of some rows, as `_decoder_pass` takes it: made when a row has
        its first step, and put side by side when other rows share a pass than in the one before."""
        fresh = [(row, half) for row, half in halves if len(row.given) <= half]
        if fresh:
            held = [_conditioning(row) for row, _ in fresh]
            texts = [
                conditioning.empty if half else conditioning.text
                for conditioning, (_, half) in zip(held, fresh, strict=True)
            ]
            z_i = torch.stack([cast(Tensor, conditioning.z_i) for conditioning in held])
            dropped = torch.tensor([bool(half) for _, half in fresh], device=self.device)
            for (row, _), one in zip(
                fresh, self.decoder.begin(z_i, _stacked(texts), dropped), strict=True
            ):
                row.given.append(one)
        rows = [row.given[half] for row, half in halves]
        if self._last_given is None or not _same(self._last_given[0], rows):
            least = (
                0
                if self.graphs is None
                else _eights(self.decoder.config.image_tokens + self.prior.config.context_length)
            )
            given = batched(rows, least)
            masks = [] if given.mask is None else [given.mask]
            self._last_given = rows, [given.emb, *masks, *(x for pair in given.keys for x in pair)]
        return self._last_given[1]

    def _upsampler_x_0(self, rows: Sequence[Row]) -> list[Tensor]:
        """An upsampler's estimates, `[3, S, S]` a row; no guidance."""
        x_t = torch.stack([_state(row) for row in rows]).contiguous(
            memory_format=torch.channels_last
        )
        low = torch.stack([cast(Tensor, _conditioning(row).low_res) for row in rows])
        if x_t.shape[-1] not in self.upsamplers:
            return list(self.checkpoint.networks[UPSAMPLERS[x_t.shape[-1]]](low))
        upsampler = self.upsamplers[x_t.shape[-1]]
        t, alpha, sigma = self._alpha_sigma(rows, upsampler.config.schedule)
        stage = UPSAMPLERS[x_t.shape[-1]]

        def run(last: bool, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
            name = f"{stage}'s last" if last else stage
            return self._pass(
                name,
                lambda fresh, _: upsampler.predicted(last, *fresh),
                [x_t, sent(t, self.device), low],
            )

        prediction = upsampler(x_t, t, low, run)
        x_0 = to_x_0(
            prediction, x_t, _like(alpha, x_t), _like(sigma, x_t), upsampler.config.prediction_type
        )
        return list(_clamped(x_0, 1.0))

    def _pass(
        self, name: str, network: Pass, fresh: list[Tensor], held: Sequence[Tensor] = ()
    ) -> Tensor:
        return (
            network(fresh, held)
            if self.graphs is None
            else self.graphs.run(name, network, fresh, held)
        )

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        on_step: Callable[[Sequence[Row]], None] | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Draw an image of each prompt: `[B, 3, S, S]` in [-1, 1]. Seeds default to 0, 1, 2 …; `parameters` are those of
        `resolve`; `on_step` sees the rows after each step. RuntimeError if a row failed."""
        resolved = self.resolve(**parameters)
        seeds = range(len(prompts)) if seeds is None else seeds
        rows = [
            self.row(prompt, seed, resolved) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        self.run(rows, on_step)
        return torch.stack([cast(Tensor, row.image) for row in rows])

    def run(
        self, rows: Sequence[Row], on_step: Callable[[Sequence[Row]], None] | None = None
    ) -> None:
        """Move rows to their end; `on_step` sees them after each step. RuntimeError if a row failed."""
        while moving := [row for row in rows if row.stage is not None]:
            self.step([row for row in moving if row.stage == moving[0].stage])
            if on_step is not None:
                on_step(rows)
        failed = [row for row in rows if row.error is not None]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(rows)} images failed: {failed[0].error}")

    def prepack(self) -> None:
        """Make ready to draw and nothing else: on a CPU, convolutions are laid out once for all (`packed`), and the networks cannot be
        saved or trained any more. Images are the same to rounding."""
        prepack_convolutions(self.checkpoint.networks.values())

    def enable_cuda_graphs(self, compiled: bool = False) -> None:
        """From here on play passes of prior, decoder and upsamplers back as CUDA graphs, when one of as many rows comes for the second
        time; `compiled`: torch.compile makes their kernels, which takes a minute or so for each number of rows. On a GPU where all
        networks stay; elsewhere nothing happens. Images are the same to rounding."""
        if self.device.type == "cuda" and self.offloader is None:
            self.set_graphs(Graphs(Recorder(self.device), compiled=compiled))

    def set_graphs(self, graphs: Graphs | None) -> None:
        """Make passes by these recordings from here on; None: none."""
        self.graphs = graphs
        self._last_given = None
        self._last_caches = None

    def warmup_rows(self, count: int, **parameters: Any) -> list[Row]:
        """Rows that go through every network that their size needs, with as few steps as do: for warming up and for measuring."""
        steps: dict[str, Any] = {
            f"{part}_num_inference_steps": 2 for part in ("prior", "decoder", "upsampler")
        }
        resolved = self.resolve(**steps, **parameters)
        return [self.row("warm-up", seed, resolved) for seed in range(count)]

    def warm_up(self) -> None:
        """Run every network once, so that the first request does not pay for it."""
        for size in self.sizes:
            self.run(self.warmup_rows(1, size=size))


def _finite(x_0s: Sequence[Tensor]) -> list[Tensor]:
    """Whether each row's numbers are, on the device."""
    if len({x_0.shape for x_0 in x_0s}) > 1:
        return [x_0.isfinite().all() for x_0 in x_0s]
    return list(torch.stack(list(x_0s)).isfinite().flatten(1).all(1))


def _same(held: Sequence[object], asked: Sequence[object]) -> bool:
    """Whether both are the same objects in the same order."""
    return len(held) == len(asked) and all(
        one is other for one, other in zip(held, asked, strict=True)
    )


def _eights(count: int) -> int:
    """The next multiple of eight, which attention with a mask wants on a GPU."""
    return -(-count // 8) * 8


def _state(row: Row) -> Tensor:
    assert row.x_t is not None
    return row.x_t


def _source(row: Row) -> Source:
    assert row.source is not None
    return row.source


def _size(stage: str) -> int:
    """The size that an upsampler's stage draws."""
    return next(size for size, part in UPSAMPLERS.items() if part == stage)


def _conditioning(row: Row) -> Conditioning:
    assert row.conditioning is not None
    return row.conditioning


def _like(values: Tensor, x: Tensor) -> Tensor:
    """`[B]` shaped to broadcast against x."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _clamped(x: Tensor, bound: float) -> Tensor:
    """Clamped to ±bound; nan stays nan, for `step` to see."""
    return x.clamp(-bound, bound)


def _thresholded(x_0: Tensor, share: float) -> Tensor:
    """x_0 within ±1. With a share, by dynamic thresholding (Saharia et al. 2022, §2.3): what that share of the pixels does not exceed
    becomes the bound, if it is above 1, and the whole is divided by it, so that strong guidance saturates less."""
    if share == 0:
        return _clamped(x_0, 1.0)
    bound = x_0.abs().flatten().quantile(share).clamp(min=1.0)
    return x_0.clamp(-bound, bound) / bound


def _is_guided(row: Row) -> bool:
    """Whether the decoder's present step is guided: within the interval (Kynkäänniemi et al. 2024, arXiv 2404.07724). Inversion goes
    through the same noise the other way."""
    p = row.parameters
    done = row.step / row.steps
    if p.decoder_guidance_scale == 1:
        return False
    if row.stage == "inversion":
        return p.decoder_guidance_start <= 1 - (row.step + 1) / row.steps < p.decoder_guidance_stop
    return p.decoder_guidance_start <= done < p.decoder_guidance_stop


def _guide(predictions: Tensor, count: int, guided: list[int], scales: Sequence[float]) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): the first `count` predictions are conditional, the rest the
    unconditional ones of the rows in `guided`. Linear in the prediction, so equal for x_0, eps and v."""
    conditional = predictions[:count]
    if not guided:
        return conditional
    scale = _like(sent(torch.tensor([scales[k] for k in guided]), predictions.device), conditional)
    unconditional = predictions[count:]
    index = sent(torch.tensor(guided), predictions.device)
    return conditional.index_copy(
        0, index, unconditional + scale * (conditional[index] - unconditional)
    )


def _stacked(texts: Sequence[TextEncoding]) -> TextEncoding:
    """Encodings of one caption each as a batch, padded to the longest."""
    length = max(text.mask.shape[1] for text in texts)
    return TextEncoding(
        torch.cat([text.z_t for text in texts]),
        torch.cat([F.pad(text.hidden, (0, 0, 0, length - text.hidden.shape[1])) for text in texts]),
        torch.cat([F.pad(text.mask, (0, length - text.mask.shape[1])) for text in texts]),
    )
