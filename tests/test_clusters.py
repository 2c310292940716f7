"""The cluster files are ones that Ray and KubeRay accept, and none lets strangers run code."""

import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raydaa.generation.serving import Serving
from raydaa.settings import ScalingSettings

CLUSTERS = Path(__file__).parent.parent / "clusters"
LAUNCHED = ["aws-a100.yaml", "gcp-a100.yaml", "on-premise.yaml"]
KUBERAY = ["kuberay-cluster.yaml", "kuberay-job.yaml"]
SERVED = "serve.yaml"

# Of KubeRay's custom resources, as its API reference lists them.
JOB_FIELDS = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}
CLUSTER_FIELDS = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "upgradeStrategy",
    "workerGroupSpecs",
}
HEAD_FIELDS = {
    "enableIngress",
    "headService",
    "labels",
    "rayStartParams",
    "resources",
    "serviceType",
    "template",
}
WORKER_FIELDS = {
    "groupName",
    "idleTimeoutSeconds",
    "labels",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "resources",
    "scaleStrategy",
    "suspend",
    "template",
}


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))
    return found


def cluster(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = loaded(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def test_every_file_is_looked_at() -> None:
    assert {path.name for path in CLUSTERS.glob("*.yaml")} == {*LAUNCHED, *KUBERAY, SERVED}


def test_ray_serve_takes_it_and_it_listens_to_this_machine_alone() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(loaded(SERVED))
    assert config.http_options.host == "127.0.0.1"
    assert [application.import_path for application in config.applications] == ["raydaa.generation.server:app"]
    Serving.model_validate(config.applications[0].args)


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_launcher_takes_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(loaded(name)))


def test_rays_launcher_would_refuse_a_typo() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**loaded("aws-a100.yaml"), "max_worker": 3}))


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launched_cluster_keeps_its_ports_to_itself(name: str) -> None:
    config = loaded(name)
    starts = [c for key in ("head", "worker") for c in config[f"{key}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in config["file_mounts"]
    # A rule of one's own for incoming traffic would open what Ray leaves closed.
    assert set(config["provider"].get("security_group", {})) <= {"GroupName"}


@pytest.mark.parametrize("name", ["aws-a100.yaml", "gcp-a100.yaml"])
def test_gpus_are_paid_for_only_while_trials_wait(name: str) -> None:
    config = loaded(name)
    head, workers = (config["available_node_types"][kind] for kind in ("head", "a100"))
    assert workers["min_workers"] == 0 < workers["max_workers"]
    assert "spot" in str(workers["node_config"]).lower()
    assert "spot" not in str(head["node_config"]).lower()
    assert head["resources"]["CPU"] == 0


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_knows_its_fields(name: str) -> None:
    tree, spec = loaded(name), cluster(name)
    assert tree["apiVersion"] == "ray.io/v1"
    assert tree["kind"] == ("RayJob" if "job" in name else "RayCluster")
    assert set(tree["spec"]) <= (JOB_FIELDS if "job" in name else CLUSTER_FIELDS)
    assert set(spec) <= CLUSTER_FIELDS
    assert set(spec["headGroupSpec"]) <= HEAD_FIELDS
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # KubeRay takes no numbers
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} <= volumes


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_keeps_its_ports_to_itself(name: str) -> None:
    spec = cluster(name)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not spec["headGroupSpec"].get("enableIngress")
    assert not re.search("LoadBalancer|NodePort|hostNetwork", (CLUSTERS / name).read_text())


def test_both_manifests_start_the_same_cluster() -> None:
    assert cluster("kuberay-cluster.yaml") == cluster("kuberay-job.yaml")


@pytest.mark.parametrize("name", KUBERAY)
def test_the_manifests_name_the_installed_ray(name: str) -> None:
    assert cluster(name)["rayVersion"] == ray.__version__


def test_workers_offer_the_accelerator_that_a_study_asks_for() -> None:
    offered = loaded("aws-a100.yaml")["available_node_types"]["a100"]["resources"]
    assert f"accelerator_type:{ScalingSettings(accelerator='A100-80G').accelerator}" in offered
