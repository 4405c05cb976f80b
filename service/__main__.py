"""`python -m service`: serve HTTP. `python -m service keys`: the API keys. With an operation: ask a service that runs."""

from __future__ import annotations

import argparse
import gc
import sys

import uvicorn

from infra import logging as logs
from infra import tracing
from infra.settings import load_or_exit
from service import access_log
from service.app import create_app
from service.security import cli
from service.settings import Settings


def main() -> None:
    """Check the settings, then serve until told to stop, or do what the command says."""
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Without a command, the service is started."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    cli.add(commands)
    arguments = parser.parse_args()
    settings = load_or_exit(Settings)
    if hasattr(arguments, "run"):
        sys.exit(arguments.run(arguments, settings))
    logs.configure(
        settings.log_level, settings.log_format, "service", [access_log.add_request_fields]
    )
    access_log.skip_probes()
    try:
        tracing.start("unclip-service")
    except RuntimeError as error:
        sys.exit(str(error))
    app = create_app(settings)
    gc.collect()
    gc.freeze()  # what is there from the start stays: no collection looks at it again, which took as long as several requests
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None, proxy_headers=True)


if __name__ == "__main__":
    main()
