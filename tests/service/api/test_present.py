"""Presentation of jobs: one place makes their URLs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.jobs import ImageInfo, JobOutcome, JobRecord, JobSpec, now
from contracts.operations import InterpolateRequest
from service.api.present import present, present_listed
from service.jobs.estimate import JobSnapshot, QueuePlace

BASE_URL = "http://service.test"
URL = f"{BASE_URL}/jobs/j"
OUTCOME = JobOutcome(images=[ImageInfo(seed=1, width=64, height=64)], animation="webp")


def succeeded_job(link: str | None) -> JobRecord:
    """Return a succeeded job with an image and an animation."""
    request = InterpolateRequest(prompt_a="a", prompt_b="b", seed=1, animation="webp")
    spec = JobSpec(operation="interpolate", request=request, link=link, created_at=now())
    return replace(JobRecord("j", spec, "succeeded"), outcome=OUTCOME)


@pytest.mark.parametrize(("link", "query"), [(None, ""), ("token", "?link=token")])
def test_a_job_and_its_entry_in_a_list_have_the_same_urls(link: str | None, query: str) -> None:
    """Images of an owned job open with its link, wherever their URL comes from."""
    record = succeeded_job(link)
    job = present(JobSnapshot(record, QueuePlace()), BASE_URL)
    listed = present_listed(record, BASE_URL)
    assert job.images[0].url == f"{URL}/images/0.png{query}"
    assert job.images == listed.images
    assert job.animation is not None
    assert job.animation.url == f"{URL}/animation{query}"
    assert job.animation == listed.animation


def test_links_of_the_job_itself_have_no_token() -> None:
    """The token opens images only."""
    job = present(JobSnapshot(succeeded_job("token"), QueuePlace()), BASE_URL)
    assert job.links.self == URL
    assert job.links.events == f"{URL}/events"


def test_parameters_are_those_of_the_request_until_the_job_runs() -> None:
    """Open parameters are null, other omitted fields are left out."""
    parameters = present(JobSnapshot(succeeded_job(None), QueuePlace()), BASE_URL).parameters
    assert parameters["prompt_a"] == "a"
    assert parameters["size"] is None
    assert "image_a" not in parameters
    resolved = replace(succeeded_job(None), parameters={"size": 64})
    assert present(JobSnapshot(resolved, QueuePlace()), BASE_URL).parameters["size"] == 64
