"""What may be asked of webhooks, how a job's record holds it, and how a delivery gets into the queue."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, HttpUrl, TypeAdapter, model_validator

from contracts import redis_keys
from contracts.fields import RequestFields

WebhookEvent = Literal["started", "succeeded", "failed", "cancelled"]
ENDS: tuple[WebhookEvent, ...] = ("succeeded", "failed", "cancelled")
MAX_URL_CHARACTERS = 2000
_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


def _address(text: str) -> str:
    """The URL in its normal form: 0177.1 becomes 127.0.0.1, a name in other letters its xn-- form."""
    url = _URL.validate_python(text)
    if url.username or url.password:
        raise ValueError(
            "it holds a user or a password: leave them out, the signature tells who calls"
        )
    return str(url)


class WebhookFields(RequestFields):
    """What every request may say of who is to be told of its job."""

    webhook: (
        Annotated[str, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(_address)] | None
    ) = Field(
        None,
        description="URL that is called with the job, signed, by POST, when it ends. The service says which hosts it calls.",
    )
    webhook_events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=4)] | None = Field(
        None,
        description="When to call it: started, succeeded, failed, cancelled. Left out, at the end, whichever it is.",
    )

    @model_validator(mode="after")
    def _events_of_something(self) -> Self:
        if self.webhook_events and self.webhook is None:
            raise ValueError("webhook_events is given, but no webhook: give its URL too")
        return self


class Webhook(BaseModel):
    """A job's webhook, in its record."""

    url: str
    events: list[WebhookEvent]
    base_url: str  # what the links in the job begin with, as the request reached the service


def schedule_webhook(
    pipe: Any, job_id: str, webhook: Webhook | None, event: WebhookEvent, at: float
) -> None:
    """Queue a delivery, due at once (`at`: now, in seconds since 1970), in the transaction that makes the event true."""
    if webhook is not None and event in webhook.events:
        pipe.zadd(redis_keys.WEBHOOKS, {f"{job_id}:{event}": at})
