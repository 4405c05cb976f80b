"""`python -m service`: serve HTTP."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings


def main() -> None:
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
