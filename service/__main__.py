"""Command line of the service: `python -m service` serves HTTP, `… keys` manages API keys."""

from __future__ import annotations

import argparse
import gc
import sys

from infra import logging as logs
from infra import tracing
from infra.memory import return_freed_memory
from infra.settings import load_or_exit
from service import access_log, http_server
from service.api.problems import problem_response
from service.app import create_app
from service.errors import InvalidSetting
from service.security import cli
from service.security.headers import wrap_app
from service.settings import Settings


def main() -> None:
    """Run the command on the command line; without one, serve HTTP."""
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Without a command, the service is started."
    )
    parser.set_defaults(func=serve)
    cli.add_commands(parser.add_subparsers(title="commands", metavar="COMMAND"))
    arguments = parser.parse_args()
    sys.exit(arguments.func(arguments, load_or_exit(Settings)))


def serve(arguments: argparse.Namespace, settings: Settings) -> int:
    """Serve HTTP until a signal ends the process. Return the exit status."""
    return_freed_memory()
    logs.configure(
        settings.log_level, settings.log_format, "service", [access_log.add_request_fields]
    )
    access_log.skip_probes()
    try:
        tracing.start("unclip-service")
    except RuntimeError as error:
        sys.exit(str(error))
    try:
        app = create_app(settings)
    except InvalidSetting as error:
        sys.exit(f"Invalid settings:\n  {error}")
    asgi_app = wrap_app(app, settings, problem_response)
    # Objects from the start live as long as the process. Collections that scanned them would take
    # as long as several requests.
    gc.collect()
    gc.freeze()
    events = app.state.services.jobs.events
    http_server.serve(asgi_app, settings.host, settings.port, events.end_streams, events.end_waits)
    return 0


if __name__ == "__main__":
    main()
