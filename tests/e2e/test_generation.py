"""From a request over HTTP to images, through a real service, Redis and worker."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.deployment import DeploymentUnderTest
from support.images import load_png, read_provenance
from support.requests import CUBE, WAIT, WAIT_FOR_PNG

# Rounding differs with the batch that an image is in: at most two of 255 levels.
MAX_DIFFERENCE = 2


def max_difference(one: bytes, other: bytes) -> int:
    """Return the largest difference of two PNG files' pixels, in levels of 255."""
    pixels = np.asarray(load_png(one), int)
    return int(np.abs(pixels - np.asarray(load_png(other), int)).max())


@pytest.mark.parametrize("size", [64, 256])
def test_an_image_carries_what_reproduces_it(deployment: DeploymentUnderTest, size: int) -> None:
    """A request made of the PNG's metadata returns the same bytes."""
    response = deployment.post_job(CUBE | {"size": size}, **WAIT_FOR_PNG)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    image = load_png(response.content)
    assert image.format == "PNG"
    assert image.mode == "RGB"
    assert image.size == (size, size)
    provenance = read_provenance(response.content)
    assert provenance["operation"] == "generate"
    assert provenance["prompt"] == CUBE["prompt"]
    assert provenance["seed"] == 1
    assert provenance["checkpoint"] == "tiny"
    assert provenance["parameters"]["size"] == size
    assert None not in provenance["parameters"].values()
    request = {"prompt": provenance["prompt"], "seed": provenance["seed"]}
    repeat = deployment.post_job(request | provenance["parameters"], **WAIT_FOR_PNG)
    assert repeat.content == response.content


def test_a_seed_decides_the_image_whatever_shares_its_batch(
    deployment: DeploymentUnderTest,
) -> None:
    """Alone the bytes are the same; in a batch with other jobs they differ by rounding."""
    first = deployment.post_job(CUBE | {"seed": 0}, **WAIT_FOR_PNG).content
    second = deployment.post_job(CUBE | {"seed": 0}, **WAIT_FOR_PNG).content
    other_seed = deployment.post_job(CUBE | {"seed": 3}, **WAIT_FOR_PNG).content
    assert first == second
    assert first != other_seed
    large = {"prompt": "two spheres", "size": 256, "n": 3, "decoder_num_inference_steps": 80}
    others = deployment.post_jobs(4, large)
    in_batch = deployment.post_job(CUBE | {"seed": 0}, **WAIT_FOR_PNG).content
    assert "running" in deployment.get_statuses(others)
    assert max_difference(first, in_batch) <= MAX_DIFFERENCE
    assert max_difference(first, in_batch) < max_difference(first, other_seed)
    deployment.wait_for_end(others)


def test_image_i_uses_seed_plus_i(deployment: DeploymentUnderTest) -> None:
    """Each image of a job can be generated alone from the seed reported for it."""
    job = deployment.post_job(CUBE | {"n": 3, "seed": 10}, **WAIT).json()
    assert [image["seed"] for image in job["images"]] == [10, 11, 12]
    last = deployment.http.get(job["images"][2]["url"]).content
    alone = deployment.post_job(CUBE | {"seed": 12}, **WAIT_FOR_PNG).content
    assert max_difference(last, alone) <= MAX_DIFFERENCE


def test_a_job_reports_the_values_of_all_parameters(deployment: DeploymentUnderTest) -> None:
    """Parameters that the request leaves out have the checkpoint's defaults."""
    request = {"prompt": "a cone", "n": 2, "size": 64, "sampler": "ddim"}
    job = deployment.post_job(request, **WAIT).json()
    assert job["parameters"] == request | {
        "seed": job["parameters"]["seed"],
        "prior": "diffusion",
        "negative_prompt": "",
        "eta": 0.0,
        "prior_num_inference_steps": 5,
        "decoder_num_inference_steps": 6,
        "upsampler_num_inference_steps": 2,
        "prior_guidance_scale": 1.5,
        "decoder_guidance_scale": 2.0,
        "prior_num_candidates": 2,
        "prior_temperature": 1.0,
        "prior_top_p": 1.0,
        "decoder_guidance_start": 0.0,
        "decoder_guidance_stop": 1.0,
        "dynamic_threshold": 0.0,
    }


