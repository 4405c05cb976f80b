"""The Kubernetes manifests: valid by the API's schemas, and with few privileges."""

from __future__ import annotations

import tomllib
import warnings
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml
from support.docker_files import DOCKER, KUBERNETES, ROOT, kubernetes_objects, redis_options

from contracts import redis_keys
from contracts.redis_url import parse_sentinels
from service.settings import Settings as ServiceSettings
from worker.settings import Settings as WorkerSettings


def pods() -> dict[str, Any]:
    return {
        name: document["spec"]["template"]["spec"]
        for kind in ("Deployment", "StatefulSet")
        for name, document in kubernetes_objects(kind).items()
    }


@pytest.mark.parametrize(
    "document",
    KUBERNETES,
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_every_object_is_valid(document: dict[str, Any]) -> None:
    """By the schemas of the API, strictly: an unknown field is an error. KEDA has none there."""
    if document["apiVersion"].startswith("keda.sh/"):
        assert document["apiVersion"] == "keda.sh/v1alpha1"
        assert document["kind"] in ("ScaledObject", "TriggerAuthentication")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kubernetes_validate
    kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_a_kustomization_names_every_file_in_its_folder(name: str) -> None:
    """And every resource exists."""
    folder = DOCKER / "kubernetes" / name
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    resources = kustomization["resources"]
    assert [resource for resource in resources if not (folder / resource).exists()] == []
    files = {path.name for path in folder.glob("*.yaml")}
    assert files == {"kustomization.yaml", *(r for r in resources if r.endswith(".yaml"))}


def test_patches_apply() -> None:
    """What they change exists, or is appended to a list."""
    path = DOCKER / "kubernetes/gpu/kustomization.yaml"
    for patch in yaml.safe_load(path.read_text())["patches"]:
        document = kubernetes_objects(patch["target"]["kind"])[patch["target"]["name"]]
        for change in yaml.safe_load(patch["patch"]):
            *parents, last = change["path"].strip("/").split("/")
            target: Any = document
            for part in parents:
                target = target[int(part)] if isinstance(target, list) else target[part]
            if isinstance(target, list):
                assert last == "-"
            else:
                assert last in target


def test_configured_settings_exist() -> None:
    """The config map is for service and worker."""
    path = DOCKER / "kubernetes/base/kustomization.yaml"
    (generator,) = yaml.safe_load(path.read_text())["configMapGenerator"]
    names = {literal.partition("=")[0] for literal in generator["literals"]}
    fields = ServiceSettings.model_fields | WorkerSettings.model_fields
    assert {name.removeprefix("UNCLIP_").lower() for name in names} <= fields.keys()


@pytest.mark.parametrize("name", pods())
def test_a_pod_has_few_privileges(name: str) -> None:
    """A read-only file system, no capabilities, no token, probes and a memory limit."""
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    # Variables of a Service named unclip would count as settings.
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container.keys() >= {"startupProbe", "readinessProbe", "livenessProbe"}
    assert container["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}


def test_images_have_a_version() -> None:
    """`latest` is another image tomorrow."""
    path = DOCKER / "kubernetes/base/kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text())
    tags = {image["name"]: image["newTag"] for image in kustomization["images"]}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert tags == {"unclip-service": version, "unclip-worker": version}
    images = {pod["containers"][0]["image"] for pod in pods().values()}
    assert images == {*tags, "redis:7-bookworm"}


def test_the_service_requires_keys() -> None:
    """Every pod of the cluster may send requests to it."""
    path = DOCKER / "kubernetes/base/kustomization.yaml"
    (generator,) = yaml.safe_load(path.read_text())["configMapGenerator"]
    assert "UNCLIP_API_KEYS=required" in generator["literals"]


def test_the_service_reaches_no_private_address() -> None:
    """Webhooks and object stores are outside; the range of RFC 6598 may hold pods."""
    egress = kubernetes_objects("NetworkPolicy")["service"]["spec"]["egress"]
    (block,) = (peer["ipBlock"] for rule in egress for peer in rule["to"] if "ipBlock" in peer)
    excluded = [ip_network(text) for text in block["except"]]
    for address in ("10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.0.1"):
        assert any(ip_address(address) in network for network in excluded)
    assert not any(ip_address("192.0.2.1") in network for network in excluded)


def test_every_pod_has_a_disruption_budget() -> None:
    """Draining a node does not end all pods of a kind at once."""
    selectors = {
        name: budget["spec"]["selector"]
        for name, budget in kubernetes_objects("PodDisruptionBudget").items()
    }
    assert selectors == {
        name: {"matchLabels": {"app.kubernetes.io/name": name}}
        for name in ("redis", "unclip-service", "unclip-worker")
    }
    assert pods().keys() == selectors.keys()


def test_a_stopped_pod_has_time_to_finish() -> None:
    """A worker for its longest job, a service for its longest wait and the preStop pause."""
    defaults = ServiceSettings.model_fields
    worker = pods()["unclip-worker"]
    assert worker["terminationGracePeriodSeconds"] >= defaults["job_timeout_s"].default
    service = pods()["unclip-service"]
    assert service["terminationGracePeriodSeconds"] >= defaults["max_wait_s"].default + 10
    pause = service["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pause == ["sleep", "10"]


def test_keda_reads_the_queue() -> None:
    """By its key in Redis, in the database of service and worker, with Redis' password."""
    scaled = kubernetes_objects("ScaledObject")["unclip-worker"]["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "redis"
    assert trigger["metadata"]["listName"] == redis_keys.QUEUE_LIST
    assert int(trigger["metadata"]["listLength"]) > 0
    assert trigger["metadata"]["address"].startswith("redis.unclip.svc:")
    assert trigger["authenticationRef"]["name"] in kubernetes_objects("TriggerAuthentication")
    environment = {
        variable["name"]: variable.get("value")
        for variable in pods()["unclip-worker"]["containers"][0]["env"]
    }
    url = str(environment["UNCLIP_REDIS_URL"])
    assert parse_sentinels(url) is None
    assert url.endswith(f"@redis:6379/{trigger['metadata']['databaseIndex']}")


def test_keda_sets_the_number_of_workers() -> None:
    """The deployment does not, and one worker always remains."""
    scaled = kubernetes_objects("ScaledObject")["unclip-worker"]["spec"]
    assert scaled["minReplicaCount"] >= 1
    worker = kubernetes_objects("Deployment")[scaled["scaleTargetRef"]["name"]]
    assert "replicas" not in worker["spec"]


def test_only_service_worker_and_keda_reach_redis() -> None:
    """All other traffic is denied, both ways."""
    policies = kubernetes_objects("NetworkPolicy")
    assert policies["deny-all"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    (rule,) = policies["redis"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    own, keda = rule["from"]
    (expression,) = own["podSelector"]["matchExpressions"]
    assert expression["values"] == ["unclip-service", "unclip-worker"]
    labels = {"kubernetes.io/metadata.name": "keda"}
    assert keda == {"namespaceSelector": {"matchLabels": labels}}


def test_a_full_redis_refuses_instead_of_being_killed() -> None:
    """Its own limit is below the container's, with room to rewrite the append-only file."""
    container = pods()["redis"]["containers"][0]
    options = redis_options(["", *container["args"]])
    assert options["--requirepass"] == "$(REDISCLI_AUTH)"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--maxmemory"] == "3gb"
    assert container["resources"]["limits"]["memory"] == "4Gi"


def test_redis_writes_before_it_replies() -> None:
    """So an accepted job survives the loss of its node."""
    options = redis_options(pods()["redis"]["containers"][0]["command"])
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--dir"] == "/data"
