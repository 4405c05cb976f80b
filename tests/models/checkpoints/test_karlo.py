"""Our networks compute with Karlo's folder what diffusers does, and use every tensor in it.

The recordings come from karlo_reference.py, which needs diffusers; these tests do not.
"""

from __future__ import annotations

import itertools
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import CheckpointError, UnCLIP
from models.checkpoints import checkpoint, karlo, karlo_names
from models.networks.clip import TextEncoding
from models.stages.diffusion import x_t_of

REFERENCE: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("karlo_reference.py")))
FIXTURES: Path = REFERENCE["FOLDER"]
NAMES = {"prior": "prior", "decoder": "decoder", "upsampler": "super_res"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("karlo")
    REFERENCE["write_folder"](folder, image_encoder=True)
    return folder


@pytest.fixture
def fresh_folder(tmp_path: Path) -> Path:
    """A folder without the image encoder, as the text-to-image repository is."""
    REFERENCE["write_folder"](tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> UnCLIP:
    return UnCLIP.load(folder)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(FIXTURES / "tiny.safetensors")


@pytest.fixture(scope="module")
def text(recorded: dict[str, Tensor]) -> TextEncoding:
    return TextEncoding(recorded["z_t"], recorded["hidden"], recorded["mask"])


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative error in the Euclidean norm."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def select_rows(text: TextEncoding, rows: list[int]) -> TextEncoding:
    return TextEncoding(text.z_t[rows], text.hidden[rows], text.mask[rows])


@torch.inference_mode()
def test_prompts_are_truncated_padded_and_encoded_equally(
    pipeline: UnCLIP, recorded: dict[str, Tensor]
) -> None:
    """z_t has CLIP's scale, and hidden states are those after the last norm."""
    tokens, truncated = pipeline.clip.tokenize(REFERENCE["PROMPTS"])
    assert torch.equal(tokens, recorded["tokens"])
    assert truncated[:2] == [None, None]
    assert str(truncated[2]).endswith("late")
    encoding = pipeline.clip.encode_text(tokens)
    assert torch.equal(encoding.mask, recorded["mask"])
    assert relative_error(encoding.z_t, recorded["z_t"]) < 1e-5
    assert (
        relative_error(encoding.hidden[encoding.mask], recorded["hidden"][recorded["mask"]]) < 1e-5
    )


@torch.inference_mode()
def test_images_are_encoded_equally(pipeline: UnCLIP, recorded: dict[str, Tensor]) -> None:
    """The image encoder is that of the image-variations repository."""
    assert relative_error(pipeline.clip.encode_image(recorded["images"]), recorded["z_i"]) < 1e-5


@torch.inference_mode()
def test_the_priors_agree(
    pipeline: UnCLIP, recorded: dict[str, Tensor], text: TextEncoding
) -> None:
    """Covers prompts of three lengths at three timesteps."""
    prediction = pipeline.prior(recorded["prior_x_t"], recorded["prior_t"], text)
    assert relative_error(prediction, recorded["prior"]) < 1e-5
    assert relative_error(pipeline.prior.denormalize(prediction), recorded["prior_z_i"]) < 1e-5


@torch.inference_mode()
def test_the_decoders_agree(
    pipeline: UnCLIP, recorded: dict[str, Tensor], text: TextEncoding
) -> None:
    """Covers both halves of a guided step, and their conditioning."""
    inputs: list[Tensor] = []
    hook = pipeline.decoder.unet.register_forward_pre_hook(lambda _, args: inputs.extend(args))
    z_i = recorded["decoder_z_i"].repeat(2, 1)
    x_t = recorded["decoder_x_t"].repeat(2, 1, 1, 1)
    prediction = pipeline.decoder(
        x_t, torch.tensor([500, 500]), z_i, select_rows(text, [1, 0]), torch.tensor([True, False])
    )
    hook.remove()
    _, _, emb, context, _ = inputs
    assert relative_error(context, recorded["decoder_context"]) < 1e-5
    assert relative_error(emb, recorded["decoder_emb"]) < 1e-5
    assert prediction.shape[1] == 6
    assert relative_error(prediction, recorded["decoder"]) < 1e-5


@torch.inference_mode()
def test_each_upsampler_step_uses_its_network(
    pipeline: UnCLIP, recorded: dict[str, Tensor]
) -> None:
    """super_res_last runs at t = 0 and super_res_first before, also in one batch."""
    x_t = recorded["super_res_x_t"].repeat(2, 1, 1, 1)
    low = recorded["super_res_low"].repeat(2, 1, 1, 1)
    first, last = pipeline.upsamplers[256](x_t, torch.tensor([333, 0]), low).split(1)
    assert relative_error(first, recorded["super_res_first"]) < 1e-5
    assert relative_error(last, recorded["super_res_last"]) < 1e-5


@pytest.fixture
def exact_pipeline(folder: Path) -> Iterator[UnCLIP]:
    """A pipeline in float64, see the reference's `whole_run`."""
    pipeline = UnCLIP.load(folder)
    for network in pipeline.checkpoint.networks.values():
        network.double()
    torch.set_default_dtype(torch.float64)
    yield pipeline
    torch.set_default_dtype(torch.float32)


def test_whole_runs_agree_step_by_step(exact_pipeline: UnCLIP, recorded: dict[str, Tensor]) -> None:
    """Covers guidance, learned variance, clamping and the transfer between stages."""
    pipeline = exact_pipeline
    steps = {f"{part}_num_inference_steps": REFERENCE["STEPS"][key] for part, key in NAMES.items()}
    scales = {f"{part}_guidance_scale": scale for part, scale in REFERENCE["GUIDANCE"].items()}
    row = pipeline.row(
        REFERENCE["PROMPTS"][0], REFERENCE["SEED"], pipeline.resolve(**steps, **scales)
    )
    steps_x_t: dict[str, list[Tensor]] = {}
    while row.stage is not None:
        stage = row.stage
        pipeline.step([row])
        if stage == row.stage:
            steps_x_t.setdefault(stage, []).append(x_t_of(row))
        elif stage == "prior":
            assert row.conditioning.z_i is not None
            assert (
                relative_error(
                    row.conditioning.z_i, pipeline.prior.denormalize(recorded["run_prior"][-1])
                )
                < 1e-5
            )
        elif stage == "decoder":
            assert row.conditioning.low_res is not None
            assert (
                relative_error(row.conditioning.low_res[:, ::4, ::4], recorded["run_decoder"][-1])
                < 1e-5
            )
    assert relative_error(torch.cat(steps_x_t["prior"]), recorded["run_prior"][:-1]) < 1e-5
    assert (
        relative_error(
            torch.stack(steps_x_t["decoder"])[..., ::4, ::4], recorded["run_decoder"][:-1]
        )
        < 1e-5
    )
    assert (
        relative_error(
            torch.stack(steps_x_t["upsampler_256"])[..., ::8, ::8], recorded["run_super_res"][:-1]
        )
        < 1e-5
    )
    assert row.image is not None
    assert relative_error(row.image[:, ::8, ::8], recorded["run_super_res"][-1]) < 1e-5


def test_every_sampler_runs(pipeline: UnCLIP) -> None:
    """Only ddpm uses the learned variance."""
    two_steps = {f"{part}_num_inference_steps": 2 for part in NAMES}
    for sampler in ("ddim", "dpm++"):
        assert (
            pipeline.generate(["a red cube"], size=64, sampler=sampler, **two_steps)
            .isfinite()
            .all()
        )


def test_it_can_be_saved_in_our_layout(folder: Path, tmp_path: Path) -> None:
    """It loads equal up to fp16."""
    first = karlo.load(folder)
    checkpoint.save(tmp_path, first.config, first.networks, "card")
    second = checkpoint.load(tmp_path)
    assert second.config["decoder"] == json.loads(json.dumps(first.config["decoder"]))
    for part, network in first.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value.half().float(), second.networks[part].state_dict()[key]), (
                part,
                key,
            )


def test_encoding_images_needs_an_image_encoder(fresh_folder: Path) -> None:
    """The text-to-image repository has none."""
    pipeline = UnCLIP.load(fresh_folder)
    assert not any("visual" in key for key in pipeline.clip.state_dict())
    with pytest.raises(ValueError, match="no image encoder"):
        pipeline.clip.encode_image(torch.zeros(1, 3, 32, 32))


def test_old_folders_load(fresh_folder: Path, pipeline: UnCLIP) -> None:
    """They have .bin files, and position_ids that are not used."""
    weights = fresh_folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    torch.save(tensors, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    clip = karlo.load(fresh_folder).networks["clip"]
    assert torch.equal(
        clip.state_dict()["network.ln_final.weight"],
        pipeline.clip.state_dict()["network.ln_final.weight"],
    )


def test_every_wrong_tensor_is_named(fresh_folder: Path) -> None:
    """One message lists missing, unexpected and misshapen tensors."""
    path = fresh_folder / "decoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_out.bias"]
    tensors |= {"extra": torch.zeros(2), "conv_in.bias": torch.zeros(3)}
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        karlo.load(fresh_folder)
    message = str(caught.value)
    assert "missing decoder.conv_out.bias" in message
    assert "unexpected decoder.extra [2]" in message
    assert "decoder.conv_in.bias is [3]; our unet.conv_in.bias is [8]" in message


class Payload:
    """An object in a pickle."""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "prior" / "config.json").unlink(), "config.json is missing"),
        (
            lambda f: (f / "prior" / "diffusion_pytorch_model.safetensors").unlink(),
            "has no weights",
        ),
        (
            lambda f: (f / "prior" / "diffusion_pytorch_model.safetensors").write_bytes(
                b"nonsense"
            ),
            "truncated",
        ),
        (
            lambda f: change_config(f / "decoder" / "config.json", act_fn="gelu"),
            "decoder has act_fn 'gelu', only 'silu'",
        ),
        (
            lambda f: change_config(
                f / "decoder_scheduler" / "scheduler_config.json", clip_sample=False
            ),
            "decoder_scheduler has clip_sample False",
        ),
        (
            lambda f: change_config(f / "super_res_last" / "config.json", layers_per_block=1),
            "super_res_first and super_res_last differ",
        ),
        (lambda f: (f / "prior" / "config.json").write_text("{}"), "lacks the field"),
        (lambda f: write_pickle(f / "prior"), "contains other objects than tensors"),
    ],
)
def test_a_broken_folder_is_an_error(fresh_folder: Path, spoil: Any, message: str) -> None:
    """The message names the file and the fault."""
    spoil(fresh_folder)
    with pytest.raises(CheckpointError, match=message):
        karlo.load(fresh_folder)


