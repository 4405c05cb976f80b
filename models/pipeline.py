"""The pipeline: CLIP, priors, decoder and upsamplers, and the stages that move rows through them.

`step` takes any rows that need the same stage, runs one forward pass, and moves each row one step.
`generate` loops over it for scripts. The worker's engine does so for rows that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models import defaults
from models.acceleration.cuda_graphs import CudaGraphs, GraphCapturer
from models.acceleration.offload import WeightOffloader
from models.acceleration.onednn import prepack_convolutions
from models.checkpoints.checkpoint import BASE_SIZE, UPSAMPLERS, Checkpoint
from models.checkpoints.open import open_checkpoint
from models.networks.clip import CLIP
from models.networks.decoder import Decoder
from models.networks.priors.autoregressive import AutoregressivePrior
from models.networks.priors.diffusion import DiffusionPrior
from models.networks.priors.pca import PCA
from models.networks.upsampler import Upsampler
from models.parameters import Parameters
from models.row import Conditioning, Row, SourceImage
from models.stages import build_stages, select
from models.stages.base import Role, Runtime, Stage

OnStep = Callable[[Sequence[Row]], None]


class UnCLIP:
    """A loaded pipeline. It is not thread-safe: one thread owns it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        offloader: WeightOffloader | None = None,
    ) -> None:
        """Build the pipeline on the device that has the networks, or to which `offloader` moves."""
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.offloader = offloader
        self.name = checkpoint.name
        self.digest = checkpoint.digest
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
        self.runtime = Runtime(
            networks, checkpoint.defaults, self.device, vocabulary=checkpoint.vocabulary
        )
        self.stages = build_stages(self.runtime)
        self._last_stage: Stage | None = None

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
        """Load a checkpoint folder, in our layout or Karlo's; None is the embedded default.

        `dtype` is that of the networks' weights. Samplers, guidance and everything between stages
        stay in fp32, because a rounding error is amplified there (by 1 / sqrt(alphas_cumprod), 2e4
        at the cosine schedule's first step). `upsampler` replaces the last upsampler, see
        `external_upsampler`. `offload_budget_bytes` bounds the weights on the device, and the
        others wait in host memory (None: all are on the device). Raises CheckpointError for files
        that do not fit."""
        host = device if offload_budget_bytes is None else "cpu"
        checkpoint = open_checkpoint(folder, host, dtype, upsampler)
        if offload_budget_bytes is None:
            return cls(checkpoint, device)
        offloader = WeightOffloader(checkpoint.networks, torch.device(device), offload_budget_bytes)
        return cls(checkpoint, device, offloader)

    def resolve(self, operation: str = "generate", **values: Any) -> Parameters:
        """Complete parameters that are None or absent by the operation's defaults, then ours.

        Raises ValueError for what this checkpoint does not support."""
        parameters = defaults.resolve(self.checkpoint.defaults, operation, values)
        defaults.check(parameters, self.name, self.sizes, self.priors)
        for name in select(self.stages, (Role.PRIOR, Role.RENDER), parameters):
            self.stages[name].num_steps(parameters)
        return parameters

    def row(
        self, prompt: str, seed: int, parameters: Parameters, source: SourceImage | None = None
    ) -> Row:
        """Create a row from a prompt to an image, without running a network.

        A source with a mask makes it an edit of that image."""
        roles = (Role.TEXT, Role.PRIOR, Role.RENDER)
        return self._row(roles, prompt, seed, parameters, source)

    def prompt_row(self, prompt: str, seed: int, parameters: Parameters, *, prior: bool) -> Row:
        """Create a row that ends with the encoded prompt; `prior` adds an image embedding."""
        roles = (Role.TEXT, Role.PRIOR) if prior else (Role.TEXT,)
        return self._row(roles, prompt, seed, parameters)

    def image_row(self, image: Tensor, parameters: Parameters, *, invert: bool) -> Row:
        """Create a row that ends with the z_i of an image `[3, S, S]` in [-1, 1].

        `invert` adds its x_T: DDIM run backwards by the decoder, given z_i and no prompt (paper
        §3). Raises ValueError if the checkpoint has no image encoder."""
        if not self.clip.has_image_encoder:
            raise ValueError(
                f"checkpoint {self.name!r} has no image encoder: load one that has, or use a prompt"
            )
        roles = (Role.IMAGE, Role.INVERSION) if invert else (Role.IMAGE,)
        return self._row(roles, "", 0, parameters, SourceImage(image.to(self.device)))

    @property
    def has_image_prior(self) -> bool:
        """Whether the prior also takes an image's embedding in the prompt's place."""
        return bool(self.checkpoint.config.get("image_prior", False))

    def reimagined_row(self, source: Conditioning, seed: int, parameters: Parameters) -> Row:
        """Create a row whose z_i the prior computes from a source's z_i, not from a prompt.

        A z_i of a photograph is unlike those that the decoder learned; the prior's is not."""
        text = replace(source.unconditional, z_t=source.image_embedding[None])
        conditioning = Conditioning(text, source.unconditional)
        roles = (Role.PRIOR, Role.RENDER)
        return self._row(roles, "", seed, parameters, conditioning=conditioning)

    def latent_row(self, latent: Conditioning, seed: int, parameters: Parameters) -> Row:
        """Create a row that decodes a latent, (z_i, x_T) or z_i alone, with the text it has."""
        conditioning = replace(latent, low_res=None)
        return self._row((Role.RENDER,), "", seed, parameters, conditioning=conditioning)

    def _row(
        self,
        roles: Collection[Role],
        prompt: str,
        seed: int,
        parameters: Parameters,
        source: SourceImage | None = None,
        conditioning: Conditioning | None = None,
    ) -> Row:
        stages = [self.stages[name] for name in select(self.stages, roles, parameters)]
        costs = {stage.name: stage.cost * stage.num_steps(parameters, source) for stage in stages}
        row = Row(prompt, seed, parameters, costs, source)
        if conditioning is not None:
            row.conditioning = conditioning
        stages[0].enter(row)
        return row

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> None:
        """Move rows that need the same stage by one step, in one forward pass.

        A row with a non-finite result ends with an error; the others are not affected. Raises
        ValueError for rows of different stages."""
        names = {row.stage for row in rows}
        name = rows[0].stage
        if len(names) != 1 or name is None:
            raise ValueError(f"rows of one step must need one and the same stage, not {names}")
        stage = self.stages[name]
        if self.offloader is not None:
            self.offloader.ensure_on_device(stage.network)
        if self._last_stage is not None and self._last_stage is not stage:
            self._last_stage.release_memory()
        self._last_stage = stage
        for row in stage.step(rows):
            stage.leave(row)
            if row.next_stage is None:
                row.end(image=row.conditioning.low_res)
            else:
                self.stages[row.next_stage].enter(row)

    def run(self, rows: Sequence[Row], on_step: OnStep | None = None) -> None:
        """Move rows to their end; `on_step` receives them after each step.

        Raises RuntimeError if a row failed."""
        while moving := [row for row in rows if row.stage is not None]:
            self.step([row for row in moving if row.stage == moving[0].stage])
            if on_step is not None:
                on_step(rows)
        failed = [row for row in rows if row.error is not None]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(rows)} images failed: {failed[0].error}")

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        on_step: OnStep | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Generate an image of each prompt: `[B, 3, S, S]` in [-1, 1].

        Seeds default to 0, 1, 2 …; `parameters` are those of `resolve`, and `on_step` receives the
        rows after each step. Raises RuntimeError if a row failed."""
        resolved = self.resolve(**parameters)
        seeds = range(len(prompts)) if seeds is None else seeds
        rows = [
            self.row(prompt, seed, resolved) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        self.run(rows, on_step)
        return torch.stack([cast(Tensor, row.image) for row in rows])

    def prepack(self) -> None:
        """Prepare a pipeline on a CPU for inference only: see `prepack_convolutions`.

        The networks can no longer be saved or trained. Images are equal up to rounding."""
        prepack_convolutions(self.checkpoint.networks.values())

    @property
    def graphs(self) -> CudaGraphs | None:
        """The CUDA graphs in use; None if every pass runs eagerly."""
        return self.runtime.graphs

    def set_graphs(self, graphs: CudaGraphs | None) -> None:
        """Use these CUDA graphs for all passes from now on; None runs every pass eagerly."""
        self.runtime.graphs = graphs

    def enable_cuda_graphs(self, compiled: bool = False) -> None:
        """Capture passes of priors, decoder and upsamplers as CUDA graphs, and replay them.

        A pass is captured when its batch size occurs a second time. `compiled` generates the
        kernels by torch.compile, which takes about a minute for each batch size. Images are equal
        up to rounding. It has no effect without a GPU, or with offloading."""
        if self.device.type == "cuda" and self.offloader is None:
            self.set_graphs(CudaGraphs(GraphCapturer(self.device), compiled=compiled))

    def warmup_rows(self, count: int, **parameters: Any) -> list[Row]:
        """Create rows that pass every network of their size in as few steps as possible.

        They serve warm-up and measurements."""
        parts = ("prior", "decoder", "upsampler")
        steps: dict[str, Any] = {f"{part}_num_inference_steps": 2 for part in parts}
        resolved = self.resolve(**steps, **parameters)
        return [self.row("warm-up", seed, resolved) for seed in range(count)]

    def warm_up(self) -> None:
        """Run every network once, so that the first request is not delayed by it."""
        for size in self.sizes:
            self.run(self.warmup_rows(1, size=size))
