"""A job's webhook, as its record holds it, and how a delivery enters the queue."""

from __future__ import annotations

from typing import Any

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
    pipe: Any, job_id: str, webhook: Webhook | None, event: WebhookEvent, due_at: float
) -> None:
    """Queue a delivery in the transaction that makes the event true.

    `due_at`: when it is due, in seconds since 1970; now.
    """
    if webhook is not None and event in webhook.events:
        pipe.zadd(redis_keys.WEBHOOKS, {f"{job_id}:{event}": due_at})
