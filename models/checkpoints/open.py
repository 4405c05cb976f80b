"""Open a checkpoint in any supported layout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoints import external_upsampler, karlo
from models.checkpoints.checkpoint import DEFAULT_FOLDER, Checkpoint, digest, load


def open_checkpoint(
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    upsampler: Path | str | None = None,
) -> Checkpoint:
    """Load a checkpoint folder with its digest, in our layout or Karlo's.

    None is the embedded default. `upsampler` replaces the last upsampler, see
    `external_upsampler.add_upsampler`. Raises CheckpointError for files that do not fit."""
    folder = Path(DEFAULT_FOLDER if folder is None else folder)
    files = [folder] if upsampler is None else [folder, Path(upsampler)]
    # Karlo's digest takes seconds, as its loading does.
    with ThreadPoolExecutor(1) as executor:
        pending_digest = executor.submit(digest, *files)
        load_folder = karlo.load if karlo.is_karlo(folder) else load
        checkpoint = load_folder(folder, device, dtype)
        if upsampler is not None:
            checkpoint = external_upsampler.add_upsampler(
                checkpoint, Path(upsampler), device, dtype
            )
    return replace(checkpoint, digest=pending_digest.result())
