"""The client against a real service and worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.deployment import DeploymentUnderTest
from support.images import load_png, read_provenance
from support.transport import FaultyTransport

from unclip_client import (
    Client,
    Job,
    JobCancelledError,
    JobError,
    JobFailedError,
    ProblemError,
    UnclipError,
)

SMALL: dict[str, Any] = {"size": 64, "decoder_num_inference_steps": 4}
LONG: dict[str, Any] = {"size": 64, "decoder_num_inference_steps": 1000}


def test_generate_saves_a_file(
    client: Client, deployment: DeploymentUnderTest, tmp_path: Path
) -> None:
    """The image's provenance is the same in its PNG and by its route."""
    path = tmp_path / "a.png"
    job = client.generate("a red cube", seed=4, **SMALL)
    assert job.save(path) == [path]
    (image,) = job.images
    content = path.read_bytes()
    assert content == image.content
    assert content == deployment.http.get(f"/jobs/{job.id}/images/0.png").content
    assert image.to_pil().size == (64, 64)
    assert (image.width, image.height) == (64, 64)
    assert image.provenance == read_provenance(content)
    assert image.provenance["prompt"] == "a red cube"
    assert image.provenance["seed"] == 4
    assert image.seed == 4
    assert job.status == "succeeded"
    assert job.operation == "generate"
    assert job.parameters["sampler"] == "dpm++"
    assert job.warnings == []
    with pytest.raises(ValueError, match=r"a\.jpg: images are saved as PNG: use .*a\.png"):
        job.save(tmp_path / "a.jpg")


def test_images_are_inputs_of_other_operations(client: Client, tmp_path: Path) -> None:
    """An input may be a job, one of its images, a path, bytes or a Pillow image."""
    cube = client.generate("a red cube", **SMALL)
    (path,) = cube.save(tmp_path / "cube.png")
    varied = client.variations(cube, n=2, eta=0.3, **SMALL)
    assert [saved.name for saved in varied.save(tmp_path / "v.png")] == ["v-0.png", "v-1.png"]
    with pytest.raises(ValueError, match="has 2 images: pass one of them"):
        client.variations(varied)
    diff = client.text_diff(path, "a cone", prompt_from="a cube", frames=2, **SMALL)
    assert len(diff.images) == 2
    mask = Image.new("L", (64, 64), 255)
    edited = client.edit(path.read_bytes(), "a cone", mask=mask, **SMALL)
    assert edited.images[0].provenance["inputs"].keys() == {"image", "mask"}
    probed = client.probe(str(path), labels=["a cube", "a cone"], components=[2], **SMALL)
    assert probed.result is not None
    assert [label["label"] for label in probed.result["labels"]] == ["a cube", "a cone"]
    mixture = [{"prompt": "a cone"}, {"image": cube, "weight": 0.5}]
    assert client.generate(mix=mixture, **SMALL).status == "succeeded"


def test_an_animation_is_saved(client: Client, tmp_path: Path) -> None:
    """A job without one is an error that names the path."""
    cube = client.generate("a red cube", **SMALL)
    path = tmp_path / "frames.webp"
    job = client.interpolate(
        image_a=cube.images[0], prompt_b="a cone", frames=3, animation="webp", **SMALL
    )
    assert len(job.images) == 3
    assert job.save(path) == [path]
    # There and back again: three frames, and the middle one once more.
    assert load_png(path.read_bytes()).n_frames == 4  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"cube\.webp: job .* has no animation"):
        cube.save(tmp_path / "cube.webp")
    with pytest.raises(ValueError, match="the animation is webp: use"):
        job.save(tmp_path / "frames.apng")


def test_an_embedding_generates_images(client: Client) -> None:
    """The result of `embeddings` is an input of `generate`."""
    z_i = client.embeddings(image=client.generate("a red cube", **SMALL)).result
    assert z_i is not None
    assert z_i["kind"] == "z_i"
    assert client.generate(z_i=z_i["embedding"], **SMALL).status == "succeeded"


