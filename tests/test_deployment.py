"""The files that put the house somewhere: dashboards and alerts ask for metrics that exist, and containers may do no more than they need.

What they do when run is tried with `docker compose up`; here they are read.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

from contracts import redis_keys
from contracts.redis_url import parse_sentinels
from service.api.metrics import Facts, Metrics, Snapshot
from service.settings import Settings as ServiceSettings
from worker import metrics as worker_metrics
from worker.engine.core import Engine, batch_limits
from worker.settings import Settings as WorkerSettings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DASHBOARD = json.loads((DOCKER / "grafana/dashboards/unclip.json").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OWN = ("redis", "service", "worker")
SCRAPED = {
    "up",
    "process_resident_memory_bytes",
}  # Prometheus' own, and its client's where there is a /proc
PROMTOOL = shutil.which("promtool")


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of every metric that service and worker tell, by the names that queries use."""
    facts = Facts(waiting=1, running=1, head_age=1.0, workers=1, slots=1, last_beat=1.0, webhooks=1)
    service = Metrics()
    service.webhook("delivered")
    service.requests.labels("GET", "/healthz", 200)
    service.seconds.labels("GET", "/healthz")
    worker_metrics.watch(Engine(None, batch_limits(1)))  # type: ignore[arg-type]
    worker_metrics.waited("generate", 1.0)
    worker_metrics.drawn("generate", 1.0)
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in {
            "mem_get_info": (1, 2),
            "memory_reserved": 1,
            "memory_allocated": 1,
        }.items():
            patch.setattr(f"torch.cuda.{name}", lambda device, answer=answer: answer)
        families = [*service.registry.collect(), *Snapshot(facts).collect(), *REGISTRY.collect()]
        families += worker_metrics.GpuMemory("cuda:0").collect()
        found: dict[str, set[str]] = {}
        for family in families:
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    found["unclip_build_info"] |= {"component", "version", "torch", "checkpoint", "device"}
    return found


def queries() -> Iterator[tuple[str, str]]:
    """All of them, with where they stand. Grafana's variables have values."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    yield from ((rule["alert"], rule["expr"]) for rule in ALERTS)


def selectors(node: Any) -> Iterator[Any]:
    """The metrics that a query reads."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


@pytest.mark.parametrize(
    ("where", "query"),
    [pytest.param(*each, id=f"{each[0]}-{index}") for index, each in enumerate(queries())],
)
def test_every_query_reads_metrics_and_labels_that_exist(
    known: dict[str, set[str]], where: str, query: str
) -> None:
    """Of the dashboard and the alerts, as PromQL's own parser reads them."""
    read = list(selectors(promql_parser.parse(query)))
    assert read, where
    for selector in read:
        assert selector.name in known.keys() | SCRAPED, selector.name
        labels = {matcher.name for matcher in selector.matchers.matchers} - {"job", "instance"}
        assert labels <= known.get(selector.name, set()), (selector.name, labels)
    grouped = {
        label for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(", ")
    } - {"job", "instance"}
    assert grouped <= set().union(*(known.get(selector.name, set()) for selector in read)), grouped


