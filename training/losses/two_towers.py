"""Training of the two towers' joint space: scenes with captions, words with things, class names
with pseudo-photographs."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.text_tower import PAD_ID
from models.networks.two_tower_clip import MAX_LOGIT_SCALE, TwoTowerCLIP
from training.data.illustrated.pseudo_photographs import PseudoPhotographs
from training.data.illustrated.scene_pool import ScenePool
from training.data.illustrated.word_pairs import WordPairs
from training.scenes.illustrated.captions import draw_caption, frame_noun, plain_caption
from training.trainer.step import Loss, Step

PROTOTYPES_EVERY = 25  # steps


@dataclass
class TwoTowerData:
    """What the joint space learns from, and how much of each in a step."""

    pool: ScenePool
    words: WordPairs
    photographs: PseudoPhotographs
    class_names: list[list[str]]
    class_groups: list[int]  # group of the thing at or above each class, -1 where there is none
    twins: dict[int, list[int]] = field(default_factory=dict)  # name -> scenes that show it alone
    twin_pairs: int = 64  # pairs of scenes of one name, told apart by their captions
    scenes: int = 112
    texts: int = 144
    photograph_count: int = 96


def find_twins(pool: ScenePool) -> dict[int, list[int]]:
    """Map each name to the pool's scenes that show it alone."""
    twins: dict[int, list[int]] = {}
    for index in range(len(pool)):
        scene = pool.scene(index)
        if scene.kind in ("one", "coloured", "worn"):
            twins.setdefault(scene.parts[0].name, []).append(index)
    return {name: scenes for name, scenes in twins.items() if len(scenes) > 1}


def two_tower_loss(clip: TwoTowerCLIP, data: TwoTowerData) -> Loss:
    """Return the loss of one step: three contrastive terms of equal weight."""
    labels: dict[int, str] = {}
    for name, group in enumerate(data.words.groups):
        labels.setdefault(group, data.words.world.words[name][0])
    prototypes = _Prototypes(clip, list(labels.values()))

    def loss(step: Step) -> Tensor:
        rng = random.Random(int(torch.randint(1 << 40, (), generator=step.generator)))
        indices, captions, same = _draw_scenes(data, rng)
        texts, groups = data.words.draw(data.texts, rng)
        classes = torch.tensor(rng.sample(range(len(data.class_names)), data.photograph_count))
        class_texts = [
            frame_noun(rng.choice(data.class_names[index]), rng) for index in classes.tolist()
        ]
        features = torch.cat(
            (
                data.pool.arrays.feature_batch(indices),
                data.photographs.draw(classes, step.generator),
            )
        )
        z_i = F.normalize(clip.image.head(features).float(), dim=-1)
        z_t = embed_texts(clip, [*captions, *texts, *class_texts])
        z_scenes, z_words, z_classes = z_t.split((len(captions), len(texts), len(class_texts)))
        scale = clip.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        with torch.autocast("cpu", enabled=False):
            of_scenes = _contrast(z_scenes, z_i[: len(captions)], scale, same)
            anchors = prototypes.at(step.number)
            of_words = F.cross_entropy(scale * z_words.float() @ anchors.T, torch.tensor(groups))
            photographs = z_i[len(captions) :]
            of_classes = _contrast(
                z_classes, photographs, scale, torch.eye(len(classes), dtype=torch.bool)
            )
            things = torch.tensor([data.class_groups[index] for index in classes.tolist()])
            known = things >= 0
            of_things = F.cross_entropy(scale * photographs[known] @ anchors.T, things[known])
        return of_scenes + of_words + 0.5 * of_classes + 0.5 * of_things

    return loss


def embed_texts(clip: TwoTowerCLIP, texts: list[str], parts: int = 4) -> Tensor:
    """Return z_t `[B, D]` of texts, encoded in parts of similar length so that little is padded."""
    tokens = clip.tokenize(texts)[0]
    order = (tokens != PAD_ID).sum(1).argsort()
    embeddings = torch.cat([clip.encode_text(tokens[rows]).z_t for rows in order.chunk(parts)])
    return embeddings[order.argsort()]


class _Prototypes:
    """Embeddings of the plainest words, refreshed now and then; no gradient goes through them."""

    def __init__(self, clip: TwoTowerCLIP, labels: list[str]) -> None:
        self.clip = clip
        self.tokens = clip.tokenize([frame_noun(label, random.Random(1)) for label in labels])[0]
        self.plain = clip.tokenize(labels)[0]
        self.embeddings: Tensor | None = None

    @torch.no_grad()
    def at(self, step: int) -> Tensor:
        """Return `[G, D]` for a step."""
        if self.embeddings is None or step % PROTOTYPES_EVERY == 0:
            with torch.autocast("cpu", torch.bfloat16):
                parts = [self.clip.encode_text(rows).z_t for rows in self.plain.split(256)]
            self.embeddings = torch.cat(parts).float()
        return self.embeddings


def _draw_scenes(data: TwoTowerData, rng: random.Random) -> tuple[Tensor, list[str], Tensor]:
    """Return scenes' indices, their captions, and which pairs of them a caption cannot tell apart
    `[B, B]`."""
    world = data.pool.world
    indices, captions = [], []
    for name in rng.sample(list(data.twins), data.twin_pairs):
        for index in rng.sample(data.twins[name], 2):
            scene = data.pool.scene(index)
            indices.append(index)
            captions.append(
                plain_caption(world, scene)
                if rng.random() < 0.4
                else draw_caption(world, scene, rng, style_share=1.0)
            )
    for _ in range(data.scenes):
        index = rng.randrange(len(data.pool))
        indices.append(index)
        captions.append(draw_caption(world, data.pool.scene(index), rng))
    scenes = [data.pool.scene(index) for index in indices]
    keys = [
        (
            scene.kind,
            scene.parts,
            scene.art_set,
            scene.ground,
            scene.time,
            scene.relation,
            scene.count,
            scene.extra,
        )
        for scene in scenes
    ]
    numbers: dict[object, int] = {}
    ids = torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])
    same = ids[:, None] == ids[None]
    # A scene drawn at random may share its name with others, and its caption need not tell them
    # apart.
    names = torch.tensor(
        [
            scene.parts[0].name if len(scene.parts) == 1 else -1 - row
            for row, scene in enumerate(scenes)
        ]
    )
    ambiguous = names[:, None] == names[None]
    ambiguous[: 2 * data.twin_pairs] = False
    return torch.tensor(indices), captions, same | ambiguous


def _contrast(z_t: Tensor, z_i: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Return CLIP's symmetric loss; pairs in `same` `[B, B]` other than the diagonal do not count
    as negatives."""
    logits = scale * z_t.float() @ z_i.T
    off = same & ~torch.eye(len(same), dtype=torch.bool)
    logits = logits.masked_fill(off, -math.inf)
    columns = logits.T.masked_fill(off.T, -math.inf)
    target = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(columns, target))