def test_a_submitted_job_is_watched_and_cancelled(client: Client) -> None:
    """Previews come while the job runs, and cancellation ends its events."""
    job = client.submit.generate("a grey cone", n=4, **LONG)
    assert isinstance(job, Job)
    assert job.status in ("queued", "running")
    assert job.images == []
    preview = next(job.previews())
    assert load_png(preview.content).size == (64, 64)
    assert preview.index in range(4)
    assert 0 <= preview.fraction < 1
    assert client.get_job(job.id).cancel().status == "cancelled"
    with pytest.raises(JobCancelledError, match=job.id):
        job.wait()
    assert [event.name for event in job.events()][-1] == "ended"


def test_wait_raises_after_its_timeout(client: Client) -> None:
    """The job continues."""
    job = client.submit.generate("a grey cone", n=4, **LONG)
    with pytest.raises(TimeoutError, match="it continues"):
        job.wait(timeout=0.2)
    assert job.refresh().status in ("queued", "running")
    job.cancel()


def test_jobs_are_listed(client: Client) -> None:
    """The newest job comes first, and fields that the list leaves out are fetched."""
    ids = [client.generate("a cone", seed=seed, **SMALL).id for seed in range(2)]
    first, second, *_ = client.list_jobs(status="succeeded", operation="generate")
    assert [second.id, first.id] == ids
    assert first.parameters["seed"] == 1
    assert len(first.images) == 1


def test_errors_carry_the_service_s_problem(client: Client) -> None:
    """The service rejects what it can check at once; the worker fails the job otherwise."""
    with pytest.raises(ProblemError, match="422 Unprocessable") as rejected:
        client.generate("a cone", n=11)
    assert rejected.value.status == 422
    assert rejected.value.errors[0]["field"] == "n"
    assert rejected.value.errors[0]["got"] == "11"
    with pytest.raises(ProblemError, match="404 "):
        client.get_job("none")
    with pytest.raises(JobFailedError, match=" 6") as failed:
        client.probe(Image.new("RGB", (8, 8)), components=[99], **SMALL)
    assert failed.value.kind == "invalid"
    assert failed.value.job.status == "failed"
    assert issubclass(JobFailedError, JobError)
    assert issubclass(JobError, UnclipError)


def test_a_progress_bar_is_shown_on_request(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes to stderr and shows the stage and the completed share."""
    client.generate("a grey cone", **SMALL)
    assert capsys.readouterr().err == ""
    client.progress = True
    client.generate("a grey cone", size=64, decoder_num_inference_steps=600)
    output = capsys.readouterr().err
    assert "decoder" in output
    assert " %|" in output


@pytest.mark.parametrize(("key", "header"), [("mine", "Bearer mine"), (None, None)])
def test_url_and_key_are_configurable(
    deployment: DeploymentUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    header: str | None,
) -> None:
    """The URL comes from UNCLIP_URL, and the key is sent as a bearer token."""
    monkeypatch.setenv("UNCLIP_URL", deployment.url)
    monkeypatch.delenv("UNCLIP_API_KEY", raising=False)
    transport = FaultyTransport()
    with Client(api_key=key, transport=transport) as client:
        list(client.list_jobs())
    assert transport.requests[0].headers.get("authorization") == header
    assert transport.requests[0].url.port == deployment.http.base_url.port


def test_the_environment_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNCLIP_API_KEY is the default of `api_key`."""
    monkeypatch.setenv("UNCLIP_API_KEY", "theirs")
    with Client() as client:
        assert client.http.headers["authorization"] == "Bearer theirs"


def test_a_url_without_scheme_is_rejected() -> None:
    """The message names the URL and what it must begin with."""
    with pytest.raises(ValueError, match="'localhost:8000': it must begin with http"):
        Client("localhost:8000")
