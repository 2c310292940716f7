"""The cluster files are ones that Ray and KubeRay accept, and none lets strangers run code."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raydaa.generation.serving import Serving
from raydaa.settings.scaling import ScalingSettings

CLUSTERS = Path(__file__).parent.parent / "clusters"
PROJECT = (CLUSTERS.parent / "pyproject.toml").read_text(encoding="utf-8")
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


RECORDER = """#!/bin/sh
printf '%s\\n' "$(basename "$0")" "$@" "" >> "{calls}"
"""


def set_up(name: str, key: str, home: Path) -> list[list[str]]:
    """What the commands of ``key`` call, run as Ray runs them on a node: by a login shell, with this HOME."""
    calls, tools = home / "calls", home / "tools"
    for tool in (tools / "sudo", tools / "curl", tools / "mountpoint", home / ".local" / "bin" / "uv"):
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(RECORDER.format(calls=calls))
        tool.chmod(0o755)
    (home / ".bash_profile").write_text(f"export PATH={tools}:/usr/bin:/bin\n")
    calls.touch()
    for command in loaded(name)[key]:
        run = ["bash", "--login", "-c", "-i", command]
        done = subprocess.run(run, env={"HOME": str(home)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    return [call.splitlines() for call in calls.read_text().split("\n\n") if call]


@pytest.mark.parametrize("name", LAUNCHED)
def test_setting_up_a_node_installs_the_project(name: str, tmp_path: Path) -> None:
    calls = set_up(name, "setup_commands", tmp_path)
    uv = [call[1:] for call in calls if call[0] == "uv"]
    (python,) = (call for call in uv if call[0] == "venv")
    (project,) = (call for call in uv if call[:2] == ["pip", "install"])
    required = re.search(r'requires-python = ">=3\.(\d+)"', PROJECT)
    assert required is not None
    assert int(python[python.index("--python") + 1].removeprefix("3.")) >= int(required[1])
    assert python[-1] == project[project.index("--python") + 1] == str(tmp_path / "env")
    folder, extras = re.fullmatch(r"(.*)\[(.*)\]", project[project.index("-e") + 1]).groups()  # type: ignore[union-attr]
    assert folder == str(tmp_path / "raydaa")
    assert "~/raydaa" in loaded(name)["file_mounts"]
    assert set(extras.split(",")) <= set(tomllib.loads(PROJECT)["project"]["optional-dependencies"])
    path = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; echo $PATH"], env={"HOME": str(tmp_path)}, capture_output=True, check=True
    )
    assert path.stdout.decode().startswith(f"{tmp_path}/env/bin:")


@pytest.mark.parametrize(("name", "sdk"), [("aws-a100.yaml", "boto3"), ("gcp-a100.yaml", "google-api-python-client")])
def test_the_head_can_start_workers(name: str, sdk: str, tmp_path: Path) -> None:
    (call,) = set_up(name, "head_setup_commands", tmp_path)
    assert call == ["uv", "pip", "install", "-q", "--python", str(tmp_path / "env"), sdk]


@pytest.mark.parametrize("name", ["aws-a100.yaml", "gcp-a100.yaml"])
def test_images_have_a_driver_for_cuda_13(name: str) -> None:
    """Ubuntu 24.04's images of both clouds have 580 or newer; without a name Ray takes one of Ubuntu 18.04."""
    for kind in loaded(name)["available_node_types"].values():
        assert re.search(r"ubuntu-24\.04/latest|ubuntu-2404-nvidia-580", str(kind["node_config"]))


def launched(name: str, waiting: list[dict[str, float]]) -> dict[str, int]:
    """The nodes that Ray's own scheduler starts beside a running head for a group with these bundles."""
    from ray.autoscaler import tags
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
    from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.core.generated.common_pb2 import Bundle, PlacementStrategy
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    config = prepare_config(loaded(name))
    validate_config(config)

    class Provider:
        """A cloud where the head is all there is."""

        def non_terminated_nodes(self, _: Any) -> list[str]:
            return ["head"]

        def node_tags(self, _: str) -> dict[str, str]:
            return {
                tags.TAG_RAY_NODE_KIND: tags.NODE_KIND_HEAD,
                tags.TAG_RAY_USER_NODE_TYPE: config["head_node_type"],
                tags.TAG_RAY_NODE_STATUS: tags.STATUS_UP_TO_DATE,
            }

        def internal_ip(self, _: str) -> str:
            return "10.0.0.10"

    group = PlacementGroupTableData(
        state=PlacementGroupTableData.PENDING,
        strategy=PlacementStrategy.PACK,
        bundles=[Bundle(unit_resources=each) for each in waiting],
    )
    scheduler = ResourceDemandScheduler(
        Provider(),
        config["available_node_types"],
        config["max_workers"],
        config["head_node_type"],
        config["upscaling_speed"],
    )
    head = {"10.0.0.10": {"memory": 1e10, "node:10.0.0.10": 1.0}}
    nodes, _ = scheduler.get_nodes_to_launch(["head"], {}, [], head, [group], head, [], NodeAvailabilitySummary({}))
    return dict(nodes)


@pytest.mark.parametrize("workers", [8, 1])
@pytest.mark.parametrize("name", LAUNCHED)
def test_a_trial_that_waits_starts_its_machine(name: str, workers: int) -> None:
    """Machines that are there already are all started at once: Ray knows nothing of what they have before."""
    trial = {"CPU": 1.0, "GPU": 1.0, "accelerator_type:A100-80G": 0.001}
    nodes = launched(name, [trial] * workers)
    assert nodes == ({"local.cluster.node": 2} if name == "on-premise.yaml" else {"a100": 1})


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
