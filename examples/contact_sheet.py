"""One caption, many seeds, one sheet: python examples/contact_sheet.py "a red cube on grass" sheet.png"""

import sys

from PIL import Image

from unclip_client import Client

prompt, path = sys.argv[1:]
client = Client()
# All are on their way before the first is waited for, so the worker draws them together.
jobs = [client.submit.generate(prompt, seed=seed, size=64) for seed in range(16)]
sheet = Image.new("RGB", (4 * 66 + 2, 4 * 66 + 2), "white")
for seed, job in enumerate(jobs):
    sheet.paste(job.wait().images[0].image(), (2 + seed % 4 * 66, 2 + seed // 4 * 66))
sheet.save(path)
