"""What a worker publishes of its checkpoint's vocabulary."""

from __future__ import annotations

import json

import redis

from contracts import redis_keys
from devtools.redis_server import RedisServer
from models.checkpoints.checkpoint import Checkpoint
from models.vocabulary import DrawnName, Vocabulary
from worker.vocabulary import publish_vocabulary

VOCABULARY = Vocabulary(
    names=(
        DrawnName("dog face", "animals-nature", ("dog", "dog face")),
        DrawnName("dog", "animals-nature", ("dog",)),
    ),
    nouns={},
    other_words=frozenset(),
    examples=("a dog on grass",),
)


def test_names_and_examples_are_published(redis_server: RedisServer):
    checkpoint = Checkpoint("stickers", {}, vocabulary=VOCABULARY)
    with redis.Redis.from_url(redis_server.url) as connection:
        publish_vocabulary(checkpoint, connection)
        contents = json.loads(connection.get(redis_keys.vocabulary("stickers")))
    assert contents == {
        "checkpoint": "stickers",
        "names": ["dog"],
        "examples": ["a dog on grass"],
    }


def test_a_checkpoint_without_vocabulary_leaves_none(redis_server: RedisServer):
    with redis.Redis.from_url(redis_server.url) as connection:
        publish_vocabulary(Checkpoint("stickers", {}, vocabulary=VOCABULARY), connection)
        publish_vocabulary(Checkpoint("stickers", {}), connection)
        assert connection.get(redis_keys.vocabulary("stickers")) is None
