"""URLs of Redis servers and Sentinels."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.redis_url import RedisUrl, parse_sentinels, redact_credentials


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost", "Input should be a valid URL"),
        ("http://localhost", "URL scheme should be 'redis' or 'rediss'"),
        (
            "redis+sentinel://a,b",
            "the master: redis+sentinel://host:26379,host:26379/mymaster/0",
        ),
        ("redis+sentinel://a:b/m", "Port could not be cast to integer value as 'b'"),
        (
            "redis://a?ssl_ca_certs=/b",
            "there is no option 'ssl_ca_certs'; only rediss:// has options",
        ),
        ("rediss://a?ssl_ca_cert=/b", "there is no option 'ssl_ca_cert'; use ssl_ca_certs, "),
    ],
)
def test_an_invalid_url_is_an_error_with_the_remedy(url: str, message: str) -> None:
    """At start, not at the first connection."""
    with pytest.raises(ValidationError, match=re.escape(message)):
        TypeAdapter(RedisUrl).validate_python(url)


def test_sentinels_are_parsed() -> None:
    """Port and database have the usual defaults."""
    sentinels = parse_sentinels("rediss+sentinel://u:p@a:1,b,[::1]/mine?ssl_ca_certs=/c")
    assert sentinels is not None
    assert sentinels.addresses == [("a", 1), ("b", 26379), ("::1", 26379)]
    assert sentinels.master == "mine"
    assert sentinels.url == "rediss://u:p@master/0?ssl_ca_certs=/c"


def test_a_server_has_no_sentinels() -> None:
    """Its URL is used as it is."""
    assert parse_sentinels("redis://a/0") is None


def test_passwords_are_redacted() -> None:
    """Those of servers and of Sentinels."""
    text = "got 'redis+sentinel://u:p@a,b/m?sentinel_password=s'"
    assert redact_credentials(text) == "got 'redis+sentinel://…a,b/m?sentinel_password=…'"
