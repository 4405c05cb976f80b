"""An image moved by words, and what CLIP sees in each frame: python examples/text_diff.py "a red cube" "a blue cube" frame.png"""

import sys

from unclip_client import Client

prompt_from, prompt_to, path = sys.argv[1:]
client = Client()
cube = client.generate(prompt_from, seed=1, size=64)
moved = client.text_diff(cube, prompt_to, prompt_from=prompt_from, frames=5, size=64)
for image, saved in zip(moved.images, moved.save(path), strict=True):
    seen = client.probe(image, labels=[prompt_from, prompt_to]).result
    assert seen is not None
    shares = [f"{found['label']} {found['probability']:.0%}" for found in seen["labels"]]
    print(f"{saved}: {', '.join(shares)}")
