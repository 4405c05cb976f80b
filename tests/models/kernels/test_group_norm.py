"""The fused kernels, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Channels fill no tile; `_works` compares the kernels with torch in fp16.
PROGRAM = """
import torch
from torch import nn
from models.kernels import group_norm
assert group_norm._works(torch.device("cpu"))
torch.manual_seed(0)
x = torch.randn(2, 72, 9, 9).add(3).contiguous(memory_format=torch.channels_last)
module = nn.GroupNorm(6, 72)
nn.init.normal_(module.weight)
with torch.inference_mode():
    normed = group_norm.norm(x, module, silu=False)
    assert normed.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(normed, module(x), atol=1e-4)
    added = torch.randn(2, 72)
    expected = nn.functional.silu(module(x + added[..., None, None]))
    assert torch.allclose(group_norm.norm(x, module, added), expected, atol=1e-4)
"""


def test_fused_kernels_agree_with_torch() -> None:
    """Triton's interpreter runs the kernels in a separate process."""
    pytest.importorskip("triton")
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
