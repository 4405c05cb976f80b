"""Settings of the worker, read from the environment and checked at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from infra.settings import CommonSettings


class Settings(CommonSettings):
    """Read the worker's settings. Each field is the environment variable UNCLIP_<FIELD>."""

    checkpoint: Path | None = Field(
        None, description="Checkpoint folder. Default: the bundled checkpoint."
    )
    upsampler: Path | None = Field(
        None,
        description=(
            "Last upsampler from another source: a checkpoint folder, or a file of a x4 model."
        ),
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the networks."
    )
    offload_budget_mib: int | None = Field(
        None,
        ge=0,
        description=(
            "Maximum MiB of weights on a GPU; the other weights stay in host memory. "
            "Default: all weights on the GPU."
        ),
    )
    cuda_graphs: bool = Field(
        True, description="Capture passes as CUDA graphs, on a GPU that holds all weights."
    )
    device: str = Field(
        "auto", description="torch device, such as cpu or cuda:0; auto prefers a GPU."
    )
    max_concurrent_jobs: int = Field(
        32, ge=1, le=1000, description="Maximum jobs that one worker runs at once."
    )
    max_batch_size: int = Field(
        32,
        ge=1,
        description=(
            "Maximum rows of one forward pass at 64²; a sixteenth of it at 256², and so on."
        ),
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves it to torch.")
    worker_metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of the worker's Prometheus metrics; 0 for none."
    )
    content_filter: Path | None = Field(
        None,
        description="JSON file of concepts that no image may show. Default: no content filter.",
    )