def test_a_succeeded_job_is_complete(deployment: DeploymentUnderTest) -> None:
    """Status, progress, times and the URLs of its images; Location leads to the same job."""
    request = {"prompt": "a cone", "n": 2, "size": 64}
    response = deployment.post_job(request, **WAIT)
    job = response.json()
    assert response.status_code == 200
    assert job == deployment.http.get(response.headers["location"]).json()
    assert job["operation"] == "generate"
    assert job["status"] == "succeeded"
    assert job["error"] is None
    assert job["warnings"] == []
    assert job["queue_position"] is None
    assert job["progress"]["stage"] == "decoder"
    assert job["progress"]["step"] == 6
    assert job["progress"]["steps"] == 6
    assert job["progress"]["fraction"] == 1.0
    assert job["progress"]["eta_seconds"] is None
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert len(job["images"]) == 2
    for index, image in enumerate(job["images"]):
        assert (image["width"], image["height"]) == (64, 64)
        assert image["url"] == f"{job['links']['self']}/images/{index}.png"
        assert load_png(deployment.http.get(image["url"]).content).size == (64, 64)


@pytest.fixture(scope="module")
def reference(deployment: DeploymentUnderTest) -> dict[str, Any]:
    """Return a reference to the image of an earlier job."""
    job = deployment.post_job(CUBE | {"size": 64}, **WAIT).json()
    return {"job": job["id"], "index": 0}


def run_operation(deployment: DeploymentUnderTest, path: str, **fields: Any) -> dict[str, Any]:
    """POST to an operation, wait, check that it succeeds and load all of its images."""
    fields = {"size": 64, "decoder_num_inference_steps": 4} | fields
    response = deployment.http.post(path, json=fields, headers=WAIT)
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    assert job["status"] == "succeeded", job
    for image in job["images"]:
        assert load_png(deployment.http.get(image["url"]).content).size == (64, 64)
    return job


def test_variations(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """`n` variations of an earlier image."""
    assert len(run_operation(deployment, "/variations", image=reference, n=2)["images"]) == 2


def test_interpolate(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """Frames from an image to a prompt, and their animation."""
    fields = {"image_a": reference, "prompt_b": "a cone", "frames": 3, "animation": "webp"}
    job = run_operation(deployment, "/interpolate", **fields)
    assert len(job["images"]) == 3
    animation = deployment.http.get(job["animation"]["url"])
    assert animation.headers["content-type"] == "image/webp"


def test_text_diff(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """Frames of an image that moves towards a prompt."""
    fields = {"image": reference, "prompt_to": "a cone", "frames": 2}
    assert len(run_operation(deployment, "/text-diff", **fields)["images"]) == 2


def test_edits(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """An image regenerated under a mask."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 255).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    fields = {"image": reference, "mask": mask, "prompt": "a cone"}
    assert len(run_operation(deployment, "/edits", **fields)["images"]) == 1


def test_probe(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """Labels with probabilities, and an image for each number of principal components."""
    fields = {"image": reference, "labels": ["a cube", "a cone"], "components": [1, 3]}
    job = run_operation(deployment, "/probe", **fields)
    assert len(job["images"]) == 2
    assert [label["label"] for label in job["result"]["labels"]] == ["a cube", "a cone"]


def test_embeddings(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """The embedding of an earlier image, as the job's result."""
    response = deployment.http.post("/embeddings", json={"image": reference}, headers=WAIT)
    job = response.json()
    assert job["status"] == "succeeded", response.text
    assert job["images"] == []
    assert job["result"]["kind"] == "z_i"


def test_mix(deployment: DeploymentUnderTest, reference: dict[str, Any]) -> None:
    """An image from a mixture of an image and a prompt, by the autoregressive prior."""
    mix = [{"image": reference}, {"prompt": "a cone"}]
    job = run_operation(deployment, "/generate", mix=mix, prior="autoregressive")
    assert len(job["images"]) == 1
    assert job["result"] is None


def test_a_truncated_prompt_is_reported(deployment: DeploymentUnderTest) -> None:
    """CLIP reads 77 tokens; the job's warning quotes the rest."""
    prompt = "red " * 75 + "tail end"
    job = deployment.post_job(CUBE | {"prompt": prompt}, **WAIT).json()
    assert job["status"] == "succeeded"
    (warning,) = job["warnings"]
    assert warning.endswith(": tail end")
