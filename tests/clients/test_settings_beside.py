"""Keys of daemon.json with one file for dockerd 26.1 and for Corten: names, and CDI devices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.api import Api
from support import images, paths
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine

pytestmark = pytest.mark.slow  # what Corten does alone is in test_daemon_keys.py

SPEC = """
cdiVersion: "0.7.0"
kind: vendor.example/device
containerEdits:
  env: [COMMON=1]
devices:
  - name: card
    containerEdits:
      env: [CARD=yes, A=spec]
      deviceNodes:
        - {path: /dev/card, hostPath: /dev/null, permissions: rw, fileMode: 432, gid: 77}
      mounts:
        - {hostPath: FOLDER/driver, containerPath: /usr/lib/driver, options: [ro, nosuid, bind]}
      hooks:
        - hookName: createRuntime
          path: /bin/sh
          args: [sh, -c, "cat > FOLDER/state-of-$0", hook]
      additionalGids: [4711]
  - name: missing
    containerEdits:
      deviceNodes: [{path: /dev/nowhere}]
"""
LOOK = "env | grep -E '^(COMMON|CARD|A)='; ls -l /dev/card | sed 's/ [A-Z].*/ &/; s/ *[A-Z][a-z]* .*:.. / /'"
LOOK += "; cat /usr/lib/driver; grep /usr/lib/driver /proc/mounts | grep -o ' ro,nosuid'; id -G; echo x > /dev/card"


class Pair:
    """Both engines, with the image."""

    def __init__(self, folder: Path, engines: tuple[DockerClient, DockerClient]) -> None:
        self.folder = folder
        self.engines = engines

    def answers(self, *words: str) -> list[tuple[int, str, str]]:
        """Exit code and output of `docker …` on both."""
        done = [engine.docker(*words, timeout=120) for engine in self.engines]
        return [(one.returncode, one.stdout, one.stderr.partition("\nRun 'docker")[0].strip()) for one in done]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    folder = paths.scratch("settings")
    (folder / "cdi").mkdir()
    (folder / "driver").write_text("driver\n")
    (folder / "cdi/device.yaml").write_text(SPEC.replace("FOLDER", str(folder)))
    (folder / "cdi/broken.yaml").write_text("kind: [\n")
    file = {
        "dns": ["192.0.2.53", "2001:db8::53"],
        "dns-opts": ["ndots:3", "timeout:1"],
        "dns-search": ["a.example", "b.example."],
        "host-gateway-ip": "192.0.2.1",
        "cdi-spec-dirs": [str(folder / "cdi")],
        "features": {"cdi": True, "nonsense": True},
        "selinux-enabled": True,
    }
    (folder / "dockerd.json").write_text(json.dumps(file))
    with (
        Dockerd(args=["--config-file", str(folder / "dockerd.json")]) as dockerd,
        CortenEngine(config=file) as corten,
    ):
        both: tuple[DockerClient, DockerClient] = (dockerd, corten)
        for engine in both:
            engine.docker("load", "-i", str(images.busybox()), check=True)
        yield Pair(folder, both)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--network", "none"],
        ["--network", "host"],
        ["--dns", "192.0.2.54"],
        ["--dns-search", "c.example"],
        ["--dns-search", "."],
        ["--dns-option", "ndots:1"],
    ],
    ids=" ".join,
)
def test_resolv_conf_is_what_dockerd_writes(pair: Pair, words: list[str]) -> None:
    theirs, ours = pair.answers("run", "--rm", *words, images.BUSYBOX_REF, "cat", "/etc/resolv.conf")
    assert ours == theirs
    assert theirs[0] == 0


def test_host_gateway_is_the_address_of_the_file(pair: Pair) -> None:
    theirs, ours = pair.answers(
        "run", "--rm", "--add-host", "gate:host-gateway", images.BUSYBOX_REF, "grep", "gate", "/etc/hosts"
    )
    assert ours == theirs == (0, "192.0.2.1\tgate\n", "")


@pytest.mark.parametrize("option", ["label=type:x", "label=disable", "label=level:s0", "label=nonsense", "label:x"])
def test_labels_change_nothing_without_selinux(pair: Pair, option: str) -> None:
    theirs, ours = pair.answers(
        "run", "--rm", "--security-opt", option, images.BUSYBOX_REF, "cat", "/proc/self/attr/current"
    )
    assert ours == theirs


def test_a_cdi_device_is_in_the_container(pair: Pair) -> None:
    words = [
        "run",
        "--rm",
        "-e",
        "A=own",
        "--device",
        "vendor.example/device=card",
        images.BUSYBOX_REF,
        "sh",
        "-c",
        LOOK,
    ]
    theirs, ours = pair.answers(*words)
    assert theirs[0] == 0
    assert "CARD=yes" in theirs[1]
    # of additionalGids dockerd loses what it has read: the container's user is set after its devices
    assert (ours[0], ours[1].replace(" 4711", ""), ours[2]) == theirs
    assert "0 4711\n" in ours[1]
    state = json.loads((pair.folder / "state-of-hook").read_text())
    assert state["status"] in ("creating", "created")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "vendor.example/device=other"], "unresolvable CDI devices vendor.example/device=other"),
        (["--device", "vendor.example/device=missing"], "failed to stat CDI host device"),
        (["--gpus", "all"], 'could not select device driver "" with capabilities: [[gpu]]'),
        (["--gpus", "driver=cdi,count=2"], "unexpected count in CDI device request"),
        (["--gpus", 'driver=cdi,"options=a=b"'], "unexpected"),
        (["--gpus", "driver=cdi,device=x"], "unresolvable CDI devices x"),
        (["--gpus", "driver=nvidia,count=1"], 'could not select device driver "nvidia" with capabilities: [[gpu]]'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_device_that_nobody_has_is_refused_in_dockerds_words(pair: Pair, words: list[str], said: str) -> None:
    theirs, ours = pair.answers("run", "--rm", *words, images.BUSYBOX_REF, "true")
    assert ours == theirs
    assert said in theirs[2]


def test_info_names_directories_devices_and_what_is_broken(pair: Pair) -> None:
    theirs, ours = (Api(engine.socket, "1.45").ok("GET", "/info") for engine in pair.engines)
    assert ours["CDISpecDirs"] == theirs["CDISpecDirs"] == [str(pair.folder / "cdi")]
    assert "DiscoveredDevices" not in ours
    ours = Api(pair.engines[1].socket).ok("GET", "/info")
    assert ours["DiscoveredDevices"] == [
        {"Source": "cdi", "ID": f"vendor.example/device={name}"} for name in ("card", "missing")
    ]
    (line,) = [text for text in ours["Warnings"] if text.startswith("CDI: ")]
    assert line.startswith(
        f"CDI: Error associated with spec file {pair.folder}/cdi/broken.yaml: failed to load CDI Spec"
    )


def test_corten_run_takes_cdi_names_as_docker_does(pair: Pair) -> None:
    _, corten = pair.engines
    assert isinstance(corten, CortenEngine)
    done = corten.corten(
        "run", "--rm", "--device", "vendor.example/device=card", images.BUSYBOX_REF, "sh", "-c", "echo $CARD"
    )
    assert (done.returncode, done.stdout) == (0, "yes\n"), done.stderr
