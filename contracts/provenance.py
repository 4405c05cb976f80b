"""What an image says of how it was drawn, in the text chunk `unclip` of its PNG."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

TEXT_KEY = "unclip"


class Provenance(BaseModel):
    """Everything needed to draw this one image again, but for the weights and the images that came with the request: of those it has
    the SHA-256. The request's own fields, such as prompt, stand beside these."""

    model_config = ConfigDict(extra="allow")

    operation: str
    seed: int = Field(
        description="Of this image. Its job's is `index` less, where it drew `n` images."
    )
    index: int = Field(
        description="Which of the images that its job drew, those among it that were left out."
    )
    parameters: dict[str, Any] = Field(description="Every parameter, with nothing left open.")
    inputs: dict[str, str] = Field(
        description="Of each image that came with the request, by name, the SHA-256 of what was drawn from: "
        "its mode and width, as in 'RGB 256' and a line feed, then its pixels."
    )
    prior_candidate: int | None = Field(
        None,
        description="Which z_i the diffusion prior kept, of prior_num_candidates; null where it drew none for this image alone.",
    )
    checkpoint: str = Field(description="The checkpoint's name.")
    checkpoint_digest: str = Field(
        description="SHA-256 of the lines that sha256sum prints for its .json and weight files, by path."
    )
    version: str = Field(description="Of this software.")
    torch: str = Field(description="Its version.")
    device: str = Field(description="cpu, or the GPU's name.")
    dtype: str = Field(description="What the networks computed in.")

    @property
    def request(self) -> dict[str, Any]:
        """The request's own fields, without the seed."""
        return dict(self.model_extra or {})


def read_provenance(png: bytes) -> Provenance:
    """An image's provenance. ValueError where it has none, or is no PNG."""
    try:
        text = getattr(Image.open(io.BytesIO(png), formats=("PNG",)), "text", {}).get(TEXT_KEY)
    except OSError as error:
        raise ValueError("it is no PNG") from error
    if text is None:
        raise ValueError(
            f"it has no text chunk {TEXT_KEY!r}: it was not drawn here, or was saved anew without its metadata"
        )
    return Provenance.model_validate_json(text)
