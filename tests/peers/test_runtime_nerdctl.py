"""`corten-runtime` beneath containerd with the hooks that nerdctl writes: createRuntime and postStop.

nerdctl is in no Debian suite.  What it does to a runtime is in its pkg/ocihook and pkg/cmd/container/create.go: a hook
of both kinds, itself with `internal oci-hook KIND`, which reads the state from stdin, calls CNI's plugins for the
network namespace of the pid in it, and fails the container when it fails.  Here a program does just that, with the
plugins of Debian's containernetworking-plugins, in a network namespace of the test's own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, process, runtimes
from support.containerd import Containerd
from support.netns import NetNs

NETWORK = {
    "cniVersion": "0.4.0",
    "name": "nerdctl",
    "type": "bridge",
    "bridge": "nerdctl0",
    "isGateway": True,
    "ipMasq": False,
}

HOOK = """\
#!/usr/bin/python3 -I
import json, os, subprocess, sys
kind = sys.argv[-1]
state = json.load(sys.stdin)
folder = os.path.dirname(os.path.abspath(__file__))
with open(f"{folder}/calls", "a") as log:
    keys = sorted(set(state) & {"ociVersion", "id", "status", "pid", "bundle", "annotations"})
    label = state["annotations"]["nerdctl/name"]
    print(json.dumps([kind, sys.argv[1:], state["status"], keys, label, os.environ.get("NERDCTL")]), file=log)
command = {"createRuntime": "ADD", "postStop": "DEL"}[kind]
netns = f"/proc/{state['pid']}/ns/net" if command == "ADD" else ""
environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": command, "CNI_CONTAINERID": state["id"]}
environment |= {"CNI_NETNS": netns, "CNI_IFNAME": "eth0", "CNI_PATH": os.environ["CNI_PATH"]}
done = subprocess.run([os.environ["CNI_PATH"] + "/bridge"], env=environment, stdin=open(f"{folder}/network.json"))
sys.exit(done.returncode)
"""


class Nerdctl:
    """containerd, a network and the hook, in a network namespace of their own."""

    def __init__(self) -> None:
        self.netns = NetNs()
        self.folder = paths.scratch("nerdctl")
        self.containerd = Containerd("1.7", "trixie", self.netns.enter)
        addresses = {"type": "host-local", "subnet": "10.4.0.0/24", "dataDir": str(self.folder / "leases")}
        (self.folder / "network.json").write_text(json.dumps(NETWORK | {"ipam": addresses}))
        (self.folder / "hook").write_text(HOOK)
        (self.folder / "hook").chmod(0o755)

    def hook(self, kind: str, **fields: Any) -> dict[str, Any]:
        """As nerdctl writes it."""
        plugins = str(peers.tree("bookworm").root / "usr/lib/cni")
        args = ["nerdctl", "--data-root", "/var/lib/nerdctl", "internal", "oci-hook", kind]
        env = [f"CNI_PATH={plugins}", "NERDCTL=yes"]
        return {"path": str(self.folder / "hook"), "args": args, "env": env, **fields}

    def run(self, runtime: Path, command: str, **hooks: list[dict[str, Any]]) -> tuple[int, str, str]:
        """`ctr run` of a configuration with hooks."""
        id = f"n{os.urandom(3).hex()}"
        bundle = runtimes.bundle("sh", "-c", command, folder=self.folder / id)
        bundle.config["root"] = {"path": str(self.folder / id / "rootfs"), "readonly": False}
        bundle.config["annotations"] = {"nerdctl/name": "box"}
        bundle.config["linux"]["cgroupsPath"] = f"/{self.containerd.folder.name}/{id}"
        bundle.config["process"]["args"] = ["/bin/busybox", "sh", "-c", command]
        bundle.config["hooks"] = hooks
        bundle.save()
        config = str(bundle.path / "config.json")
        done = self.containerd("run", "--rm", "--runc-binary", str(runtime), "--config", config, id)
        return done.returncode, done.stdout.replace(id, "ID"), done.stderr.replace(id, "ID")

    def calls(self) -> list[Any]:
        """What the hook was called with; empties the record."""
        path = self.folder / "calls"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def leases(self) -> list[str]:
        """Addresses that are in use."""
        folder = self.folder / "leases/nerdctl"
        return sorted(path.name for path in folder.glob("10.*")) if folder.exists() else []

    def links(self) -> str:
        return self.netns.run(["ip", "-o", "link", "show", "type", "veth"])

    def close(self) -> None:
        self.containerd.close()
        self.netns.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def nerdctl() -> Iterator[Nerdctl]:
    made = Nerdctl()
    yield made
    made.close()


RUNTIMES: dict[str, Callable[[], Path]] = {
    "runc": lambda: peers.binary("runc"),
    "corten": lambda: paths.COMMANDS / "corten-runtime",
}
SHOW = "/bin/busybox ip -o -4 addr show eth0 | /bin/busybox awk '{print $4}'"


def test_hooks_give_a_container_its_network_and_take_it_back_as_with_runc(nerdctl: Nerdctl) -> None:
    seen = []
    for program in RUNTIMES.values():
        hooks = {"createRuntime": [nerdctl.hook("createRuntime")], "poststop": [nerdctl.hook("postStop")]}
        status, out, err = nerdctl.run(program(), SHOW, **hooks)
        assert (status, err) == (0, ""), err
        assert out.startswith("10.4.0.")
        assert out.endswith("/24\n")
        process.wait_for(lambda: not nerdctl.leases(), "address given back")
        process.wait_for(lambda: "veth" not in nerdctl.links(), "end of the veth pair")
        seen.append(nerdctl.calls())
    assert seen[1] == seen[0]
    assert [call[0] for call in seen[1]] == ["createRuntime", "postStop"]


def test_a_hook_that_fails_fails_the_container_as_with_runc(nerdctl: Nerdctl) -> None:
    found = []
    for program in RUNTIMES.values():
        broken = nerdctl.hook("createRuntime", path="/bin/false")
        stop = nerdctl.hook("postStop")
        status, out, _ = nerdctl.run(program(), "echo never", createRuntime=[broken], poststop=[stop])
        found.append((status, out, [call[0] for call in nerdctl.calls()]))
    assert found[0] == found[1]
    assert (found[1][0], found[1][1]) == (1, "")


def test_a_hook_has_its_timeout_as_with_runc(nerdctl: Nerdctl) -> None:
    found = []
    for program in RUNTIMES.values():
        slow = nerdctl.hook("createRuntime", path="/bin/sleep", args=["sleep", "30"], timeout=1)
        status, out, _ = nerdctl.run(program(), "echo never", createRuntime=[slow])
        found.append((status, out))
    assert found == [(1, ""), (1, "")]
