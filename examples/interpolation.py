"""An animation: python examples/interpolation.py "a red cube" "a blue sphere" frames.webp"""

import sys

from unclip_client import Client

prompt_a, prompt_b, path = sys.argv[1:]
client = Client(progress=True)
# Interpolate between images, so that the first and last frame reproduce them.
image_a, image_b = (
    client.generate(prompt, seed=1, size=64).images[0] for prompt in (prompt_a, prompt_b)
)
job = client.interpolate(image_a=image_a, image_b=image_b, frames=12, size=64, animation="webp")
job.save(path)
