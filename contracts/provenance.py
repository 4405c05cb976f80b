"""The provenance of an image, in the text chunk `unclip` of its PNG."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

TEXT_KEY = "unclip"


class Provenance(BaseModel):
    """Everything needed to generate one image again, apart from weights and input images.

    The fields of the request, such as prompt, are extra fields.
    """

    model_config = ConfigDict(extra="allow")

    operation: str
    seed: int = Field(
        description="Seed of this image. If the job generated `n` images, its own is seed - index."
    )
    index: int = Field(
        description="Index among the images that the job generated, dropped ones included."
    )
    parameters: dict[str, Any] = Field(description="Every parameter, resolved.")
    inputs: dict[str, str] = Field(
        description=(
            "SHA-256 of each normalized input image by name: of its mode and width, as in "
            "'RGB 256' and a line feed, then of its pixels."
        )
    )
    prior_candidate: int | None = Field(
        None,
        description=(
            "Index of the z_i that the diffusion prior chose of prior_num_candidates; null if it "
            "sampled none for this image alone."
        ),
    )
    checkpoint: str = Field(description="Name of the checkpoint.")
    checkpoint_digest: str = Field(
        description=(
            "SHA-256 of the lines that sha256sum prints for its .json and weight files, by path."
        )
    )
    version: str = Field(description="Version of this software.")
    torch: str = Field(description="Version of torch.")
    device: str = Field(description="cpu, or the name of the GPU.")
    dtype: str = Field(description="Type of the decoder's weights.")

    @property
    def request(self) -> dict[str, Any]:
        """The fields of the request, without the seed."""
        return dict(self.model_extra or {})


def read_provenance(png: bytes) -> Provenance:
    """Return an image's provenance. Raises ValueError if it has none, or is not a PNG."""
    try:
        text = getattr(Image.open(io.BytesIO(png), formats=("PNG",)), "text", {}).get(TEXT_KEY)
    except OSError as error:
        raise ValueError("it is not a PNG") from error
    if text is None:
        raise ValueError(
            f"it has no text chunk {TEXT_KEY!r}: another program generated it, or saved it again "
            "without its metadata"
        )
    return Provenance.model_validate_json(text)
