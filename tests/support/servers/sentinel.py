"""A Redis master with two replicas and one Sentinel, on free ports of this machine."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis

from devtools.ports import free_port
from devtools.redis_server import redis_binary
from devtools.wait import wait_until


class SentinelCluster:
    """Three servers that refuse writes without a replica, and the Sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(3)]
        self.sentinel_port = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel_port}/m/0"
        self.servers: list[subprocess.Popen[bytes]] = []
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        first = self.ports[0]
        common = ["min-replicas-to-write 1", "min-replicas-max-lag 3", "repl-diskless-sync-delay 0"]
        self.servers.append(self._start(first, *common))
        for port in self.ports[1:]:
            self.servers.append(self._start(port, *common, f"replicaof 127.0.0.1 {first}"))
        self._start(
            self.sentinel_port,
            f"sentinel monitor m 127.0.0.1 {first} 1",
            "sentinel down-after-milliseconds m 2000",
            "sentinel failover-timeout m 10000",
            mode=("--sentinel",),
        )
        self.sentinel = self._exits.enter_context(
            redis.Redis(port=self.sentinel_port, decode_responses=True)
        )
        wait_until(self._is_complete, "the Sentinel sees both replicas")
        wait_until(lambda: self.num_replicas(first) == 2, "both replicas are connected")
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def master_port(self) -> int:
        """Return the port of the present master, as the Sentinel names it."""
        return int(self.sentinel.sentinel_get_master_addr_by_name("m")[1])

    def fail_over(self) -> None:
        """Order a planned failover, and return once another server is the master."""
        before = self.master_port()
        wait_until(lambda: _value(self.sentinel.execute_command, "SENTINEL FAILOVER m"))
        wait_until(lambda: self.master_port() != before)

    def num_replicas(self, port: int) -> int:
        """Return how many replicas a server has."""
        with redis.Redis(port=port) as server:
            return int((_value(server.info, "replication") or {}).get("connected_slaves", 0))

    def _is_complete(self) -> bool:
        replicas = _value(self.sentinel.sentinel_slaves, "m") or ()
        return len(replicas) == 2 and bool(
            _value(self.sentinel.execute_command, "SENTINEL CKQUORUM m")
        )

    def _start(self, port: int, *lines: str, mode: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        folder = self.folder / str(port)
        folder.mkdir()
        config = folder / "redis.conf"
        common = [f"port {port}", "bind 127.0.0.1", f"dir {folder}"]
        config.write_text("\n".join([*common, *lines]))
        process = subprocess.Popen([redis_binary(), str(config), *mode], stdout=subprocess.DEVNULL)
        self._exits.callback(process.wait)
        self._exits.callback(process.kill)
        with redis.Redis(port=port) as server:
            wait_until(lambda: _value(server.ping), "a server answers")
        return process


def _value(command: Any, *arguments: Any) -> Any:
    """Return the reply to a command, None if it fails."""
    try:
        return command(*arguments)
    except redis.RedisError:
        return None
