"""Where Redis is, as one URL: a server, or the Sentinels that know which of several servers is the master.

    redis://[user:password@]host[:port][/db]
    redis+sentinel://[user:password@]host[:port],host[:port]…/master[/db]

With rediss in place of redis, by TLS (to the Sentinels too). Options follow a question mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, RedisDsn, TypeAdapter

SENTINEL_PORT = 26379
TLS = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
)  # redis-py's names
SENTINEL = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class Sentinels:
    """`addresses`: where they are. `master`: what they call the servers. `url`: everything else, as a server's URL."""

    addresses: list[tuple[str, int]]
    master: str
    url: str


def parse_sentinels(url: str) -> Sentinels | None:
    """The Sentinels of a URL; None where it is a server's. ValueError where it will not do."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind != "sentinel":
        return None
    who, at, hosts = parts.netloc.rpartition("@")
    places = [urlsplit(f"//{host}") for host in hosts.split(",")]
    named = re.fullmatch(r"/([^/]+)(?:/(\d+))?/?", parts.path)
    if named is None or not all(place.hostname for place in places):
        raise ValueError(
            "name the Sentinels and what they call the master: redis+sentinel://host:26379,host:26379/mymaster/0"
        )
    addresses = [(str(place.hostname), place.port or SENTINEL_PORT) for place in places]
    return Sentinels(
        addresses, named[1], f"{scheme}://{who}{at}master/{named[2] or 0}?{parts.query}"
    )


def redact_credentials(text: str) -> str:
    """A text without the passwords of URLs in it."""
    return re.sub(r"(?<=://)[^/?\s]*@|(?<=password=)[^&'\s]*", "…", text)


def _checked(url: str) -> str:
    found = parse_sentinels(url)
    TypeAdapter(RedisDsn).validate_python(found.url if found else url)
    parts = urlsplit(url)
    known = (TLS if parts.scheme.startswith("rediss") else ()) + (SENTINEL if found else ())
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            others = (
                f"there are {', '.join(known)}"
                if known
                else "with redis:// there are none, with rediss:// those of TLS"
            )
            raise ValueError(f"there is no option {name!r}; {others}")
    return url


RedisUrl = Annotated[str, AfterValidator(_checked)]
