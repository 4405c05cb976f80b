"""`python -m benchmarks.baselines.litserve FOLDER PORT`: diffusers' UnCLIPPipeline behind LitServe.

As in LitServe's documentation, requests that arrive within MAX_WAIT_S are one batch, which runs to
its end before the next. The pipeline has one number of steps for all prompts of a call, so a batch
takes as many calls as it has different numbers.
"""

from __future__ import annotations

import base64
import io
import sys
from collections import defaultdict
from typing import Any

import litserve
import torch
from diffusers import UnCLIPPipeline

from benchmarks.baselines.rq_workers import MAX_ROWS, MAX_WAIT_S
from benchmarks.models.peers import DIFFUSERS_STEP_NAMES

Request = dict[str, Any]


class ImageAPI(litserve.LitAPI):  # type: ignore[misc]  # without annotations
    """`{"prompt", "seed", "steps": [prior, decoder, upsampler]}` returns `{"png": base64}`."""

    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=MAX_ROWS, batch_timeout=MAX_WAIT_S)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the pipeline."""
        dtype = torch.float32 if device.startswith("cpu") else torch.float16
        self.pipeline = UnCLIPPipeline.from_pretrained(self.folder, torch_dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def decode_request(self, request: Request) -> Request:
        """Return the request unchanged."""
        return request

    def batch(self, inputs: list[Request]) -> list[Request]:
        """Return the requests unchanged: there are no tensors to stack."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return the images unchanged."""
        return output

    def predict(self, batch: list[Request]) -> list[Any]:
        """Generate the images, those with the same numbers of steps together."""
        by_steps: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, request in enumerate(batch):
            by_steps[tuple(request["steps"])].append(index)
        images: dict[int, Any] = {}
        for steps, indices in by_steps.items():
            seeds = [batch[index]["seed"] for index in indices]
            output = self.pipeline(
                [batch[index]["prompt"] for index in indices],
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                prior_guidance_scale=4.0,
                decoder_guidance_scale=8.0,
                **dict(zip(DIFFUSERS_STEP_NAMES, steps, strict=True)),
            )
            images |= dict(zip(indices, output.images, strict=True))
        return [images[index] for index in range(len(batch))]

    def encode_response(self, image: Any) -> dict[str, str]:
        """Return the image as a PNG in base64."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"png": base64.b64encode(buffer.getvalue()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(
        ImageAPI(sys.argv[1]),
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        timeout=600,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False
    )
