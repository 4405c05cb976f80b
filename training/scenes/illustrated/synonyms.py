"""Words that people type for things, beyond emojibase's labels."""

from __future__ import annotations

import re
from collections import Counter

from training.scenes.illustrated.art.names import Name

# Word -> labels that it may stand for.
COMMON: dict[str, tuple[str, ...]] = {
    "car": ("automobile", "oncoming automobile"),
    "van": ("minibus",),
    "truck": ("delivery truck", "articulated lorry"),
    "lorry": ("articulated lorry",),
    "pickup": ("pickup truck",),
    "suv": ("sport utility vehicle",),
    "jeep": ("sport utility vehicle",),
    "cab": ("taxi",),
    "race car": ("racing car",),
    "formula 1 car": ("racing car",),
    "fire truck": ("fire engine",),
    "motorbike": ("motorcycle",),
    "scooter": ("motor scooter", "kick scooter"),
    "bike": ("bicycle",),
    "plane": ("airplane",),
    "aeroplane": ("airplane",),
    "jet": ("airplane",),
    "boat": ("sailboat", "motor boat"),
    "yacht": ("sailboat",),
    "cruise ship": ("passenger ship",),
    "steam train": ("locomotive",),
    "ufo": ("flying saucer",),
    "spaceship": ("rocket", "flying saucer"),
    "tuk tuk": ("auto rickshaw",),
    "bee": ("honeybee",),
    "ladybug": ("lady beetle",),
    "ladybird": ("lady beetle",),
    "caterpillar": ("bug",),
    "sheep": ("ewe", "ram"),
    "lamb": ("ewe",),
    "bull": ("ox",),
    "hen": ("chicken",),
    "chick": ("baby chick", "front-facing baby chick"),
    "hippo": ("hippopotamus",),
    "rhino": ("rhinoceros",),
    "dinosaur": ("sauropod", "T-Rex"),
    "t rex": ("T-Rex",),
    "bunny": ("rabbit face", "rabbit"),
    "pony": ("horse",),
    "alligator": ("crocodile",),
    "tortoise": ("turtle",),
    "killer whale": ("orca",),
    "pufferfish": ("blowfish",),
    "sea shell": ("spiral shell",),
    "shell": ("spiral shell",),
    "crow": ("black bird",),
    "raven": ("black bird",),
    "pigeon": ("dove",),
    "tree": ("deciduous tree", "evergreen tree"),
    "pine tree": ("evergreen tree",),
    "fir tree": ("evergreen tree",),
    "oak tree": ("deciduous tree",),
    "palm": ("palm tree",),
    "flower": ("blossom", "hibiscus", "white flower"),
    "daisy": ("blossom",),
    "plant": ("potted plant", "seedling"),
    "flowers": ("bouquet",),
    "clover": ("four leaf clover", "shamrock"),
    "apple": ("red apple", "green apple"),
    "orange": ("tangerine",),
    "mandarin": ("tangerine",),
    "cherry": ("cherries",),
    "kiwi": ("kiwi fruit",),
    "blueberry": ("blueberries",),
    "aubergine": ("eggplant",),
    "corn": ("ear of corn",),
    "chili": ("hot pepper",),
    "chilli pepper": ("hot pepper",),
    "pepper": ("bell pepper",),
    "lettuce": ("leafy green",),
    "salad": ("green salad",),
    "nuts": ("peanuts",),
    "baguette": ("baguette bread",),
    "cheese": ("cheese wedge",),
    "steak": ("cut of meat",),
    "chicken leg": ("poultry leg",),
    "drumstick": ("poultry leg",),
    "burger": ("hamburger",),
    "cheeseburger": ("hamburger",),
    "fries": ("french fries",),
    "hotdog": ("hot dog",),
    "fried egg": ("cooking",),
    "paella": ("shallow pan of food",),
    "soup": ("pot of food",),
    "stew": ("pot of food",),
    "rice": ("cooked rice",),
    "ramen": ("steaming bowl",),
    "noodles": ("steaming bowl",),
    "pasta": ("spaghetti",),
    "curry": ("curry rice",),
    "onigiri": ("rice ball",),
    "donut": ("doughnut",),
    "ice cream cone": ("soft ice cream",),
    "cake": ("birthday cake", "shortcake"),
    "muffin": ("cupcake",),
    "chocolate": ("chocolate bar",),
    "honey": ("honey pot",),
    "pudding": ("custard",),
    "milk": ("glass of milk",),
    "coffee": ("hot beverage",),
    "cup of coffee": ("hot beverage",),
    "tea": ("teacup without handle", "hot beverage"),
    "beer": ("beer mug",),
    "wine": ("wine glass",),
    "red wine": ("wine glass",),
    "champagne": ("bottle with popping cork",),
    "cocktail": ("cocktail glass", "tropical drink"),
    "martini": ("cocktail glass",),
    "whisky": ("tumbler glass",),
    "soda": ("cup with straw",),
    "boba": ("bubble tea",),
    "juice box": ("beverage box",),
    "knife": ("kitchen knife",),
    "earth": (
        "globe showing Europe-Africa",
        "globe showing Americas",
        "globe showing Asia-Australia",
    ),
    "globe": ("globe showing Europe-Africa", "globe showing Americas"),
    "planet": ("ringed planet",),
    "saturn": ("ringed planet",),
    "moon": ("crescent moon", "full moon"),
    "mountains": ("mountain",),
    "island": ("desert island",),
    "cottage": ("house", "hut"),
    "home": ("house",),
    "skyscraper": ("office building",),
    "traffic light": ("horizontal traffic light", "vertical traffic light"),
    "lightning": ("high voltage", "cloud with lightning"),
    "rain": ("cloud with rain",),
    "snow": ("snowflake",),
    "flame": ("fire",),
    "water drop": ("droplet",),
    "wave": ("water wave",),
    "sea": ("water wave",),
    "pumpkin": ("jack-o-lantern",),
    "xmas tree": ("Christmas tree",),
    "gift": ("wrapped gift",),
    "present": ("wrapped gift",),
    "bow": ("ribbon",),
    "medal": ("sports medal", "military medal"),
    "cup": ("trophy", "teacup without handle"),
    "football": ("soccer ball", "american football"),
    "rugby ball": ("rugby football",),
    "tennis ball": ("tennis",),
    "frisbee": ("flying disc",),
    "dartboard": ("bullseye",),
    "game controller": ("video game",),
    "gamepad": ("video game",),
    "dice": ("game die",),
    "die": ("game die",),
    "teddy": ("teddy bear",),
    "disco ball": ("mirror ball",),
    "pawn": ("chess pawn",),
    "painting": ("framed picture",),
    "palette": ("artist palette",),
    "shirt": ("t-shirt",),
    "tie": ("necktie",),
    "trousers": ("jeans",),
    "pants": ("jeans",),
    "jacket": ("coat",),
    "swimsuit": ("one-piece swimsuit",),
    "bag": ("handbag",),
    "rucksack": ("backpack",),
    "shoe": ("running shoe",),
    "sneaker": ("running shoe",),
    "boot": ("hiking boot",),
    "high heels": ("high-heeled shoe",),
    "flip flop": ("thong sandal",),
    "hat": ("top hat",),
    "cap": ("billed cap",),
    "helmet": ("rescue worker’s helmet", "military helmet"),
    "diamond": ("gem stone",),
    "gem": ("gem stone",),
    "headphones": ("headphone",),
    "mic": ("microphone",),
    "piano": ("musical keyboard",),
    "drums": ("drum",),
    "phone": ("mobile phone",),
    "smartphone": ("mobile phone",),
    "cell phone": ("mobile phone",),
    "computer": ("laptop", "desktop computer"),
    "pc": ("desktop computer",),
    "mouse": ("mouse", "computer mouse"),
    "cd": ("optical disk",),
    "tv": ("television",),
    "magnifying glass": ("magnifying glass tilted left", "magnifying glass tilted right"),
    "lantern": ("red paper lantern",),
    "lamp": ("light bulb",),
    "book": ("closed book", "open book", "green book", "blue book"),
    "money": ("money bag", "dollar banknote"),
    "letter": ("envelope",),
    "email": ("e-mail",),
    "mailbox": ("closed mailbox with raised flag",),
    "parcel": ("package",),
    "box": ("package",),
    "pin": ("pushpin",),
    "ruler": ("straight ruler",),
    "trash can": ("wastebasket",),
    "bin": ("wastebasket",),
    "lock": ("locked",),
    "padlock": ("locked",),
    "hammer and wrench": ("hammer and wrench",),
    "sword": ("dagger",),
    "swords": ("crossed swords",),
    "saw": ("carpentry saw",),
    "cog": ("gear",),
    "scales": ("balance scale",),
    "chain": ("chains",),
    "plaster": ("adhesive bandage",),
    "sofa": ("couch and lamp",),
    "couch": ("couch and lamp",),
    "bath": ("bathtub",),
    "toilet paper": ("roll of paper",),
    "tombstone": ("headstone",),
    "gravestone": ("headstone",),
    "heart": ("red heart",),
    "love heart": ("red heart",),
    "poop": ("pile of poo",),
    "smiley": ("grinning face", "smiling face with smiling eyes"),
    "happy face": ("grinning face", "smiling face with smiling eyes"),
    "sad face": ("frowning face", "crying face"),
    "explosion": ("collision",),
    "santa": ("Santa Claus",),
    "father christmas": ("Santa Claus",),
    "chef": ("cook",),
    "doctor": ("health worker",),
    "nurse": ("health worker",),
    "fireman": ("firefighter",),
    "policeman": ("police officer",),
    "wizard": ("mage",),
    "clock": ("alarm clock", "mantelpiece clock"),
    "egg timer": ("hourglass done",),
    "hourglass": ("hourglass done",),
    "suitcase": ("luggage",),
    "bell": ("bell", "bellhop bell"),
    "candies": ("candy",),
    "sweets": ("candy",),
    "sandcastle": ("castle",),
    "brush": ("paintbrush",),
    "leaf": ("maple leaf", "leaf fluttering in wind"),
    "fish": ("fish", "tropical fish"),
    "toadstool": ("mushroom",),
    "parasol": ("umbrella on ground",),
    "gun": ("water pistol",),
}

