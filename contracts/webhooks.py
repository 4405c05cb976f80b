"""A job's webhook, as its record holds it, and how a delivery enters the queue."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from contracts import redis_keys
from contracts.fields import WebhookEvent

END_EVENTS: tuple[WebhookEvent, ...] = ("succeeded", "failed", "cancelled")


class Webhook(BaseModel):
    """The webhook of a job."""

    url: str
    events: list[WebhookEvent]
    base_url: str = Field(description="Base of the links in the job: where the request arrived.")


def schedule_webhook(
    pipe: Any,
    job_id: str,
    webhook: Webhook | None,
    owner: str | None,
    event: WebhookEvent,
    due_at: float,
) -> None:
    """Queue a delivery in the transaction that makes the event true.

    `owner`: id of the job's API key. `due_at`: when it is due, by Redis's clock, in seconds since
    1970; now.
    """
    if webhook is None or event not in webhook.events:
        return
    lane = lane_of(webhook, owner)
    pipe.sadd(redis_keys.WEBHOOKS, lane)
    pipe.zadd(redis_keys.webhooks(lane), {f"{job_id}:{event}": due_at})


def lane_of(webhook: Webhook, owner: str | None) -> str:
    """Return the lane that a delivery waits in; lanes share the dispatchers fairly.

    It is the API key's, and without API keys the receiver's.
    """
    return f"key:{owner}" if owner else f"host:{urlsplit(webhook.url).netloc}"
