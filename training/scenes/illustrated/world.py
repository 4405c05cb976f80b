"""The world that scenes are drawn from: things, styles, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.scenes.illustrated.art.art_sets import ART_SETS
from training.scenes.illustrated.art.atlas import ART_FOLDER, Atlas, load_atlas
from training.scenes.illustrated.art.names import Name
from training.scenes.illustrated.splits import is_held_out
from training.scenes.illustrated.synonyms import tags_for, words_for

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 45, 40),
    "orange": (240, 140, 30),
    "yellow": (246, 205, 50),
    "green": (70, 165, 70),
    "blue": (50, 110, 215),
    "purple": (135, 70, 185),
    "pink": (240, 120, 170),
    "brown": (130, 85, 50),
}
GROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 75, 70),
    "orange": (246, 170, 80),
    "yellow": (250, 225, 110),
    "green": (150, 205, 130),
    "blue": (140, 185, 240),
    "purple": (180, 150, 225),
    "pink": (250, 190, 210),
    "grey": (185, 185, 190),
    "black": (20, 20, 24),
}
PLACES = ("grass", "sand", "snow", "wood", "checker", "water", "space")
TIMES = ("day", "sunset", "night")
EYEWEAR = ("sunglasses", "glasses")
HEADWEAR = (
    "top hat",
    "crown",
    "graduation cap",
    "billed cap",
    "rescue worker’s helmet",
    "headphone",
)
WORN = (*EYEWEAR, *HEADWEAR)
VEHICLES = (
    "bicycle",
    "skateboard",
    "motor scooter",
    "kick scooter",
    "motorcycle",
    "rocket",
    "sled",
    "canoe",
)
HELD = (
    "balloon",
    "pizza",
    "red apple",
    "banana",
    "umbrella",
    "rose",
    "guitar",
    "trophy",
    "wrapped gift",
    "lollipop",
    "star",
    "closed book",
)
# Faces of people that hats and glasses fit, beside animals' faces.
_FACES = (
    "grinning face",
    "slightly smiling face",
    "smiling face",
    "neutral face",
    "jack-o-lantern",
    "alien",
    "robot",
    "clown face",
    "teddy bear",
)

TRANSPORT = ("transport-ground", "transport-water", "transport-air")
# Popular things of the other groups, for a world that a few CPU hours can learn.
POPULAR = (
    "house", "castle", "tent", "sun", "crescent moon", "full moon", "star", "glowing star",
    "cloud", "rainbow", "umbrella", "snowflake", "snowman", "fire", "droplet", "jack-o-lantern",
    "Christmas tree", "balloon", "wrapped gift", "ribbon", "trophy", "soccer ball", "baseball",
    "basketball", "tennis", "volcano", "mountain", "ringed planet", "alarm clock",
    "hourglass done", "guitar", "violin", "trumpet", "drum", "teddy bear", "kite", "game die",
    "video game", "crystal ball", "sunglasses", "glasses", "crown", "top hat", "graduation cap",
    "billed cap", "rescue worker’s helmet", "headphone", "t-shirt", "dress", "jeans", "socks",
    "backpack", "high-heeled shoe", "running shoe", "ring", "gem stone", "mobile phone", "laptop",
    "television", "camera", "light bulb", "candle", "closed book", "envelope", "pencil",
    "scissors", "key", "locked", "hammer", "axe", "bomb", "magnet", "microscope", "telescope",
    "toilet", "door", "chair", "bed", "bathtub", "broom", "red heart", "blue heart", "green heart",
    "broken heart", "ghost", "alien", "robot", "pile of poo", "skull", "clown face",
    "grinning face", "smiling face with sunglasses", "smiling face with heart-eyes",
    "face with tears of joy", "crying face", "angry face", "thinking face", "sleeping face",
    "slightly smiling face", "eye", "brain", "bone", "tooth", "Santa Claus", "mermaid", "vampire",
    "zombie", "fairy", "ninja", "astronaut", "police officer", "cook", "money bag", "ferris wheel",
    "crossed swords", "shield", "hot springs", "globe showing Europe-Africa", "rocket",
    "flying saucer", "chess pawn", "magic wand",
)  # fmt: skip

# What people type first: shown three times as often as the rest.
CORE = frozenset(
    (
        "dog", "dog face", "cat", "cat face", "lion", "tiger face", "horse", "cow face",
        "pig face", "rabbit face", "mouse face", "fox", "bear", "panda", "koala", "monkey face",
        "elephant", "giraffe", "wolf", "unicorn", "penguin", "owl", "duck", "bird", "baby chick",
        "frog", "turtle", "snake", "crocodile", "dragon", "T-Rex", "sauropod", "whale", "dolphin",
        "fish", "shark", "octopus", "crab", "butterfly", "honeybee", "lady beetle", "snail",
        "spider", "rose", "sunflower", "tulip", "cactus", "deciduous tree", "palm tree",
        "mushroom", "red apple", "green apple", "banana", "grapes", "strawberry", "watermelon",
        "lemon", "tangerine", "pineapple", "cherries", "pear", "peach", "tomato", "carrot",
        "avocado", "eggplant", "ear of corn", "bread", "cheese wedge", "hamburger", "french fries",
        "pizza", "hot dog", "taco", "sushi", "egg", "doughnut", "cookie", "birthday cake",
        "cupcake", "ice cream", "soft ice cream", "hot beverage", "beer mug", "wine glass",
        "automobile", "bus", "taxi", "police car", "fire engine", "delivery truck", "tractor",
        "bicycle", "motorcycle", "airplane", "helicopter", "rocket", "sailboat", "ship",
        "locomotive", "house", "castle", "sun", "star", "crescent moon", "cloud", "rainbow",
        "umbrella", "snowman", "fire", "jack-o-lantern", "Christmas tree", "balloon",
        "wrapped gift", "soccer ball", "basketball", "guitar", "teddy bear", "sunglasses", "crown",
        "top hat", "red heart", "ghost", "alien", "robot", "flying saucer", "key", "light bulb",
        "mobile phone", "laptop", "camera", "grinning face", "gem stone", "closed book",
    )
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """Things that scenes may show. Indices into `names` are what scenes hold."""

    atlas: Atlas
    words: list[tuple[str, ...]]  # of each name, the plainest first
    tags: list[tuple[str, ...]]  # loose synonyms of each name
    tier: tuple[int, ...]  # names that scenes are drawn from
    weights: tuple[
        float, ...
    ]  # how often scenes show each name of the tier, relative to the others
    boxes: NDArray[
        np.float32
    ]  # [N, 4] alpha box of each sprite: left, top, right, bottom in [0, 1]

    @property
    def names(self) -> list[Name]:
        return self.atlas.names

    def index(self, label: str) -> int:
        """Return the index of a label, -1 if the world lacks it."""
        return self._indices.get(label, -1)

    @property
    def _indices(self) -> dict[str, int]:
        cached: dict[str, int] | None = self.__dict__.get("_cache")
        if cached is None:
            cached = {name.label: index for index, name in enumerate(self.names)}
            object.__setattr__(self, "_cache", cached)
        return cached

    def sets_of(self, name: int, *, held_out: bool = False) -> list[int]:
        """Return the sets that show a name and that training may use; `held_out`: those it must
        not."""
        set_columns = [
            column for column in range(len(self.atlas.sets)) if self.atlas.table[name, column] >= 0
        ]
        withheld = [
            column
            for column in set_columns
            if is_held_out("style", self.names[name].label, self.atlas.sets[column])
        ]
        if len(withheld) == len(set_columns):
            withheld = withheld[1:]
        return (
            withheld if held_out else [column for column in set_columns if column not in withheld]
        )


STYLE_WORDS = {art_set.key: art_set.words for art_set in ART_SETS}


def has_face(name: Name) -> bool:
    """Return whether hats and glasses fit on the sprite as a whole."""
    is_animal_face = name.group == "animals-nature" and (
        name.label.endswith("face")
        or name.label
        in (
            "lion",
            "fox",
            "wolf",
            "bear",
            "panda",
            "koala",
            "frog",
            "raccoon",
            "hamster",
            "polar bear",
            "moose",
        )
    )
    return is_animal_face or name.label in _FACES


def is_creature(name: Name) -> bool:
    """Return whether a thing can hold or ride something."""
    return (
        name.subgroup.startswith("animal-")
        or (name.group == "people-body" and name.subgroup.startswith("person"))
        or has_face(name)
    )


def load_world(
    folder: Path = ART_FOLDER,
    tier: str = "popular",
    sets: tuple[str, ...] | None = ("noto", "twemoji", "flat", "3d"),
) -> World:
    """Load the world of a tier: "popular" (animals, food, vehicles, well-known objects) or
    "all"."""
    atlas = load_atlas(folder, sets)
    chosen = [index for index, name in enumerate(atlas.names) if tier == "all" or _is_popular(name)]
    weights = tuple(3.0 if atlas.names[index].label in CORE else 1.0 for index in chosen)
    return World(
        atlas,
        words_for(atlas.names),
        tags_for(atlas.names),
        tuple(chosen),
        weights,
        find_alpha_boxes(atlas.sprites),
    )


def _is_popular(name: Name) -> bool:
    return (
        name.group in ("animals-nature", "food-drink")
        or name.subgroup in TRANSPORT
        or name.label in POPULAR
    )


def find_alpha_boxes(sprites: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the box of opaque pixels of each sprite, `[N, 4]`: left, top, right, bottom in [0,
    1]."""
    size = sprites.shape[1]
    boxes = np.zeros((len(sprites), 4), np.float32)
    for start in range(0, len(sprites), 256):
        alpha = sprites[start : start + 256, :, :, 3] > 32
        columns: NDArray[np.bool_] = np.any(alpha, axis=1)
        rows: NDArray[np.bool_] = np.any(alpha, axis=2)
        boxes[start : start + 256, 0] = columns.argmax(1) / size
        boxes[start : start + 256, 1] = rows.argmax(1) / size
        boxes[start : start + 256, 2] = 1 - columns[:, ::-1].argmax(1) / size
        boxes[start : start + 256, 3] = 1 - rows[:, ::-1].argmax(1) / size
    return boxes