def change_config(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def write_pickle(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"proj_in.weight": Payload()}, folder / "diffusion_pytorch_model.bin")


def expand_pattern(pattern: str) -> list[str]:
    """Expand `a.{0-2,5}.b` to a.0.b, a.1.b, a.2.b and a.5.b."""
    choices = []
    for piece in re.split(r"(\{.*?\})", pattern):
        if piece.startswith("{"):
            spans = [
                tuple(map(int, f"{span}-{span}".split("-")[:2])) for span in piece[1:-1].split(",")
            ]
            choices.append([str(n) for low, high in spans for n in range(low, high + 1)])
        else:
            choices.append([piece])
    return ["".join(pieces) for pieces in itertools.product(*choices)]


class EmptyFile:
    """A file of weights with shapes and no memory."""

    def __init__(self, shapes: dict[str, list[int]]) -> None:
        self.shapes = {key: torch.Size(shape) for key, shape in shapes.items()}

    def read(self, key: str) -> Tensor:
        return torch.empty(self.shapes[key], device="meta")


def test_the_released_checkpoint_fits_tensor_by_tensor(tmp_path: Path) -> None:
    """Covers every key and shape of Karlo-v1-alpha and its image encoder."""
    full = json.loads((FIXTURES / "full.json").read_text())
    for name, config in full["configs"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(config))
    shapes = full["shapes"] | {"super_res_last": full["shapes"]["super_res_first"]}
    config = karlo.read_config(tmp_path)
    count = 0
    total = 0
    for name, parts in karlo.PARTS.items():
        with torch.device("meta"):
            network = checkpoint.build(name, config[name])
        files = {
            part: EmptyFile(
                {
                    key: shape
                    for pattern, shape in shapes[part].items()
                    for key in expand_pattern(pattern)
                }
            )
            for part in parts
        }
        names = karlo_names.names_of(name, network)
        read = karlo.reader(network, names, files, tmp_path)  # type: ignore[arg-type]
        checkpoint.fill(network, read, "meta")
        count += sum(len(file.shapes) for file in files.values())
        total += sum(shape.numel() for file in files.values() for shape in file.shapes.values())
    assert count == 2470
    assert total == 3_422_157_516 + 303_966_208
