"""Which webhooks a request may ask for. `courier.py` sends them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from ipaddress import ip_address
from urllib.parse import urlsplit

from contracts.webhooks import ENDS, Webhook, WebhookFields
from service.errors import InvalidRequest
from service.settings import Settings
from service.webhooks.ssrf import refusal


def wanted(request: WebhookFields, base_url: str, settings: Settings) -> Webhook | None:
    """The webhook that a request asks for. InvalidRequest where this service does not call it."""
    if request.webhook is None:
        return None
    if why := objection(request.webhook, settings):
        raise InvalidRequest.from_field("webhook", why)
    return Webhook(
        url=request.webhook, events=request.webhook_events or list(ENDS), base_url=base_url
    )


def objection(url: str, settings: Settings) -> str | None:
    """Why this URL is not called, as far as it can be told without asking for the host's address; None where it may be."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if not settings.webhook_hosts:
        return "this service calls none; its operator may name hosts in UNCLIP_WEBHOOK_HOSTS"
    if parts.scheme != "https" and not settings.webhook_http:
        return f"it begins with {parts.scheme}://, and this service calls https only"
    if not any(fnmatchcase(host, pattern) for pattern in settings.webhook_hosts):
        return f"{host!r} is none of the hosts that this service calls: {', '.join(settings.webhook_hosts)}"
    try:
        why = refusal(ip_address(host), settings.webhook_private)
    except ValueError:
        return None  # a name: its addresses are checked when it is called
    return f"{host} is not called: {why}" if why else None
