"""A text diff, probed: python examples/text_diff.py "a red cube" "a blue cube" frame.png"""

import sys

from unclip_client import Client

prompt_from, prompt_to, path = sys.argv[1:]
client = Client()
cube = client.generate(prompt_from, seed=1, size=64)
job = client.text_diff(cube, prompt_to, prompt_from=prompt_from, frames=5, size=64)
for image, image_path in zip(job.images, job.save(path), strict=True):
    result = client.probe(image, labels=[prompt_from, prompt_to]).result
    assert result is not None
    shares = [f"{label['label']} {label['probability']:.0%}" for label in result["labels"]]
    print(f"{image_path}: {', '.join(shares)}")