def test_every_metric_of_ours_is_looked_at(known: dict[str, set[str]]) -> None:
    """By the dashboard or an alert, or it is told for nothing."""
    read = {
        selector.name
        for _, query in queries()
        for selector in selectors(promql_parser.parse(query))
    }
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in known
        if name.startswith("unclip_") and not name.endswith("_created")
    }
    assert ours == {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in read if name.startswith("unclip_")
    }


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Its rows, unique panels that do not lie on each other, and the data source that is provisioned."""
    panels = DASHBOARD["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Traffic",
        "Queue",
        "Engine",
        "Failures",
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(x, y) for p in panels for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
              for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]  # fmt: skip
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    (source,) = yaml.safe_load(
        (DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    used = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert used == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]
    (provider,) = yaml.safe_load(
        (DOCKER / "grafana/provisioning/dashboards/unclip.yml").read_text()
    )["providers"]
    mounts = dict(
        volume.split(":")[:2][::-1] for volume in COMPOSE["services"]["grafana"]["volumes"]
    )
    assert (ROOT / mounts[provider["options"]["path"]] / "unclip.json").exists()


def test_every_alert_says_what_is_wrong_and_how_bad() -> None:
    """With no field that Prometheus does not know."""
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
def test_promtool_agrees(command: list[str]) -> None:
    """The rules are well formed, and fire when they should and not else."""
    ended = subprocess.run(
        [str(PROMTOOL), *command],
        cwd=DOCKER / "prometheus",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_finds_every_process_where_it_listens() -> None:
    """By the names and ports of the compose file."""
    jobs = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    found = {
        (job["job_name"], *job["dns_sd_configs"][0]["names"], job["dns_sd_configs"][0]["port"])
        for job in jobs
    }
    worker_port = COMPOSE["services"]["worker"]["environment"]["UNCLIP_WORKER_METRICS_PORT"]
    assert found == {("service", "service", 8000), ("worker", "worker", worker_port)}
    assert COMPOSE["services"]["service"]["ports"][0].endswith(":8000")
    assert all(
        "inside" in COMPOSE["services"][name]["networks"]
        for name in ("service", "worker", "prometheus")
    )


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_may_do_no_more_than_it_needs(name: str) -> None:
    """Nothing is writable but what has to be, no privileges, logs that end, time to stop, and a port on this machine only."""
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["stop_grace_period"]
    assert service["tmpfs"]
    assert set(service.get("cap_add", ())) <= (
        {"CHOWN", "SETGID", "SETUID"} if name == "redis" else set()
    )
    assert all(
        port.startswith(("127.0.0.1:", "${UNCLIP_HOST:-127.0.0.1}:"))
        for port in service.get("ports", ())
    )
    assert (
        "healthcheck" in service
        or "HEALTHCHECK" in (ROOT / service["build"]["dockerfile"]).read_text()
    )
    assert ("monitoring" in service.get("profiles", ())) == (name not in OWN)


@pytest.mark.parametrize("name", ["service", "worker"])
def test_an_image_runs_as_nobody_and_holds_its_own_floors(name: str) -> None:
    """The service's holds no torch and no models."""
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "STOPSIGNAL SIGTERM" in last
    floors = set(
        re.findall(r"^COPY (contracts|models|service|worker|training) ", text, re.MULTILINE)
    )
    assert floors == (
        {"contracts", "service"} if name == "service" else {"contracts", "models", "worker"}
    )
    assert set(re.findall(r"optional-dependencies'\]\['(\w+)'\]", text)) == {
        "store",
        "telemetry",
    } | ({"service"} if name == "service" else {"worker", "upsampling"})


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.yml")), ids=lambda path: path.stem)
def test_every_setting_that_a_compose_file_names_exists(path: Path) -> None:
    """In the main file as in those laid over it."""
    fields = ServiceSettings.model_fields | WorkerSettings.model_fields
    for text in (path.read_text(), (ROOT / "docker-compose.yml").read_text()):
        assert {
            name.lower() for name in re.findall(r"^ +UNCLIP_(\w+):", text, re.MULTILINE)
        } <= fields.keys()


