"""The autoregressive prior's stage: from the encoded prompt to z_i, bucket by bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.diffusion.guidance import guide
from models.networks.clip import CLIP, TextEncoding
from models.networks.priors.autoregressive import AutoregressivePrior, nucleus, upper_half
from models.networks.priors.pca import PCA
from models.networks.priors.transformer import Cache
from models.parameters import Parameters
from models.row import Row, SourceImage, StageState
from models.stages.base import Role, Runtime, Stage
from models.stages.prior import text_of


@dataclass
class ArPriorState(StageState):
    """The buckets so far, the dot product's first, and the keys and values of each half."""

    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)


class ArPriorStage(Stage):
    """Sets z_i of the conditioning."""

    name = "ar_prior"
    role = Role.PRIOR
    network = "ar_prior"
    cost = 0.1

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.prior = cast(AutoregressivePrior, runtime.networks[self.network])
        self.pca = cast(PCA, runtime.networks["pca"])
        self.clip = cast(CLIP, runtime.networks["clip"])

    def is_needed(self, parameters: Parameters) -> bool:
        return parameters.prior == "autoregressive"

    def num_steps(self, parameters: Parameters, source: SourceImage | None = None) -> int:
        return 1 + self.prior.config.components

    def enter(self, row: Row) -> None:
        row.enter(self.name, ArPriorState(self.generator(row)), self.num_steps(row.parameters))

    def step(self, rows: Sequence[Row]) -> list[Row]:
        halves = [
            (row, half)
            for row in rows
            for half in range(1 if row.parameters.prior_guidance_scale == 1 else 2)
        ]
        first = [(row, half) for row, half in halves if not row.state_as(ArPriorState).tokens]
        later = [(row, half) for row, half in halves if row.state_as(ArPriorState).tokens]
        logits: dict[tuple[int, int], Tensor] = {}
        caches: dict[tuple[int, int], Cache] = {}
        for part, predict in ((first, self._predict_first), (later, self._predict_next)):
            if not part:
                continue
            part_logits, part_caches = predict(part)
            for (row, half), one, cache in zip(part, part_logits.float(), part_caches, strict=True):
                logits[id(row), half] = one
                caches[id(row), half] = cache
        for row in rows:
            row_caches = [caches[id(row), half] for half in (0, 1) if (id(row), half) in caches]
            self._sample(row, logits[id(row), 0], logits.get((id(row), 1)), row_caches)
        return [row for row in rows if row.error is None and row.step == row.steps]

    def leave(self, row: Row) -> None:
        buckets = torch.tensor(row.state_as(ArPriorState).tokens[1:], device=self.device)
        z_i = self.pca.reconstruct(self.prior.dequantize(buckets[None]))[0]
        row.conditioning.z_i = F.normalize(z_i, dim=0) if self.clip.unit_norm else z_i

    def _predict_first(self, part: Sequence[tuple[Row, int]]) -> tuple[Tensor, list[Cache]]:
        texts = [text_of(row, half) for row, half in part]
        return self.prior.encode_prefix(TextEncoding.concatenate(texts))

    def _predict_next(self, part: Sequence[tuple[Row, int]]) -> tuple[Tensor, list[Cache]]:
        """Predict each row's next bucket, which may be another one in each row."""
        states = [(row.state_as(ArPriorState), half) for row, half in part]
        return self.prior.predict_next(
            [state.caches[half] for state, half in states],
            [state.tokens[-1] for state, _ in states],
            [len(state.tokens) - 1 for state, _ in states],
        )

    def _sample(
        self, row: Row, conditional: Tensor, unconditional: Tensor | None, caches: list[Cache]
    ) -> None:
        """Guide a row's logits, and sample its next bucket from them."""
        state = row.state_as(ArPriorState)
        logits = conditional
        if unconditional is not None:
            logits = guide(conditional, unconditional, row.parameters.prior_guidance_scale)
        if not logits.isfinite().all():
            row.end(
                error=f"the output of step {row.step + 1} of {row.steps} in stage {self.name!r} is "
                "not finite"
            )
            return
        if not state.tokens:
            logits = upper_half(logits)
        parameters = row.parameters
        probabilities = nucleus(logits, parameters.prior_temperature, parameters.prior_top_p).cpu()
        state.tokens.append(int(torch.multinomial(probabilities, 1, generator=state.generator)))
        # Stored only now, with the token: a pass that fails halfway is repeated row by row.
        state.caches = caches
        row.step += 1
