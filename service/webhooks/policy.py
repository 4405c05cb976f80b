"""Which webhook URLs a request may name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from ipaddress import ip_address
from urllib.parse import urlsplit

from contracts.fields import WebhookFields
from contracts.webhooks import END_EVENTS, Webhook
from service.errors import InvalidRequest
from service.settings import Settings
from service.webhooks import ssrf


def webhook_from_request(
    request: WebhookFields, base_url: str, settings: Settings
) -> Webhook | None:
    """Return the webhook of a request, None if it names none.

    base_url: prefix of the links in the delivered job.
    Raises InvalidRequest if this service does not call the URL.
    """
    if request.webhook is None:
        return None
    if reason := rejection_reason(request.webhook, settings):
        raise InvalidRequest.from_field("webhook", reason)
    return Webhook(
        url=request.webhook, events=request.webhook_events or list(END_EVENTS), base_url=base_url
    )


def rejection_reason(url: str, settings: Settings) -> str | None:
    """Return why a URL is not called, None if it may be.

    A host name is not resolved here; `ssrf` checks its addresses when it is called.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if not settings.webhook_hosts:
        return "webhooks are off; the operator can allow hosts with UNCLIP_WEBHOOK_HOSTS"
    if parts.scheme != "https" and not settings.webhook_allow_http:
        return f"{parts.scheme}:// is not allowed; use https://"
    if not any(fnmatchcase(host, pattern) for pattern in settings.webhook_hosts):
        return f"{host!r} is not an allowed host; use one of {', '.join(settings.webhook_hosts)}"
    try:
        address = ip_address(host)
    except ValueError:
        return None
    reason = ssrf.rejection_reason(address, settings.webhook_allow_private_networks)
    return f"{host} is not allowed: {reason}" if reason else None
