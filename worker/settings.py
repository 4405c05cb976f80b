"""The worker's settings, from the environment, checked at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from infra.settings import CommonSettings
from worker.jobs.content_filter import read


class Settings(CommonSettings):
    """Each field is the environment variable UNCLIP_<FIELD>."""

    checkpoint: Path | None = Field(
        None, description="Checkpoint folder; the embedded default where unset."
    )
    upsampler: Path | None = Field(
        None,
        description="Last upsampler from elsewhere: a checkpoint folder of ours, or a file of a x4 model.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="What the networks compute in."
    )
    device_memory: int | None = Field(
        None,
        ge=0,
        description="MiB of weights on a GPU at a time, the rest in host memory; all where unset.",
    )
    cuda_graphs: bool = Field(
        True, description="Play passes back as CUDA graphs, on a GPU with room for all weights."
    )
    device: str = Field(
        "auto",
        description="torch device, such as cpu or cuda:0; auto takes a GPU where there is one.",
    )
    jobs_at_once: int = Field(32, ge=1, le=1000, description="Jobs in flight in one worker.")
    max_batch: int = Field(
        32,
        ge=1,
        description="Most rows of one forward pass at 64²; a sixteenth as many for each size above.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves it to torch.")
    worker_metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of the worker's own Prometheus metrics; 0 for none."
    )
    content_check: Path | None = Field(
        None, description="JSON file of what no image may show; nothing is checked where unset."
    )

    @field_validator("content_check")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None:
            read(path)
        return path
