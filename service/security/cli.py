"""`python -m service keys`: the operator makes, lists and revokes API keys."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from contracts.redis_url import redact_credentials
from infra.redis import connect
from service.jobs import quota
from service.security import api_keys, rate_limit
from service.settings import Settings


def add(commands: Any) -> None:
    """Add the command to a parser's. What it sets as `run` takes the arguments and the settings, and gives the exit status."""
    parser = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = parser.add_subparsers(title="actions", required=True)

    create = actions.add_parser("create", help="make a key and print its token, this once")
    create.add_argument("name", type=_name, help="whose it is, for people")
    create.add_argument(
        "--rate",
        type=_rate,
        metavar="60/minute",
        help="most requests in a time, any request counted; else no limit",
    )
    create.add_argument(
        "--jobs",
        type=_whole,
        metavar="10",
        help="most jobs that wait and run at a time; else no limit",
    )
    create.add_argument(
        "--expires", type=_whole, metavar="DAYS", help="days that it is good for; else for ever"
    )
    create.set_defaults(run=_with_redis, action=_create)

    listing = actions.add_parser("list", help="list all keys")
    listing.set_defaults(run=_with_redis, action=_list)

    revoke = actions.add_parser(
        "revoke", help="make a key good for nothing, at once; jobs that it began go on"
    )
    revoke.add_argument("id", help="the key's id, as `list` tells it")
    revoke.set_defaults(run=_with_redis, action=_revoke)


def _with_redis(arguments: argparse.Namespace, settings: Settings) -> int:
    url = settings.redis_url
    try:
        with connect(url, socket_timeout=5.0, socket_connect_timeout=5.0) as connection:
            return int(arguments.action(connection, arguments, settings))
    except RedisError as error:
        print(
            f"Redis at {redact_credentials(url)} does not answer ({error}). Is it running, and is it UNCLIP_REDIS_URL?",
            file=sys.stderr,
        )
        return 1


def _create(connection: Any, arguments: argparse.Namespace, settings: Settings) -> int:
    key, token = api_keys.create(
        connection, arguments.name, rate=arguments.rate, jobs=arguments.jobs, days=arguments.expires
    )
    # The token alone goes to stdout, so that a script can take it.
    print(
        f"The API key {key.id} of {key.name!r}. It is shown this once:", file=sys.stderr, flush=True
    )
    print(token, flush=True)
    if settings.api_keys == "off":
        print(
            "The service asks for keys where it runs with UNCLIP_API_KEYS=required.",
            file=sys.stderr,
        )
    return 0


def _list(connection: Any, arguments: argparse.Namespace, settings: Settings) -> int:
    rows = [("ID", "NAME", "STATE", "CREATED", "EXPIRES", "RATE", "JOBS")]
    for key in api_keys.every(connection):
        jobs = (
            "-" if key.jobs is None else f"{len(quota.holding(connection, key.id))} of {key.jobs}"
        )
        rows.append(
            (
                key.id,
                key.name,
                key.over() or "good",
                _day(key.created_at),
                _day(key.expires_at),
                key.rate or "-",
                jobs,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


def _revoke(connection: Any, arguments: argparse.Namespace, settings: Settings) -> int:
    key = api_keys.revoke(connection, arguments.id)
    if key is None:
        print(
            f"There is no API key {arguments.id!r}; `python -m service keys list` tells those there are.",
            file=sys.stderr,
        )
        return 1
    print(f"The API key {key.id} of {key.name!r} {key.over()}.")
    return 0


def _name(text: str) -> str:
    if not 1 <= len(text) <= 100 or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name: 1 to 100 printable characters would do"
        )
    return text


def _rate(text: str) -> str:
    try:
        rate_limit.parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} will not do: a whole number from 1 to 100000 would"
        )
    return int(text)


def _day(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d}"
