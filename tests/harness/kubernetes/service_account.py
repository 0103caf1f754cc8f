"""Lets a program find what it would in a pod: its service account's files in their place, and the API server.

So a configuration runs exactly as it is shipped. The files are mounted in a mount namespace of the program's own; the
machine's directory stays as it is.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from harness.kubernetes.cluster import Cluster

HERE = Path("/var/run").resolve()
"""Mounts hide what lies below; nothing that is tested needs a daemon's socket."""


def mounts() -> list[str]:
    """The command in which root may mount, and which becomes the command behind it."""
    return ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]


def why_not() -> str:
    """Why nothing can be mounted here; empty where it can."""
    done = subprocess.run(
        [*mounts(), "mount", "-t", "tmpfs", "none", HERE], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"unshare --mount is refused here: {done.stderr.strip()}"


def in_pod(cluster: Cluster, account: str, namespace: str, directory: Path) -> tuple[list[str | Path], dict[str, str]]:
    """What to put before a command, and its variables, so that it runs as a pod of this account."""
    directory.mkdir()
    (directory / "token").write_text(cluster.token_of(account, namespace))
    (directory / "ca.crt").write_bytes(cluster.ca.read_bytes())
    (directory / "namespace").write_text(namespace)
    at = urlsplit(cluster.url)
    secrets = HERE / "secrets/kubernetes.io"
    script = f'mount -t tmpfs none {HERE} && mkdir -p {secrets} && ln -s "$0" {secrets}/serviceaccount && exec "$@"'
    variables = {"KUBERNETES_SERVICE_HOST": at.hostname or "", "KUBERNETES_SERVICE_PORT": str(at.port)}
    return [*mounts(), "sh", "-c", script, directory], variables