# Tags that name a quality or a class of many things.
_VAGUE = re.compile(
    r"^(nooo|ok|good|bad|fun|cool|love|hot|cold|happy|sad|cute"
    r"|sign|symbol|food|animal|person|thing|\d+)$"
)


def words_for(names: list[Name]) -> list[tuple[str, ...]]:
    """Return for each name the English words that people type for it, the plainest first."""
    common: dict[str, list[str]] = {}
    for word, targets in COMMON.items():
        for label in targets:
            common.setdefault(label, []).append(word)
    return [_words(name, common.get(name.label, [])) for name in names]


def main_things(names: list[Name]) -> dict[str, int]:
    """Map each common word of several things to the one that it means first: "tree"."""
    indices = {name.label: index for index, name in enumerate(names)}
    return {
        word: indices[labels[0]]
        for word, labels in COMMON.items()
        if len(labels) > 1 and labels[0] in indices
    }


def tags_for(names: list[Name]) -> list[tuple[str, ...]]:
    """Return for each name the tags that count as loose synonyms: those that belong to at most two
    names."""
    uses = Counter(tag for name in names for tag in set(name.tags))
    labels = {name.label.lower() for name in names}
    used = labels | COMMON.keys()
    return [
        tuple(
            tag
            for tag in name.tags
            if uses[tag] <= 2 and tag.lower() not in used and not _VAGUE.match(tag) and len(tag) > 2
        )
        for name in names
    ]


