"""Requests and headers that tests share."""

from __future__ import annotations

from typing import Any

WAIT = {"prefer": "wait=60"}
WAIT_FOR_PNG = WAIT | {"accept": "image/png"}
CUBE: dict[str, Any] = {"prompt": "a red cube on top of a blue cube", "seed": 1, "size": 64}
