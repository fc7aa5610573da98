"""`cortend --doctor`: records against disk and kernel, with the engine alive and dead, and what `--fix` may remove."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, process
from support.doctor import doctor
from support.engine import CortenEngine

STRAY = "ab" * 32
WHY = (
    "snapshot directory: no record",
    "staging directory: no request",
    "thrown away, and not removed yet",
    "container directory: no record",
    "task directory: no record",
)


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """With a container that runs and one that does not, a volume, and a port."""
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        made.docker(
            "run", "-d", "--name", "box", "-p", "80", "-v", "data:/d", images.BUSYBOX_REF, "sleep", "1000", check=True
        )
        made.docker("create", "--name", "idle", images.BUSYBOX_REF, "true", check=True)
        yield made


def is_running(engine: CortenEngine) -> bool:
    return process.is_alive(int(engine.docker("inspect", "-f", "{{.State.Pid}}", "box", check=True).stdout))


class Strays:
    """One of everything that may be left, made by hand."""

    def __init__(self, engine: CortenEngine) -> None:
        self.netns = engine.netns
        data, self.id = engine.data_root, (engine.data_root / "engine-id").read_text().strip()
        self.link = f"ct{self.id[:4]}deadbeef"
        self.trees = [
            data / "snapshots" / "99999",
            data / "snapshots" / "staging" / "x",
            data / "snapshots" / "trash" / "y",
            data / "containers" / STRAY,
            engine.exec_root / "tasks" / "moby" / STRAY,
        ]
        self.ingest = data / "content" / "ingest" / "z"
        self.table = f"corten-{self.id}"
        self.element = "tcp . 4 : 172.17.0.99 . 5"
        self.mount = data / "snapshots" / "99999" / "fs"
        self.bridge = "br-deadbeefdead"

    def make(self) -> None:
        for path in self.trees:
            (path / "fs").mkdir(parents=True)
            (path / "fs" / "file").write_text("x")
        self.ingest.write_text("x")
        subprocess.run(["mount", "-t", "tmpfs", "stray", str(self.mount)], check=True)
        for path in self.cgroup_parents():
            (path / STRAY).mkdir()
        self.netns.run(["ip", "link", "add", self.link, "type", "veth", "peer", "name", "straypeer"])
        self.netns.run(["ip", "link", "set", self.link, "alias", f"corten-{self.id} nobody"])
        self.netns.run(["ip", "link", "add", self.bridge, "type", "bridge"])
        self.netns.run(["ip", "link", "set", self.bridge, "alias", f"corten-{self.id} network {STRAY}"])

    def make_in_firewall(self) -> None:
        """With the engine dead: a living one takes it away at once."""
        self.netns.run(["nft", "add", "element", "inet", self.table, "by_port", f"{{ {self.element} }}"])
        self.netns.run(["iptables", "-P", "FORWARD", "ACCEPT"])  # makes the chain
        self.netns.run(["iptables", "-A", "FORWARD", "-j", "ACCEPT"])
        self.netns.run(["nft", f'add rule ip filter FORWARD iifname "{self.bridge}" accept comment "{self.table}"'])
        ours = ("-m", "comment", "--comment", self.table, "-j", "ACCEPT")
        self.netns.run(["iptables-legacy", "-A", "FORWARD", "-i", self.bridge, *ours])

    def cgroup_parents(self) -> list[Path]:
        return list(process.CGROUPS.glob(f"*/corten-{self.id}")) + list(process.CGROUPS.glob(f"corten-{self.id}"))

    def left(self) -> list[str]:
        found = [str(path) for path in (*self.trees, self.ingest) if path.exists()]
        found += [str(path / STRAY) for path in self.cgroup_parents() if (path / STRAY).exists()]
        if self.link in self.netns.run(["ip", "-br", "link"]):
            found.append(self.link)
        if self.bridge in self.netns.run(["ip", "-br", "link"]):
            found.append(self.bridge)
        if self.bridge in self.netns.run(["nft", "list", "ruleset"]):
            found.append(f"rule of {self.bridge}")
        if self.bridge in self.netns.run(["iptables-legacy", "-S"]):
            found.append(f"legacy rule of {self.bridge}")
        if self.element in self.netns.run(["nft", "list", "map", "inet", self.table, "by_port"]):
            found.append(self.element)
        return found

    @property
    def findings(self) -> set[str]:
        trees = dict(zip(self.trees, WHY, strict=True))
        return {
            *(f"{path}: {why}" for path, why in trees.items()),
            f"{self.ingest}: content on its way: no request",
            f"mount {self.mount}: nobody mounts there",
            f"cgroup /corten-{self.id}/{STRAY}: no container",
            f"link {self.link}: no endpoint",
            f"bridge {self.bridge}: no network",
        }

    @property
    def findings_in_firewall(self) -> set[str]:
        return {
            f"nftables table {self.table}, by_port {self.element}: no endpoint publishes it",
            f"rule of ip filter FORWARD: {self.bridge}: no network",
            f"rule of iptables-legacy FORWARD: {self.bridge}: no network",
        }


def test_a_living_engine_has_nothing_to_tell(engine: CortenEngine) -> None:
    assert doctor(engine) == (0, [], "doctor: records, journal, disk and kernel agree")


def test_what_is_left_is_told_and_removed_with_the_engine_dead_alone(engine: CortenEngine) -> None:
    strays = Strays(engine)
    strays.make()
    everything = strays.left()
    status, found, _ = doctor(engine, "--fix")
    assert status == 1
    assert set(found) == strays.findings
    assert strays.left() == everything, "nothing is removed beside a living engine"
    engine.kill9()
    strays.make_in_firewall()
    everything = strays.left()
    status, found, said = doctor(engine)
    assert (status, set(found)) == (1, strays.findings | strays.findings_in_firewall)
    assert said == f"doctor: {len(found)} findings: --fix removes {len(found)}, a start of cortend mends 0"
    assert strays.left() == everything, "looking changes nothing"
    status, found, said = doctor(engine, "--fix")
    assert (status, said) == (0, "doctor: nothing is left that no record names")
    assert strays.left() == []
    assert doctor(engine)[:2] == (0, [])
    engine.start()
    assert is_running(engine)
    engine.docker("start", "idle", check=True)


def test_what_is_lost_is_told_and_left_to_the_next_start(engine: CortenEngine) -> None:
    engine.docker("volume", "create", "empty", check=True)
    engine.kill9()
    os.rename(engine.data_root / "volumes" / "empty", engine.folder / "elsewhere")
    status, found, said = doctor(engine, "--fix")
    assert (status, found) == (1, ["volume empty: its directory is gone"])
    assert said == "doctor: 1 findings: --fix removes 0, a start of cortend mends 1"
    engine.start()
    assert doctor(engine)[:2] == (0, [])


def test_a_published_port_that_is_not_in_the_kernel_is_told(engine: CortenEngine) -> None:
    table = f"corten-{(engine.data_root / 'engine-id').read_text().strip()}"
    engine.kill9()
    engine.netns.run(["nft", "flush", "map", "inet", table, "by_port"])
    status, found, _ = doctor(engine)
    assert status == 1
    assert len(found) == 1, found
    assert found[0].startswith(f"nftables table {table}, by_port tcp . ")
    assert found[0].endswith(" . 80: it is published, and not there")
    engine.start()
    assert doctor(engine)[:2] == (0, [])


def test_rules_and_sets_that_somebody_changed_are_told_by_name(engine: CortenEngine) -> None:
    table = f"corten-{(engine.data_root / 'engine-id').read_text().strip()}"
    engine.kill9()
    engine.netns.run(["nft", f"flush chain inet {table} guard; insert rule inet {table} forward accept"])
    engine.netns.run(["nft", f"flush set inet {table} ours"])
    what = ("chain forward", "chain guard", "set ours")
    assert doctor(engine)[:2] == (1, [f"nftables table {table}: {one} is not as it should be" for one in what])
    engine.netns.run(["nft", "delete", "table", "inet", table])
    assert f"nftables table {table}: it is gone" in doctor(engine)[1]
    engine.start()
    assert doctor(engine)[:2] == (0, [])


def test_a_container_whose_shim_is_gone_is_told(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "lost", images.BUSYBOX_REF, "sleep", "1000", check=True)
    inspect = engine.docker("inspect", "-f", "{{.Id}} {{.State.Pid}}", "lost", check=True).stdout.split()
    status = Path(f"/proc/{inspect[1]}/status").read_text()
    shim = int(status.partition("PPid:\t")[2].split()[0])
    engine.kill9()
    os.kill(shim, 9)
    process.wait_for(lambda: not process.is_alive(shim), "end of the shim")
    assert doctor(engine)[1] == [f"container moby/{inspect[0]}: its record says that it runs, and it has no shim"]
    engine.start()
    assert doctor(engine)[:2] == (0, [])
    engine.docker("rm", "lost", check=True)


def test_corten_doctor_is_the_same_and_needs_no_engine(engine: CortenEngine, tmp_path: Path) -> None:
    argv = [*engine.netns.enter, str(paths.COMMANDS / "corten"), "doctor", "--config-file", str(engine.config_file)]
    argv += ["--data-root", str(engine.data_root), "--exec-root", str(engine.exec_root)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    nowhere = [
        str(paths.COMMANDS / "corten"),
        "doctor",
        "--data-root",
        str(tmp_path / "d"),
        "--exec-root",
        str(tmp_path),
    ]
    done = subprocess.run(nowhere, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no engine was ever here" in done.stderr
    assert not (tmp_path / "d").exists()
