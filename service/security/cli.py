"""`python -m service keys`: create, list and revoke API keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from contracts.redis_url import redact_credentials
from infra.redis import connect
from service.jobs import quota
from service.security import api_keys, rate_limit
from service.settings import Settings

TIMEOUT_S = 5.0
MAX_NUMBER = 100_000
MAX_NAME_CHARACTERS = 100


def add_commands(commands: Any) -> None:
    """Add `keys` to a parser's subcommands.

    Each of its actions sets `func(arguments, settings)`, which returns the exit status.
    """
    parser = commands.add_parser("keys", help="create, list and revoke API keys")
    actions = parser.add_subparsers(title="actions", required=True)

    create = actions.add_parser("create", help="create a key and print its token once")
    create.add_argument("name", type=_name, help="name of the holder, for people")
    create.add_argument(
        "--rate",
        type=_rate,
        metavar="60/minute",
        help="maximum request rate, all requests counted (default: unlimited)",
    )
    create.add_argument(
        "--jobs",
        type=_number,
        metavar="10",
        help="maximum concurrent jobs (default: unlimited)",
    )
    create.add_argument(
        "--cost",
        type=_number,
        metavar="1000",
        help="maximum cost of one job, in denoising steps at 1024x1024 (default: unlimited)",
    )
    create.add_argument(
        "--priority",
        type=int,
        choices=range(quota.MAX_PRIORITY + 1),
        default=0,
        metavar="0-10",
        help="highest priority of its jobs (default: 0)",
    )
    create.add_argument(
        "--expires", type=_number, metavar="DAYS", help="lifetime in days (default: never expires)"
    )
    create.set_defaults(func=_create)

    listing = actions.add_parser("list", help="list all keys")
    listing.set_defaults(func=_list)

    revoke = actions.add_parser(
        "revoke", help="revoke a key immediately; its accepted jobs continue"
    )
    revoke.add_argument("id", help="the key's id, from `list`")
    revoke.set_defaults(func=_revoke)


def _create(arguments: argparse.Namespace, settings: Settings) -> int:
    def action(connection: Any) -> int:
        key, token = api_keys.create(
            connection,
            arguments.name,
            rate=arguments.rate,
            max_jobs=arguments.jobs,
            max_cost=arguments.cost,
            max_priority=arguments.priority,
            days=arguments.expires,
        )
        # Only the token goes to stdout, so that a script can read it.
        print(
            f"API key {key.id} of {key.name!r}. This is the only time it is shown:",
            file=sys.stderr,
            flush=True,
        )
        print(token, flush=True)
        if settings.api_keys == "off":
            print("Set UNCLIP_API_KEYS=required to make the service check keys.", file=sys.stderr)
        return 0

    return _with_redis(settings, action)


def _list(arguments: argparse.Namespace, settings: Settings) -> int:
    def action(connection: Any) -> int:
        rows: list[tuple[str, ...]] = [
            ("ID", "NAME", "STATE", "CREATED", "EXPIRES", "RATE", "JOBS", "COST", "PRIORITY")
        ]
        rows += [_row(connection, key) for key in api_keys.list_keys(connection)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        return 0

    return _with_redis(settings, action)


def _revoke(arguments: argparse.Namespace, settings: Settings) -> int:
    def action(connection: Any) -> int:
        key = api_keys.revoke(connection, arguments.id)
        if key is None:
            print(
                f"There is no API key {arguments.id!r}. List all keys: python -m service keys list",
                file=sys.stderr,
            )
            return 1
        print(f"API key {key.id} of {key.name!r} {key.inactive_reason()}.")
        return 0

    return _with_redis(settings, action)


def _with_redis(settings: Settings, action: Callable[[Any], int]) -> int:
    """Run `action(connection)` and return its exit status, 1 if Redis is unavailable."""
    url = settings.redis_url
    try:
        with connect(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as connection:
            return action(connection)
    except RedisError as error:
        print(
            f"Cannot reach Redis at {redact_credentials(url)} ({error}). "
            "Start it, or set UNCLIP_REDIS_URL.",
            file=sys.stderr,
        )
        return 1


def _row(connection: Any, key: api_keys.ApiKey) -> tuple[str, ...]:
    active = "-"
    if key.max_jobs is not None:
        active = f"{len(quota.active_jobs(connection, key.id))} of {key.max_jobs}"
    return (
        key.id,
        key.name,
        key.inactive_reason() or "active",
        _date(key.created_at),
        _date(key.expires_at),
        key.rate or "-",
        active,
        str(key.max_cost or "-"),
        str(key.max_priority),
    )


def _name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_CHARACTERS or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"expected 1 to {MAX_NAME_CHARACTERS} printable characters, got {text!r}"
        )
    return text


def _rate(text: str) -> str:
    try:
        rate_limit.parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(
            f"expected an integer from 1 to {MAX_NUMBER}, got {text!r}"
        )
    return int(text)


def _date(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d}"
