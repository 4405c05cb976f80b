"""From one caption to another, as an animation: python examples/interpolation.py "a red cube" "a blue sphere" way.webp"""

import sys

from unclip_client import Client

prompt_a, prompt_b, path = sys.argv[1:]
client = Client(progress=True)
# The images themselves are the ends, so the first and the last frame are what the captions drew.
a, b = (client.generate(prompt, seed=1, size=64).images[0] for prompt in (prompt_a, prompt_b))
client.interpolate(image_a=a, image_b=b, frames=12, size=64, animation="webp").save(path)
