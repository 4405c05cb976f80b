"""`python -m benchmarks.baselines.litserve FOLDER PORT`: diffusers' UnCLIPPipeline behind LitServe, as its documentation has it: requests that
come within so many milliseconds are one batch, which runs to its end before the next.

The pipeline has one number of steps for all captions of a call, so a batch is drawn in as many calls as it has different ones.
"""

import base64
import io
import sys
from collections import defaultdict
from typing import Any

import litserve
import torch
from diffusers import UnCLIPPipeline

from benchmarks.baselines.rq_workers import MAX_ROWS, MAX_WAIT_S
from benchmarks.models.compare_diffusers import THEIRS

Asked = dict[str, Any]


class Drawing(litserve.LitAPI):  # type: ignore[misc]  # without annotations
    """`{"prompt", "seed", "steps": [prior, decoder, upsampler]}` gives `{"png": base64}`."""

    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=MAX_ROWS, batch_timeout=MAX_WAIT_S)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the pipeline."""
        dtype = torch.float32 if device.startswith("cpu") else torch.float16
        self.pipeline = UnCLIPPipeline.from_pretrained(self.folder, torch_dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def decode_request(self, request: Asked) -> Asked:
        """As it came."""
        return request

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        """No tensors to pipeline."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Nor to take apart."""
        return output

    def predict(self, batch: list[Asked]) -> list[Any]:
        """Draw, those with the same steps together."""
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, asked in enumerate(batch):
            alike[tuple(asked["steps"])].append(place)
        images: dict[int, Any] = {}
        for steps, places in alike.items():
            drawn = self.pipeline(
                [batch[place]["prompt"] for place in places],
                generator=[torch.Generator().manual_seed(batch[place]["seed"]) for place in places],
                prior_guidance_scale=4.0,
                decoder_guidance_scale=8.0,
                **dict(zip(THEIRS, steps, strict=True)),
            )
            images |= dict(zip(places, drawn.images, strict=True))
        return [images[place] for place in range(len(batch))]

    def encode_response(self, image: Any) -> dict[str, str]:
        """As a PNG."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"png": base64.b64encode(buffer.getvalue()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Drawing(sys.argv[1]),
        accelerator="cpu" if not torch.cuda.is_available() else "cuda",
        timeout=600,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False
    )
