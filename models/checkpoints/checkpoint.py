"""A checkpoint is a folder: config.json, one .safetensors file a network, and CARD.md.

Weights are stored in fp16 and loaded strictly: a tensor that is missing, unexpected or of another
shape is an error that names it. Tensors go from the file to their device one at a time, so that no
second copy of a network is in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models.checkpoints.tensor_files import CheckpointError, TensorFile, raise_for_faults
from models.networks.clip import CLIP
from models.networks.decoder import Decoder, DecoderConfig
from models.networks.priors.autoregressive import AutoregressivePrior, AutoregressivePriorConfig
from models.networks.priors.diffusion import DiffusionPrior, DiffusionPriorConfig
from models.networks.priors.pca import PCA, PCAConfig
from models.networks.two_tower_clip import TwoTowerCLIP
from models.networks.upsampler import Upsampler, UpsamplerConfig
from models.vocabulary import Vocabulary, load_vocabulary

FORMAT = 1
DEFAULT_FOLDER = Path(__file__).parents[1] / "default"
REQUIRED = ("clip", "prior", "decoder")
UPSAMPLERS = {256: "upsampler_256", 1024: "upsampler_1024"}
BASE_SIZE = 64  # px, of the decoder's images
# The vocabulary of a two-tower CLIP's text encoder.
WORDPIECES = "wordpieces.json"
# Suffixes of the files that `digest` covers.
DIGESTED = (".json", ".safetensors", ".bin")
# How to build each network from its part of config.json. A new network is an entry here.
BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "clip": lambda config: TwoTowerCLIP(config) if "text_tower" in config else CLIP(config),
    "prior": lambda config: DiffusionPrior(DiffusionPriorConfig(**config)),
    "decoder": lambda config: Decoder(DecoderConfig(**config)),
    "pca": lambda config: PCA(PCAConfig(**config)),
    "ar_prior": lambda config: AutoregressivePrior(AutoregressivePriorConfig(**config)),
    "upsampler_256": lambda config: Upsampler(UpsamplerConfig(**config)),
    "upsampler_1024": lambda config: Upsampler(UpsamplerConfig(**config)),
}
PARTS = tuple(BUILDERS)


@dataclass
class Checkpoint:
    """The networks of a pipeline with their configs."""

    name: str
    config: dict[str, Any]
    networks: dict[str, nn.Module] = field(default_factory=dict)
    digest: str = ""  # of the files that it was loaded from
    vocabulary: Vocabulary | None = None  # of a checkpoint that lists what it draws

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters that a request leaves open."""
        values: dict[str, Any] = self.config["defaults"]
        return values


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """Build a network by its name in config.json, with new weights.

    A two-tower CLIP's config also needs its "vocabulary", which `load_network` reads.
    Raises CheckpointError for an unknown name."""
    if name not in BUILDERS:
        raise CheckpointError(
            f"config.json names an unknown network {name!r}: use one of {', '.join(BUILDERS)}"
        )
    return BUILDERS[name](config)


def build_empty(name: str, config: dict[str, Any]) -> nn.Module:
    """Build a network as `build`, with parameters that have shapes and no memory, for `fill`.

    Buffers are real, because some are constants that no file has."""
    hook = register_module_parameter_registration_hook(_without_memory)  # type: ignore[arg-type]
    try:
        return build(name, config)
    finally:
        hook.remove()


def _without_memory(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.to("meta"), requires_grad=False)


