"""`python -m service`: serve HTTP. `python -m service keys`: the API keys. With an operation: ask a service that runs."""

from __future__ import annotations

import argparse
import gc
import sys
from typing import Any

import uvicorn
from pydantic import ValidationError

from contracts.redis_url import redact_credentials
from service import logs, tracing
from service.app import create_app
from service.security import cli
from service.settings import Settings
from unclip_client import shell


def main() -> None:
    """Check the settings, then serve until told to stop, or do what the command says."""
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Without a command, the service is started."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    cli.add(commands)
    shell.add_commands(commands)
    arguments = parser.parse_args()
    if hasattr(
        arguments, "ask"
    ):  # a service that runs, maybe elsewhere: this one's settings do not matter
        sys.exit(arguments.ask(arguments))
    try:
        settings = Settings()
    except ValidationError as error:
        faults = "\n".join(
            f"  UNCLIP_{str(e['loc'][0]).upper()}: {e['msg']}{_got(e)}" for e in error.errors()
        )
        sys.exit(f"The settings will not do:\n{faults}")
    if hasattr(arguments, "run"):
        sys.exit(arguments.run(arguments, settings))
    logs.configure(settings)
    try:
        tracing.start()
    except RuntimeError as error:
        sys.exit(str(error))
    app = create_app(settings)
    gc.collect()
    gc.freeze()  # what is there from the start stays: no collection looks at it again, which took as long as several requests
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None, proxy_headers=True)


def _got(fault: Any) -> str:
    """The value got, but for secrets, which do not belong in a log."""
    return (
        "" if "secret" in str(fault["loc"][0]) else redact_credentials(f", got {fault['input']!r}")
    )


if __name__ == "__main__":
    main()
