"""Publish what the checkpoint knows, for the service to offer."""

from __future__ import annotations

import json

import redis

from contracts import redis_keys
from models.checkpoints.checkpoint import Checkpoint


def publish_vocabulary(checkpoint: Checkpoint, connection: redis.Redis) -> None:
    """Write the checkpoint's vocabulary to Redis; without one, remove what an earlier one wrote."""
    key = redis_keys.vocabulary(checkpoint.name)
    vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        connection.delete(key)
        return
    contents = {
        "checkpoint": checkpoint.name,
        "names": list(dict.fromkeys(name.words[0] for name in vocabulary.names)),
        "examples": list(vocabulary.examples),
    }
    connection.set(key, json.dumps(contents, ensure_ascii=False))
