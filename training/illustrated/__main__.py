"""`python -m training.illustrated STAGE`: train the illustrated world, one stage at a time.

Every stage resumes from its last save. Stages in order: clip_pool, clip, image_head, freeze, pool,
solids, then decoder, prior, judge, matting, upsampler_256 and upsampler_1024 in any order. `rest`
runs all but the decoder. `generator` is what a GPU is for: pool, prior and decoder in one part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from training.errors import TrainingError
from training.illustrated import network_stages, pool_stages, space_stages
from training.illustrated.presets import PRESETS
from training.illustrated.run import IllustratedRun, steps_done
from training.scenes.illustrated.art.atlas import ART_FOLDER

STAGES: dict[str, Callable[[IllustratedRun, float], None]] = {
    "clip_pool": lambda run, _: space_stages.build_clip_pool(run),
    "clip": space_stages.train_clip,
    "image_head": space_stages.train_image_head,
    "freeze": lambda run, _: space_stages.freeze(run),
    "pool": lambda run, _: pool_stages.build_scene_pool(run),
    "solids": lambda run, _: pool_stages.build_solids(run),
    "pack": lambda run, _: pool_stages.pack(run),
    "unpack": lambda run, _: pool_stages.unpack(run),
    "generator": network_stages.train_generator,
    "rest": network_stages.train_rest,
    "decoder": network_stages.train_decoder,
    "prior": network_stages.train_prior,
    "upsampler_256": lambda run, limit_s: network_stages.train_upsampler(run, 256, limit_s),
    "upsampler_1024": lambda run, limit_s: network_stages.train_upsampler(run, 1024, limit_s),
    "matting": network_stages.train_matting,
    "judge": network_stages.train_judge,
}


def main() -> None:
    """Train one stage of the illustrated world, or show how far all are."""
    parser = argparse.ArgumentParser(
        prog="python -m training.illustrated", description=main.__doc__
    )
    parser.add_argument("stage", choices=[*STAGES, "status"])
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("runs/world"))
    parser.add_argument("--art", type=Path, default=ART_FOLDER)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: torch's choice)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that render the pool")
    parser.add_argument(
        "--minutes",
        type=float,
        default=1e6,
        help="stop after this long; resume by the same command",
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # Muon's products in bf16 inside, on a CPU that has it: half of their time, and the same to its
    # precision.
    torch.set_float32_matmul_precision("medium")
    preset = PRESETS[arguments.preset]
    if arguments.stage == "status":
        for name, plan in preset.plans.items():
            print(f"{name}: step {steps_done(arguments.folder / f'{name}.pt')} of {plan.steps}")
        return
    try:
        STAGES[arguments.stage](
            IllustratedRun(
                preset, arguments.folder, arguments.art, arguments.device, arguments.workers
            ),
            arguments.minutes * 60,
        )
    except (TrainingError, OSError) as error:
        sys.exit(f"Cannot train {arguments.stage}: {error}")


if __name__ == "__main__":
    main()
