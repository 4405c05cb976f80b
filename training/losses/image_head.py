"""Training of the image tower's head alone, against a frozen text tower: large batches of cached
features and captions."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.networks.two_tower_clip import MAX_LOGIT_SCALE, TwoTowerCLIP
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.data.illustrated.scene_pool import ScenePool
from training.losses.two_towers import embed_texts
from training.scenes.illustrated.captions import draw_caption, plain_caption
from training.scenes.illustrated.synonyms import with_article
from training.trainer.step import Loss, Step

TEXT_BATCH = 512


@dataclass(frozen=True)
class HeadData:
    """Cached features and what they are to be near."""

    features: Tensor  # [N, W], fp16
    captions: Tensor  # [2, N, D], two full captions of each scene
    keys: Tensor  # [N], equal for scenes that no full caption tells apart
    groups: Tensor  # [N], the label's group where one thing is shown, else -1
    labels: Tensor  # [G, D], embeddings of the labels
    classes: Tensor  # [1000, D], embeddings of ImageNet's class names
    class_groups: Tensor  # [1000], group of the thing at or above each class, else -1


@torch.no_grad()
def gather_head_data(
    clip: TwoTowerCLIP,
    pools: list[ScenePool],
    groups: list[int],
    class_names: list[list[str]],
    class_groups: list[int],
) -> HeadData:
    """Encode full captions of every scene of the pools."""
    features: list[Tensor] = []
    captions: tuple[list[str], list[str]] = ([], [])
    keys: list[int] = []
    scene_names: list[int] = []
    numbers: dict[object, int] = {}
    for pool in pools:
        for index in range(len(pool)):
            scene = pool.scene(index)
            rng = random.Random(f"head {index}")
            captions[0].append(plain_caption(pool.world, scene))
            captions[1].append(draw_caption(pool.world, scene, rng, style_share=1.0))
            key = (
                scene.kind,
                scene.parts,
                scene.art_set,
                scene.ground,
                scene.time,
                scene.relation,
                scene.count,
                scene.extra,
                scene.word,
            )
            keys.append(numbers.setdefault(key, len(numbers)))
            scene_names.append(
                groups[scene.parts[0].name]
                if scene.kind in ("one", "coloured", "worn", "count")
                else -1
            )
        features.append(pool.arrays.feature_batch(torch.arange(len(pool))).half())
    texts: dict[int, str] = {}
    world = pools[0].world
    for name, group in enumerate(groups):
        texts.setdefault(group, with_article(world.words[name][0]))
    return HeadData(
        torch.cat(features),
        torch.stack([_embed(clip, texts_) for texts_ in captions]),
        torch.tensor(keys),
        torch.tensor(scene_names),
        _embed(clip, list(texts.values())),
        _embed(clip, [with_article(several[0]) for several in class_names]),
        torch.tensor(class_groups),
    )


def image_head_loss(
    clip: TwoTowerCLIP, data: HeadData, photographs: PseudoPhotographs, photograph_count: int = 256
) -> Loss:
    """Return the loss of one step: scenes against captions and labels, pseudo-photographs against
    class names and labels."""
    scale = clip.logit_scale.detach().exp().clamp(max=MAX_LOGIT_SCALE)

    def loss(step: Step) -> Tensor:
        rows = torch.randint(len(data.features), (step.batch,), generator=step.generator)
        classes = torch.randint(len(data.classes), (photograph_count,), generator=step.generator)
        features = torch.cat(
            (data.features[rows].float(), photographs.draw(classes, step.generator))
        )
        z_i = F.normalize(clip.image.head(features).float(), dim=-1)
        scenes, photos = z_i[: step.batch], z_i[step.batch :]
        which = torch.randint(2, (step.batch,), generator=step.generator)
        logits = scale * scenes @ data.captions[which, rows].T
        same = data.keys[rows][:, None] == data.keys[rows][None]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -1e4)
        target = torch.arange(step.batch)
        contrast = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        scene_names = data.groups[rows]
        known = data.class_groups[classes]
        of_labels = F.cross_entropy(scale * scenes @ data.labels.T, scene_names, ignore_index=-1)
        of_classes = F.cross_entropy(scale * photos @ data.classes.T, classes)
        of_things = F.cross_entropy(scale * photos @ data.labels.T, known, ignore_index=-1)
        return contrast + 0.5 * of_labels + 0.5 * of_classes + of_things

    return loss


def _embed(clip: TwoTowerCLIP, texts: list[str]) -> Tensor:
    parts = []
    for start in tqdm(range(0, len(texts), TEXT_BATCH), desc="captions", mininterval=5):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(embed_texts(clip, texts[start : start + TEXT_BATCH], parts=6).float())
    return torch.cat(parts)
