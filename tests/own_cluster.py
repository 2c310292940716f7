"""A Ray cluster of several nodes on this machine: own ports, own folder, own token."""

import contextlib
import json
import random
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.command import Command

PROJECT = Path(__file__).parent.parent


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, below those that connections are given."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 12_000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")


class OwnCluster(Command):
    """A head without CPUs, as on a cluster that has scaled to nothing; nodes come and go.

    With ``scales`` Ray's autoscaler adds a node of two CPUs when work waits for one.
    """

    def __init__(self, folder: Path, scales: bool = False) -> None:
        super().__init__(folder)
        self.port, self.dashboard, client, agent = free_ports(4)
        token = folder / "token"
        token.write_text(secrets.token_hex(16))
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{self.environment['PATH']}"  # `python` is this one
        self.nodes: list[subprocess.Popen[bytes]] = []
        ports = [f"--port={self.port}", f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={client}"]
        ports += [f"--dashboard-agent-listen-port={agent}", "--dashboard-host=127.0.0.1"]
        if scales:
            self.environment["RAY_FAKE_CLUSTER"] = "1"
            ports.append(f"--autoscaling-config={self._autoscaler()}")
        self._ray("start", "--head", "--num-cpus=0", "--num-gpus=0", *ports)
        self._wait_until_ready()

    def _autoscaler(self) -> Path:
        """The file of a cluster whose provider starts its nodes on this machine."""
        provider = {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{self.port}"}
        provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        worker = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1}
        config = {
            "cluster_name": "own",
            "max_workers": 1,
            "idle_timeout_minutes": 10,
            "provider": provider,
            "auth": {"ssh_user": "nobody"},
            "available_node_types": {"head": head, "worker": worker},
            "head_node_type": "head",
        }
        for name in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
            config[f"{name}_commands"] = []
        config |= {"file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False}
        config |= {"rsync_exclude": [], "rsync_filter": [], "upscaling_speed": 1.0}
        path = self.folder / "autoscaler.json"
        path.write_text(json.dumps(config))
        return path

    def _ray(self, *arguments: str) -> subprocess.Popen[bytes]:
        own = self.ray / str(len(self.nodes))  # one folder for all would have them unpack the project over each other
        options = ["--block", "--node-ip-address=127.0.0.1", f"--temp-dir={own}", "--disable-usage-stats"]
        command = [str(Path(sys.executable).with_name("ray")), *arguments, *options]
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        quiet = {"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        self.nodes.append(subprocess.Popen(command, cwd=self.folder, env=self.environment, **quiet))
        return self.nodes[-1]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.dashboard), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "node-0.log").read_text()
                time.sleep(0.2)

    def add_node(self, cpus: int) -> subprocess.Popen[bytes]:
        """One node more."""
        return self._ray("start", f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}", "--num-gpus=0")

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """A node goes without a word: all its processes are killed."""
        import psutil

        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            process.kill()
        node.wait(60)

    def submit(self, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """``ray job submit`` of the project as it lies here; it need not be installed on the nodes."""
        return subprocess.run(
            self.submission(*entrypoint),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=self.folder,
            check=False,
        )

    def submission(self, *entrypoint: str) -> list[str]:
        """The command line of `submit`."""
        ray = str(Path(sys.executable).with_name("ray"))
        options = [f"--address=http://127.0.0.1:{self.dashboard}", f"--working-dir={PROJECT}"]
        return [ray, "job", "submit", *options, "--", *entrypoint]

    def close(self) -> None:
        """All nodes go; nothing stays."""
        for node in reversed(self.nodes):  # asked politely they would take leave of each other for half a minute
            if node.poll() is None:
                self.lose(node)
        left = self.wait_until_gone()
        assert left == {}, left