def load(
    folder: Path | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Load a checkpoint folder of our layout onto `device`, ready for inference.

    None is the embedded default; `dtype` is as in `fill`. Raises CheckpointError for a folder that
    does not fit."""
    folder = DEFAULT_FOLDER if folder is None else Path(folder)
    config = read_config(folder)
    networks = {
        part: load_network(folder, part, config[part], device, dtype)
        for part in PARTS
        if part in config
    }
    try:
        vocabulary = load_vocabulary(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(config["name"], config, networks, vocabulary=vocabulary)


def load_network(
    folder: Path,
    part: str,
    config: dict[str, Any],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Load one network of a checkpoint folder; raises CheckpointError if it does not fit."""
    path = folder / f"{part}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path} is missing: config.json names this network")
    if "text_tower" in config:
        config = config | {"vocabulary": read_wordpieces(folder)}
    network = build_empty(part, config)
    file = TensorFile(path)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    faults = [f"missing {key} {list(shapes[key])}" for key in shapes.keys() - file.shapes.keys()]
    faults += [
        f"unexpected {key} {list(file.shapes[key])}" for key in file.shapes.keys() - shapes.keys()
    ]
    faults += [
        f"{key} is {list(file.shapes[key])}, the network has {list(shapes[key])}"
        for key in shapes.keys() & file.shapes.keys()
        if file.shapes[key] != shapes[key]
    ]
    raise_for_faults(path, faults)
    return fill(network, file.read, device, dtype)


def fill(
    network: nn.Module,
    read: Callable[[str], Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> nn.Module:
    """Fill a network from `build_empty` with tensors by name, ready for inference on `device`.

    Parameters get `dtype`, or the stored dtype if it is None. Buffers and CLIP's temperature stay
    in fp32: they are a few statistics and constants that scale z_i and probabilities. Norms need no
    exception, because torch sums their statistics in fp32 in every dtype."""
    parameters = {name for name, parameter in network.named_parameters() if parameter.dim()}
    values = {}
    for key, current in network.state_dict().items():
        value = read(key)
        kind = current.dtype if key not in parameters else dtype or value.dtype
        layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
        # Always a copy: a tensor in the mapped file changes, or ends the process, with the file.
        values[key] = value.to(device, kind, copy=True, memory_format=layout)
    network.load_state_dict(values, assign=True)
    return network.to(device).eval().requires_grad_(False)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint folder's config.json; raises CheckpointError for an invalid one."""
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder} is not a checkpoint folder: it has no config.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {config.get('format')!r}: this version reads format {FORMAT}"
        )
    missing = [key for key in ("name", "defaults", *REQUIRED) if key not in config]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    predicted, available = (
        config.get(part, {}).get("components", 0) for part in ("ar_prior", "pca")
    )
    if predicted > available:
        raise CheckpointError(
            f"{path} has an ar_prior of {predicted} principal components and a pca of {available}: "
            "the pca needs at least as many"
        )
    return config


def read_wordpieces(folder: Path) -> list[str]:
    """Read the pieces of a two-tower CLIP's tokenizer.

    Raises CheckpointError for a file that is missing or is no list of strings."""
    path = folder / WORDPIECES
    try:
        pieces: list[str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: the text encoder needs its vocabulary"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise CheckpointError(f"{path} is not a list of strings")
    return pieces


def digest(*places: Path | str) -> str:
    """Return the SHA-256, in hex, of checkpoint folders and files.

    It covers configs and weights, and not the card. Equivalent shell command in a folder:
    `sha256sum *.json *.safetensors | LC_ALL=C sort -k2 | sha256sum`."""
    lines = ""
    for place in map(Path, places):
        files = [place]
        if not place.is_file():
            files = sorted(p for p in place.rglob("*") if p.suffix in DIGESTED and p.is_file())
        for path in files:
            name = path.name if path == place else path.relative_to(place).as_posix()
            with path.open("rb") as file:
                lines += f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def half_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors as they are stored: in fp16 if they are floating."""
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }


def save(
    folder: Path, config: dict[str, Any], networks: Mapping[str, nn.Module], card: str
) -> None:
    """Write a checkpoint folder: floating tensors in fp16, config.json with the format, CARD.md."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, network in networks.items():
        path = folder / f"{part}.safetensors"
        save_file(half_state_dict(network), path)
        # safetensors restricts the file to its owner, and a worker in a container is another user.
        path.chmod(0o644)
    save_texts(folder, config, card)


def save_texts(folder: Path, config: dict[str, Any], card: str) -> None:
    """Write config.json, with the format added, and CARD.md into a checkpoint folder."""
    (folder / "config.json").write_text(json.dumps({"format": FORMAT, **config}, indent=2) + "\n")
    (folder / "CARD.md").write_text(card)