def _words(name: Name, common: list[str]) -> tuple[str, ...]:
    label = name.label.replace("’", "'")
    words = [label]
    if name.label.endswith(" face") and name.group == "animals-nature":
        words.insert(0, label.removesuffix(" face"))
    return tuple(dict.fromkeys((*words, *common)))


def plural(noun: str) -> str:
    """Return the English plural of a noun phrase: "slice of pizza" -> "slices of pizza"."""
    head, separator, rest = noun.partition(" of ")
    if separator:
        return f"{plural(head)} of {rest}"
    head, separator, rest = noun.partition(" with ")
    if separator:
        return f"{plural(head)} with {rest}"
    irregular = {
        "mouse": "mice",
        "goose": "geese",
        "foot": "feet",
        "tooth": "teeth",
        "leaf": "leaves",
        "knife": "knives",
        "wolf": "wolves",
        "elf": "elves",
    }
    first, _, last = noun.rpartition(" ")
    if last.lower() in irregular:
        last = irregular[last.lower()]
    elif last.lower() in (
        "sheep",
        "fish",
        "deer",
        "bison",
        "moose",
        "shrimp",
        "squid",
        "spaghetti",
        "broccoli",
    ) or (
        last.endswith("s")
        and not last.endswith("ss")
        and last.lower() not in ("bus", "octopus", "cactus", "hippopotamus", "rhinoceros")
    ):
        pass
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.lower() in ("tomato", "potato", "mango", "buffalo", "volcano"):
        last += "es"
    else:
        last += "s"
    return f"{first} {last}".strip()


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an", or as it is when it is plural or has no singular."""
    last = noun.rpartition(" ")[2].lower()
    if (last.endswith("s") and not last.endswith(("ss", "us", "is"))) or last in (
        "bread",
        "broccoli",
        "milk",
        "fire",
        "corn",
        "rice",
        "sushi",
        "spaghetti",
    ):
        return noun
    is_vowel = noun[0].lower() in "aeiou"
    is_spoken_as_consonant = noun.lower().startswith(("uni", "ukulele", "ufo", "eu", "one"))
    return f"{'an' if is_vowel and not is_spoken_as_consonant else 'a'} {noun}"
