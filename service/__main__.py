"""`python -m service`: serve HTTP. With a command: ask a service that runs, see --help."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings
from unclip_client import shell


def main() -> None:
    """Serve, or do what the command says."""
    parser = argparse.ArgumentParser(prog="python -m service", description="Serves HTTP until told to stop; its settings are UNCLIP_….")
    commands = parser.add_subparsers(title="instead", metavar="COMMAND")
    shell.add_commands(commands)
    arguments = parser.parse_args()
    if "run" in arguments:
        sys.exit(arguments.run(arguments))
    serve()


def serve() -> None:
    """Check the settings, then serve until told to stop."""
    try:
        settings = Settings()
    except ValidationError as error:
        faults = "\n".join(f"  UNCLIP_{str(e['loc'][0]).upper()}: {e['msg']}{_got(e)}" for e in error.errors())
        sys.exit(f"The settings will not do:\n{faults}")
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_level="info", proxy_headers=True)


def _got(fault: Any) -> str:
    """The value got, but for secrets, which do not belong in a log."""
    return "" if "secret" in str(fault["loc"][0]) else f", got {fault['input']!r}"


if __name__ == "__main__":
    main()