KUBERNETES = [
    document
    for path in sorted((DOCKER / "kubernetes/base").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


def of(kind: str) -> dict[str, Any]:
    """Kubernetes' objects of a kind, by name."""
    return {
        document["metadata"]["name"]: document
        for document in KUBERNETES
        if document["kind"] == kind
    }


@pytest.mark.parametrize(
    "document",
    KUBERNETES,
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_kubernetes_takes_every_object(document: dict[str, Any]) -> None:
    """By the schemas of its own API, strictly: an unknown field is an error. KEDA's objects have none there."""
    if document["apiVersion"].startswith("keda.sh/"):
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        assert document["kind"] in ("ScaledObject", "TriggerAuthentication")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kubernetes_validate
    kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_a_kustomization_names_every_file_beside_it(name: str) -> None:
    """And what it patches is there."""
    folder = DOCKER / "kubernetes" / name
    found = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert all((folder / resource).exists() for resource in found["resources"])
    assert {path.name for path in folder.glob("*.yaml")} == {"kustomization.yaml"} | {
        r for r in found["resources"] if r.endswith(".yaml")
    }
    for patch in found.get("patches", ()):
        target = of(patch["target"]["kind"])[patch["target"]["name"]]
        for change in yaml.safe_load(patch["patch"]):
            at: Any = target
            for part in change["path"].strip("/").split("/")[:-1]:
                at = at[int(part)] if isinstance(at, list) else at[part]
            assert isinstance(at, list) or change["path"].rpartition("/")[2] in at


def test_pods_may_do_no_more_than_they_need() -> None:
    """As the compose file's containers; and each has probes and bounds."""
    pods = {
        name: one["spec"]["template"]["spec"]
        for kind in ("Deployment", "StatefulSet")
        for name, one in of(kind).items()
    }
    assert pods.keys() == {"redis", "unclip-service", "unclip-worker"}
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"]
        assert not locked["allowPrivilegeEscalation"]
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert container.keys() >= {"startupProbe", "readinessProbe", "livenessProbe", "resources"}
        assert container["resources"]["limits"]["memory"]
    budgets = {
        name: budget["spec"]["selector"] for name, budget in of("PodDisruptionBudget").items()
    }
    assert budgets == {name: {"matchLabels": {"app.kubernetes.io/name": name}} for name in pods}


def test_a_worker_has_the_time_to_end_its_jobs() -> None:
    """A job's longest, in Kubernetes and in the compose file."""
    longest = ServiceSettings.model_fields["job_timeout"].default
    assert (
        of("Deployment")["unclip-worker"]["spec"]["template"]["spec"][
            "terminationGracePeriodSeconds"
        ]
        >= longest
    )
    assert COMPOSE["services"]["worker"]["stop_grace_period"] == f"{longest // 60}m"
    service = of("Deployment")["unclip-service"]["spec"]["template"]["spec"]
    assert (
        service["terminationGracePeriodSeconds"]
        >= ServiceSettings.model_fields["max_wait"].default + 10
    )
    assert service["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]


def test_keda_looks_at_the_queue_that_there_is() -> None:
    """By its name in Redis, in the database that service and worker use, with Redis' password; what it scales leaves the number to it."""
    scaled = of("ScaledObject")["unclip-worker"]["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "redis"
    assert trigger["metadata"]["listName"] == redis_keys.QUEUE_LIST
    assert int(trigger["metadata"]["listLength"]) > 0
    assert scaled["minReplicaCount"] >= 1
    worker = of("Deployment")[scaled["scaleTargetRef"]["name"]]
    assert "replicas" not in worker["spec"]
    environment = {
        one["name"]: one.get("value")
        for one in worker["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    url = str(environment["UNCLIP_REDIS_URL"])
    assert parse_sentinels(url) is None
    assert url.endswith(f"@redis:6379/{trigger['metadata']['databaseIndex']}")
    assert trigger["metadata"]["address"].startswith("redis.unclip.svc:")
    assert trigger["authenticationRef"]["name"] in of("TriggerAuthentication")


def test_only_those_who_need_redis_reach_it() -> None:
    """Everything is closed at first, both ways."""
    policies = of("NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = policies["redis"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    assert rule["from"][0]["podSelector"]["matchExpressions"][0]["values"] == [
        "unclip-service",
        "unclip-worker",
    ]
    assert rule["from"][1] == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}
    }


def test_redis_is_told_to_write_before_it_answers() -> None:
    """In Kubernetes as in the compose file."""
    for command in (
        COMPOSE["services"]["redis"]["command"],
        of("StatefulSet")["redis"]["spec"]["template"]["spec"]["containers"][0]["command"],
    ):
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--appendfsync"] == "always"
        assert options["--dir"] == "/data"
