"""The version of this installation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the version of the package; "unknown" in a checkout that is not installed."""
    try:
        return version("unclip-service")
    except PackageNotFoundError:
        return "unknown"
