"""`python -m unclip_client generate "a red cube" -o out.png`: the service's operations as commands."""

from __future__ import annotations

import argparse
import sys

from unclip_client import shell

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m unclip_client", description="Asks an unCLIP image service for images."
    )
    shell.add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    arguments = parser.parse_args()
    sys.exit(arguments.ask(arguments))
