"""Memory: half precision, offloading, and loading without a second copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import UnCLIP
from models.acceleration.offload import WeightOffloader
from models.checkpoints.checkpoint import build, load_network, save
from models.stages.diffusion import DiffusionState

PROMPTS = ["a red cube on snow", "a blue sphere on grass"]


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR in dB of images in [-1, 1]."""
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 30.0), (torch.float16, 45.0)])
def test_half_precision_changes_images_little(dtype: torch.dtype, least: float) -> None:
    """Covers the embedded checkpoint up to 256²."""
    steps = {
        "decoder_num_inference_steps": 6,
        "prior_num_inference_steps": 4,
        "upsampler_num_inference_steps": 2,
    }
    full, half = (
        UnCLIP.load(dtype=kind).generate(PROMPTS, size=256, **steps)
        for kind in (torch.float32, dtype)
    )
    assert half.dtype == torch.float32
    assert psnr(full, half) > least


def test_values_between_networks_stay_in_fp32(tiny_checkpoint: Path) -> None:
    """Buffers stay in fp32 too; only weights are converted."""
    pipeline = UnCLIP.load(tiny_checkpoint, dtype=torch.bfloat16)
    assert {
        p.dtype
        for network in pipeline.checkpoint.networks.values()
        for p in network.parameters()
        if p.dim()
    } == {torch.bfloat16}
    buffers = [b for network in pipeline.checkpoint.networks.values() for b in network.buffers()]
    assert {b.dtype for b in buffers if b.is_floating_point()} == {torch.float32}
    for prior in ("diffusion", "autoregressive"):
        row = pipeline.row("a red cube", 0, pipeline.resolve(size=256, prior=prior))
        while row.stage is not None:
            pipeline.step([row])
            if isinstance(row.state, DiffusionState):
                assert row.state.x_t.dtype == torch.float32
        assert row.conditioning is not None
        assert row.conditioning.z_i is not None
        assert row.conditioning.z_i.dtype == row.conditioning.text.z_t.dtype == torch.float32
        assert row.image is not None
        assert row.image.isfinite().all()


@pytest.mark.parametrize("prior", ["diffusion", "autoregressive"])
def test_offloading_changes_no_bit(tiny_checkpoint: Path, prior: str) -> None:
    """With room for one network, each is copied once per stage."""
    whole = UnCLIP.load(tiny_checkpoint)
    offloading = UnCLIP.load(tiny_checkpoint, offload_budget_bytes=0)
    offloader = offloading.offloader
    assert offloader is not None
    assert offloader.on_device == ()
    on_device: list[tuple[str, ...]] = []
    resolved = offloading.resolve(size=256, prior=prior)
    rows = [offloading.row(prompt, 0, resolved) for prompt in PROMPTS]
    offloading.run(rows, lambda _: on_device.append(offloader.on_device))
    names = {"diffusion": "prior", "autoregressive": "ar_prior"}
    assert list(dict.fromkeys(on_device)) == [
        ("clip",),
        (names[prior],),
        ("decoder",),
        ("upsampler_256",),
    ]
    assert offloader.num_transfers == 4
    images = torch.stack([row.image for row in rows if row.image is not None])
    assert torch.equal(images, whole.generate(PROMPTS, seeds=[0, 0], size=256, prior=prior))


def test_the_least_recently_used_network_is_offloaded(tiny_checkpoint: Path) -> None:
    """With enough room each network is copied once."""
    networks = UnCLIP.load(tiny_checkpoint).checkpoint.networks
    address = networks["prior"].query.data_ptr()  # type: ignore[union-attr, operator]
    offloader = WeightOffloader(networks, torch.device("cpu"), 10**12)
    for _ in range(2):
        for name in ("clip", "prior", "decoder"):
            offloader.ensure_on_device(name)
    assert offloader.num_transfers == 3
    assert offloader.on_device == ("clip", "prior", "decoder")
    assert networks["prior"].query.data_ptr() != address  # type: ignore[union-attr, operator]
    offloader.budget = offloader.size("decoder") + offloader.size("prior")
    offloader.ensure_on_device("clip")
    offloader.ensure_on_device("prior")
    offloader.ensure_on_device("upsampler_256")
    assert offloader.num_transfers == 4
    assert set(offloader.on_device) <= {"clip", "prior", "upsampler_256"}
    offloader.budget = 0
    offloader.ensure_on_device("decoder")
    assert offloader.on_device == ("decoder",)
    assert networks["prior"].query.data_ptr() == address


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks are reset and read as Linux does it"
)
def test_loading_needs_no_second_copy(tmp_path: Path) -> None:
    """A network of 200 MB in fp32 raises the peak by little more than its size."""
    config = {"embed_dim": 64, "text_width": 64, "width": 1024, "layers": 4, "heads": 16}
    save(tmp_path, {}, {"prior": build("prior", config)}, "")
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    network = load_network(tmp_path, "prior", config)
    size = sum(parameter.nbytes for parameter in network.parameters())
    assert size > 200e6
    assert peak_bytes() - before < 1.2 * size


def peak_bytes() -> int:
    """Return the peak resident memory in bytes of this process since the last reset."""
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
