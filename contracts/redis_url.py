"""The URL of Redis: a server, or the Sentinels that know which of several servers is the master.

    redis://[user:password@]host[:port][/db]
    redis+sentinel://[user:password@]host[:port],host[:port]…/master[/db]

With rediss instead of redis, connections use TLS, to the Sentinels too. Options follow a question
mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, RedisDsn, TypeAdapter

SENTINEL_PORT = 26379
# Options by redis-py's names.
TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class Sentinels:
    """A URL that names Sentinels.

    `addresses`: host and port of each. `master`: their name for the master. `url`: the rest, as
    the URL of a server.
    """

    addresses: list[tuple[str, int]]
    master: str
    url: str


def parse_sentinels(url: str) -> Sentinels | None:
    """Return the Sentinels of a URL; None if it is a server's. Raises ValueError if invalid."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind != "sentinel":
        return None
    credentials, at, hosts = parts.netloc.rpartition("@")
    places = [urlsplit(f"//{host}") for host in hosts.split(",")]
    path = re.fullmatch(r"/([^/]+)(?:/(\d+))?/?", parts.path)
    if path is None or not all(place.hostname for place in places):
        raise ValueError(
            "name the Sentinels and the master: redis+sentinel://host:26379,host:26379/mymaster/0"
        )
    addresses = [(str(place.hostname), place.port or SENTINEL_PORT) for place in places]
    server_url = f"{scheme}://{credentials}{at}master/{path[2] or 0}?{parts.query}"
    return Sentinels(addresses, path[1], server_url)


def redact_credentials(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return re.sub(r"(?<=://)[^/?\s]*@|(?<=password=)[^&'\s]*", "…", text)


def _check_url(url: str) -> str:
    sentinels = parse_sentinels(url)
    TypeAdapter(RedisDsn).validate_python(sentinels.url if sentinels else url)
    parts = urlsplit(url)
    options: tuple[str, ...] = TLS_OPTIONS if parts.scheme.startswith("rediss") else ()
    options += SENTINEL_OPTIONS if sentinels else ()
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in options:
            hint = f"use {', '.join(options)}" if options else "only rediss:// has options, for TLS"
            raise ValueError(f"there is no option {name!r}; {hint}")
    return url


RedisUrl = Annotated[str, AfterValidator(_check_url)]
