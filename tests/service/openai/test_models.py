"""models.list and models.retrieve of OpenAI's client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from support.service.openai_service import PROMPT, ServiceUnderTest

from contracts import redis_keys
from contracts.jobs import WorkerHeartbeat

CHECKPOINT = "synthetic-scenes"
CALLS: list[Callable[[ServiceUnderTest], Any]] = [
    lambda service: service.client.models.retrieve("gpt-image-2"),
    lambda service: service.client.images.generate(model="gpt-image-2", prompt="a"),
]


@pytest.fixture
def with_worker(service: ServiceUnderTest) -> ServiceUnderTest:
    """A service with the heartbeat of a worker that has a checkpoint."""
    heartbeat = WorkerHeartbeat(pid=1, slots=1, checkpoint=CHECKPOINT)
    service.redis.sadd(redis_keys.WORKERS, "w")
    service.redis.set(redis_keys.worker("w"), heartbeat.model_dump_json())
    return service


def test_dalle_2_is_always_a_model(service: ServiceUnderTest) -> None:
    """It stands for any checkpoint."""
    assert [model.id for model in service.client.models.list()] == ["dall-e-2"]
    assert service.client.models.retrieve("dall-e-2").object == "model"


def test_checkpoints_of_live_workers_are_models(with_worker: ServiceUnderTest) -> None:
    """A call may name one."""
    models = with_worker.client.models
    assert [model.id for model in models.list()] == ["dall-e-2", CHECKPOINT]
    assert models.retrieve(CHECKPOINT).owned_by == "unclip-service"
    answer, _ = with_worker.call(
        lambda: with_worker.client.images.generate(model=CHECKPOINT, prompt=PROMPT, size="256x256")
    )
    assert len(answer.data) == 1


def test_without_a_worker_a_checkpoint_cannot_be_looked_up(service: ServiceUnderTest) -> None:
    """It may exist, so the response is 503."""
    with pytest.raises(openai.InternalServerError, match="No worker is alive, so the model"):
        service.client.images.generate(model=CHECKPOINT, prompt=PROMPT)


@pytest.mark.parametrize("call", CALLS, ids=["retrieve", "generate"])
def test_an_unknown_model_is_404(
    with_worker: ServiceUnderTest, call: Callable[[ServiceUnderTest], Any]
) -> None:
    """The message lists the models."""
    with pytest.raises(openai.NotFoundError) as error_info:
        call(with_worker)
    error = error_info.value
    assert f"Use one of 'dall-e-2', '{CHECKPOINT}'" in error.message
    assert error.code == "model_not_found"
    assert error.param == "model"
    assert error.type == "invalid_request_error"
