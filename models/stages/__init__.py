"""The stages of the pipeline, one file each. To add a stage, write its file and enter it here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from models.parameters import Parameters
from models.stages.ar_prior import ArPriorStage
from models.stages.base import Role, Runtime, Stage
from models.stages.decoder import DecoderStage
from models.stages.image import ImageStage
from models.stages.inversion import InversionStage
from models.stages.prior import PriorStage
from models.stages.text import TextStage
from models.stages.upsampler import Upsampler256Stage, Upsampler1024Stage

# In the order in which a row passes them, as far as its kind and parameters need them.
STAGES: tuple[type[Stage], ...] = (
    TextStage,
    ImageStage,
    InversionStage,
    PriorStage,
    ArPriorStage,
    DecoderStage,
    Upsampler256Stage,
    Upsampler1024Stage,
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def build_stages(runtime: Runtime) -> dict[str, Stage]:
    """Create the stages whose network the checkpoint has, by name and in order."""
    return {stage.name: stage(runtime) for stage in STAGES if stage.network in runtime.networks}


def select(
    stages: Mapping[str, Stage], roles: Collection[Role], parameters: Parameters
) -> list[str]:
    """Return the names of the stages, in order, that a row of these roles and parameters passes."""
    return [
        stage.name
        for stage in stages.values()
        if stage.role in roles and stage.is_needed(parameters)
    ]
