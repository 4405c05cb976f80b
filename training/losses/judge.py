"""Training of the judge on a pool of scenes."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.illustrated.scene_pool import ScenePool
from training.evaluation.judge import Judge, judge_loss, label_scenes
from training.trainer.step import Loss, Step


def pool_judge_loss(judge: Judge, pools: list[ScenePool]) -> Loss:
    """Return the loss on scenes of the pools, each equally often."""

    def loss(step: Step) -> Tensor:
        total = torch.zeros(())
        for pool in pools:
            indices = torch.randint(
                len(pool), (step.batch // len(pools),), generator=step.generator
            )
            scenes = [pool.scene(index) for index in indices.tolist()]
            total = total + judge_loss(
                judge,
                pool.arrays.feature_batch(indices, small=True),
                label_scenes(pool.world, scenes),
            ) / len(pools)
        return total

    return loss
