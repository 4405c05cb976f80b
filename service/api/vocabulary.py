"""`GET /vocabulary`: what the live workers' checkpoint knows, for completion in an editor."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from contracts import redis_keys
from service.api.problems import responses
from service.dependencies import ServicesDep
from service.jobs.estimate import live_workers

router = APIRouter()


class Vocabulary(BaseModel):
    """Words that a checkpoint understands. Empty lists if it does not say."""

    checkpoint: str | None = Field(None, description="The checkpoint's name.")
    names: list[str] = Field([], description="Things that it generates, by their plainest name.")
    examples: list[str] = Field([], description="Prompts that it can do.")


@router.get("/vocabulary", summary="Get the checkpoint's vocabulary", responses=responses(503))
async def get_vocabulary(services: ServicesDep) -> Vocabulary:
    """Return the words of a live worker's checkpoint."""
    redis = services.jobs.redis
    for heartbeat in await live_workers(redis):
        text = await redis.get(redis_keys.vocabulary(heartbeat.checkpoint))
        if text is not None:
            return Vocabulary.model_validate_json(text)
    return Vocabulary()
