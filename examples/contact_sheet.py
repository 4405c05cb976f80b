"""Sixteen seeds of one prompt: python examples/contact_sheet.py "a red cube on grass" sheet.png"""

import sys

from PIL import Image

from unclip_client import Client

prompt, path = sys.argv[1:]
client = Client()
# Submit all jobs before waiting for the first, so that the worker batches them.
jobs = [client.submit.generate(prompt, seed=seed, size=64) for seed in range(16)]
sheet = Image.new("RGB", (4 * 66 + 2, 4 * 66 + 2), "white")
for seed, job in enumerate(jobs):
    position = (2 + seed % 4 * 66, 2 + seed // 4 * 66)
    sheet.paste(job.wait().images[0].to_pil(), position)
sheet.save(path)
