"""Dashboard and alerts read metrics that service and worker expose."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import redis
import yaml
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families
from support.docker_files import COMPOSE, DOCKER, ROOT

from contracts import redis_keys
from devtools.redis_server import RedisServer
from models.stages import STAGE_NAMES
from service.app import create_app
from service.settings import Settings
from worker import metrics as worker_metrics

DASHBOARD = json.loads((DOCKER / "grafana/dashboards/unclip.json").read_text())
PANELS = DASHBOARD["panels"]
ALERTS = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
# Prometheus' own metric, and its client's on Linux.
FOREIGN = {"up", "process_resident_memory_bytes"}
SCRAPE_LABELS = {"job", "instance"}
PROMTOOL = shutil.which("promtool")


async def service_metrics(redis_url: str) -> list[Metric]:
    """Return the metrics of a service that has attempted one webhook."""
    app = create_app(Settings(redis_url=redis_url))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await client.get("/jobs")
        for _ in range(100):
            text = (await client.get("/metrics")).text
            if "unclip_webhook_attempts_total{" in text:
                break
            await asyncio.sleep(0.1)
    return list(text_string_to_metric_families(text))


def worker_metric_families() -> list[Metric]:
    """Return the metrics of a worker with a GPU."""
    worker_metrics.watch_engine(lambda: 0, dict.fromkeys(STAGE_NAMES, 1))
    worker_metrics.observe_queue_wait("generate", 1.0)
    worker_metrics.observe_job("generate", 1.0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("mem_get_info", (1, 2)),
            ("memory_reserved", 1),
            ("memory_allocated", 1),
        ):
            patch.setattr(f"torch.cuda.{name}", lambda device, value=value: value)
        gpu = list(worker_metrics.GpuMemoryCollector("cuda:0").collect())
    return [*REGISTRY.collect(), *gpu]


def labels_by_name(families: Iterable[Metric]) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every metric of service and worker, by the metric's name."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    with redis.Redis.from_url(server.url) as connection:
        connection.set(redis_keys.LAST_HEARTBEAT, time.time())
        connection.sadd(redis_keys.WEBHOOKS, "key:a")
        connection.zadd(redis_keys.webhooks("key:a"), {"gone:succeeded": 0})
    families = asyncio.run(service_metrics(server.url)) + worker_metric_families()
    server.stop()
    labels = labels_by_name(families)
    # The worker sets its own when it starts.
    labels["unclip_build_info"] |= {"component", "version", "torch", "checkpoint", "device"}
    return labels


def queries() -> Iterator[tuple[str, str]]:
    """Yield each query with the title of its panel or alert; Grafana's variables have values."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


def selectors(node: Any) -> Iterator[Any]:
    """Yield the metrics that a query reads."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def base_name(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize(
    ("title", "query"),
    [pytest.param(*pair, id=f"{pair[0]}-{index}") for index, pair in enumerate(queries())],
)
def test_every_query_reads_existing_metrics_and_labels(
    exposed: dict[str, set[str]], title: str, query: str
) -> None:
    """Of the dashboard and the alerts, as PromQL's parser reads them."""
    metrics = list(selectors(promql_parser.parse(query)))
    assert metrics
    for selector in metrics:
        assert selector.name in exposed.keys() | FOREIGN
        labels = {matcher.name for matcher in selector.matchers.matchers} - SCRAPE_LABELS
        assert labels <= exposed.get(selector.name, set())
    grouped = {
        label.strip()
        for labels in re.findall(r"by \(([^)]*)\)", query)
        for label in labels.split(",")
    }
    available = set().union(*(exposed.get(selector.name, set()) for selector in metrics))
    assert grouped - SCRAPE_LABELS <= available


def test_every_metric_is_read(exposed: dict[str, set[str]]) -> None:
    """By the dashboard or an alert."""
    own = {
        base_name(name)
        for name in exposed
        if name.startswith("unclip_") and not name.endswith("_created")
    }
    names = {
        base_name(selector.name)
        for _, query in queries()
        for selector in selectors(promql_parser.parse(query))
    }
    assert own == {name for name in names if name.startswith("unclip_")}


def test_panels_do_not_overlap() -> None:
    """Grafana's grid has 24 columns."""
    cells = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in PANELS)
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_dashboard_has_its_rows() -> None:
    """Traffic, queue, engine and failures."""
    titles = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert titles == ["Traffic", "Queue", "Engine", "Failures"]


def test_grafana_finds_dashboard_and_data_source() -> None:
    """They are provisioned where the compose file mounts them."""
    folder = DOCKER / "grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())
    (source,) = sources["datasources"]
    used = {target["datasource"]["uid"] for panel in PANELS for target in panel.get("targets", ())}
    assert used == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]
    providers = yaml.safe_load((folder / "dashboards/unclip.yml").read_text())
    (provider,) = providers["providers"]
    mounts = {}
    for volume in COMPOSE["services"]["grafana"]["volumes"]:
        host_path, container_path = volume.split(":")[:2]
        mounts[container_path] = host_path
    path = Path(mounts[provider["options"]["path"]])
    assert (ROOT / path / "unclip.json").exists()


def test_every_alert_has_severity_and_text() -> None:
    """And no field that Prometheus does not know."""
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Debian's package prometheus")
@pytest.mark.parametrize(
    "command",
    [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
    ids="-".join,
)
def test_promtool_accepts_the_alerts(command: list[str]) -> None:
    """They are well formed, and fire when they should and only then."""
    result = subprocess.run(
        [str(PROMTOOL), *command],
        cwd=DOCKER / "prometheus",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_scrapes_every_process() -> None:
    """By the names, ports and networks of the compose file."""
    config = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    targets = {
        (job["job_name"], *job["dns_sd_configs"][0]["names"], job["dns_sd_configs"][0]["port"])
        for job in config["scrape_configs"]
    }
    services = COMPOSE["services"]
    worker_port = services["worker"]["environment"]["UNCLIP_WORKER_METRICS_PORT"]
    assert targets == {("service", "service", 8000), ("worker", "worker", worker_port)}
    assert services["service"]["ports"][0].endswith(":8000")
    for name in ("service", "worker", "prometheus"):
        assert "metrics" in services[name]["networks"]
    # A process that reaches Redis can run jobs.
    assert "inside" not in services["prometheus"]["networks"]
