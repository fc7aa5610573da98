"""The judge of leaks is judged: ten kinds of leak planted by hand are found and named, a clean life leaves none."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from corten.sys import bpfmap
from corten.sys.devicebpf import instruction
from support import images, paths, process, summary
from support.engine import CortenEngine
from support.leaks import ALLOWED, Leak, Snapshot, Subject, diff, expect_none, render
from support.leaks.network import flat_ruleset
from support.netns import NetNs
from support.warmup import warm_up

IMAGE = images.BUSYBOX_REF


@contextmanager
def planted(subject: Subject, kind: str, what: str, timeout: float = 60) -> Iterator[None]:
    """The body plants, the end says `found` or fails; the caller uproots after it."""
    before = Snapshot.take(subject)
    yield
    end = time.monotonic() + timeout
    while not (found := [leak for leak in diff(before, Snapshot.take(subject)) if is_named(leak, kind, what)]):
        assert time.monotonic() < end, f"a planted {kind} {what!r} was not found"
        time.sleep(0.05)
    summary.add("leaks planted and found", str(found[0]))


def is_named(leak: Leak, kind: str, what: str) -> bool:
    """Whether the leak is the planted one, by kind and a part of its text."""
    return leak.fact.kind == kind and what in str(leak.fact)


def engine_id(engine: CortenEngine) -> str:
    """The id that stands in the names of what this engine makes."""
    return (engine.data_root / "engine-id").read_text().strip()


# The ten kinds.


def test_mount_in_the_hosts_namespace_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    target = warm_engine.exec_root / "planted"
    before = Snapshot.take(subject)
    target.mkdir()
    try:
        with planted(subject, "mount", "the host's mount namespace: tmpfs planted"):
            subprocess.run(["mount", "-t", "tmpfs", "planted", target], check=True)
    finally:
        subprocess.run(["umount", target], check=True)
        target.rmdir()
    expect_none(before)


def test_mount_in_a_shims_own_namespace_is_found(warm_engine: CortenEngine) -> None:
    with stand_in(prefix=["unshare", "--mount"]) as pid:
        subject = Subject.of(warm_engine, stand_ins={pid: "shim stand-in"})
        before = Snapshot.take(subject)
        inside = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"]
        with planted(subject, "mount", "mount namespace of shim stand-in: tmpfs planted"):
            subprocess.run([*inside, "mount", "-t", "tmpfs", "planted", "/mnt"], check=True)
        subprocess.run([*inside, "umount", "/mnt"], check=True)
        expect_none(before)


def test_mount_that_only_a_strangers_namespace_keeps_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    target = warm_engine.folder / "planted"
    target.mkdir()
    with (
        stand_in(prefix=["unshare", "--mount"]) as pid,
        planted(subject, "mount", f"somebody else: tmpfs planted at {target}"),
    ):
        inside = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "planted", target], check=True)
    target.rmdir()
    expect_none(before)


def hierarchy(version: int) -> Path:
    """A mounted hierarchy of cgroups of that version; skips when there is none."""
    kind = {1: "cgroup", 2: "cgroup2"}[version]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.partition(" - ")[2].startswith(f"{kind} "):
            return Path(line.split()[4])
    pytest.skip(f"no cgroup v{version} hierarchy is mounted here")


@pytest.mark.parametrize("version", [1, 2])
def test_cgroup_of_one_hierarchy_is_found(warm_engine: CortenEngine, version: int) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    name = f"corten-{engine_id(warm_engine)}-planted"
    folder = hierarchy(version) / name
    try:
        with planted(subject, "cgroup", f"v{version}"):
            folder.mkdir()
    finally:
        folder.rmdir()
    expect_none(before)


def test_cgroup_without_a_name_is_found_by_the_process_in_it(warm_engine: CortenEngine) -> None:
    folder = hierarchy(1) / f"{paths.PREFIX}planted-{os.getpid()}"
    with stand_in() as pid:
        subject = Subject.of(warm_engine, stand_ins={pid: "shim stand-in"})
        with planted(subject, "cgroup", folder.name):
            folder.mkdir()
            (folder / "cgroup.procs").write_text(str(pid))
    process.wait_for(lambda: not (folder / "cgroup.procs").read_text(), "end of the stand-in")
    folder.rmdir()


def test_link_in_the_engines_network_namespace_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    with planted(subject, "link", "the engine's network namespace: planted0"):
        warm_engine.netns.run(["ip", "link", "add", "planted0", "type", "bridge"])
    warm_engine.netns.run(["ip", "link", "delete", "planted0"])
    expect_none(before)


def test_network_namespace_with_a_name_of_the_engine_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    name = f"corten-{engine_id(warm_engine)}-planted"
    try:
        with planted(subject, "network namespace", name):
            subprocess.run(["ip", "netns", "add", name], check=True)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    expect_none(before)


def test_nft_table_chain_rule_and_element_are_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    table = "table ip planted { set s { type inet_service; elements = { 80 } ; }; chain c { tcp dport @s drop; }; }"
    with planted(subject, "nft", "table ip planted, chain c: tcp dport @s drop"):
        warm_engine.netns.run(["nft", table])
    with planted(subject, "nft", "table ip planted, set s: element 81"):
        warm_engine.netns.run(["nft", "add", "element", "ip", "planted", "s", "{", "81", "}"])
    warm_engine.netns.run(["nft", "delete", "table", "ip", "planted"])
    expect_none(before)


def test_element_in_the_engines_own_map_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    name = ["inet", f"corten-{engine_id(warm_engine)}", "by_port"]
    warm_engine.kill9()  # a living one takes it away at once
    before = Snapshot.take(subject)
    with planted(subject, "nft", "map by_port: element tcp . 4711 : 172.17.0.99 . 80"):
        warm_engine.netns.run(["nft", "add", "element", *name, "{ tcp . 4711 : 172.17.0.99 . 80 }"])
    warm_engine.netns.run(["nft", "delete", "element", *name, "{ tcp . 4711 }"])
    expect_none(before)
    warm_engine.start()


def test_descriptor_in_cortend_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    with socket.socket(socket.AF_UNIX) as client, planted(subject, "descriptor", "cortend: unix stream socket"):
        client.connect(str(warm_engine.socket))
    expect_none(before)


OPENERS = {
    "deleted file /": "d = tempfile.mkstemp()[1]; os.open(d, os.O_RDONLY); os.unlink(d)",
    "memfd planted": "os.memfd_create('planted')",
    "net namespace": "os.open('/proc/self/ns/net', os.O_RDONLY)",
    "pipe": "os.pipe()",
    "tcp socket listening, port": "s = socket.create_server(('127.0.0.1', 0)); s.detach()",
    "anon_inode:[eventfd]": "os.eventfd(0)",
    "/dev/zero": "os.open('/dev/zero', os.O_RDONLY)",
    "file system 0x1021994 in a detached mount": "os.open('/mnt', os.O_PATH); os.system('umount --lazy /mnt')",
}


def test_bpf_program_with_the_engines_id_is_found(warm_engine: CortenEngine) -> None:
    subject, name = Subject.of(warm_engine), f"ct_{engine_id(warm_engine)}"
    answer = instruction(0xB7, 0) + instruction(0x95)  # r0 = 0; exit
    with planted(subject, "bpf program", name):
        fd = bpfmap.load_tracepoint_program(name, answer)
    before = Snapshot.take(subject)
    os.close(fd)
    assert diff(Snapshot.take(subject), before), "it is gone with its descriptor"


@pytest.mark.parametrize("what", OPENERS)
def test_descriptor_in_a_shim_is_found(warm_engine: CortenEngine, what: str) -> None:
    prepare = "subprocess.run(['mount', '-t', 'tmpfs', 'x', '/mnt'], check=True)" if "mount" in what else ""
    with stand_in(prepare, OPENERS[what], prefix=["unshare", "--mount"]) as pid:
        subject = Subject.of(warm_engine, stand_ins={pid: "shim stand-in"})
        with planted(subject, "descriptor", f"shim stand-in: {what}"):
            os.kill(pid, signal.SIGUSR1)


@pytest.mark.parametrize("place", ["data", "exec"])
def test_file_under_a_root_is_found(warm_engine: CortenEngine, place: str) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    folder = {"data": warm_engine.data_root, "exec": warm_engine.exec_root}[place]
    with planted(subject, "file", f"under {place}-root: planted"):
        (folder / "planted").touch()
    (folder / "planted").unlink()
    with planted(subject, "file", f"under {place}-root: deep/er/"):
        (folder / "deep" / "er").mkdir(parents=True)
    shutil.rmtree(folder / "deep")
    expect_none(before)


@pytest.mark.parametrize("place", ["/dev/shm", "/run", "/tmp"])
def test_file_of_the_engines_name_elsewhere_is_found(warm_engine: CortenEngine, place: str) -> None:
    subject = Subject.of(warm_engine)
    path = Path(place, f"corten-{engine_id(warm_engine)}-planted")
    with planted(subject, "file", str(path)):
        path.touch()
    path.unlink()


def test_process_that_outlives_its_container_is_found(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    with planted(subject, "process", "sleep 4711"):
        pid = orphan([*warm_engine.netns.enter, "sleep", "4711"])
    os.kill(pid, signal.SIGKILL)
    expect_none(before)


def test_process_is_found_by_its_cgroup_alone(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    folder = hierarchy(1) / f"corten-{engine_id(warm_engine)}-planted"
    folder.mkdir()
    pid = orphan(["sleep", "4712"])
    try:
        with planted(subject, "process", "sleep 4712"):
            (folder / "cgroup.procs").write_text(str(pid))
    finally:
        os.kill(pid, signal.SIGKILL)
        process.wait_for(lambda: not (folder / "cgroup.procs").read_text(), "end of the orphan")
        folder.rmdir()
    expect_none(before)


def test_zombie_is_found_with_the_name_of_its_parent(warm_engine: CortenEngine) -> None:
    with stand_in("", "os.posix_spawnp('true', ['true'], os.environ)") as pid:
        subject = Subject.of(warm_engine, stand_ins={pid: "shim stand-in"})
        with planted(subject, "zombie", "child of shim stand-in: true"):
            os.kill(pid, signal.SIGUSR1)


def test_shim_left_by_a_killed_cortend_is_found() -> None:
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        subject = Subject.of(engine)
        before = Snapshot.take(subject)
        name = engine.docker("run", "-d", IMAGE, "sleep", "1000", check=True).stdout.strip()
        engine.kill9()
        kinds = {leak.fact.kind for leak in diff(before, Snapshot.take(subject)) if name[:12] in str(leak)}
        assert {"process", "cgroup", "file", "link", "mount", "descriptor"} <= kinds


# What is not the engine's.


def test_work_of_others_is_not_reported(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    folder = paths.scratch("foreign")
    cgroup = hierarchy(1) / folder.name
    pid = orphan(["sleep", "4713"])
    cgroup.mkdir()
    (cgroup / "cgroup.procs").write_text(str(pid))
    subprocess.run(["mount", "-t", "tmpfs", "foreign", folder], check=True)
    (folder / "file").touch()
    try:
        with NetNs() as netns:
            netns.run(["ip", "link", "add", "foreign0", "type", "bridge"])
            netns.run(["nft", "add", "table", "ip", "foreign"])
            found = diff(before, Snapshot.take(subject))
    finally:
        os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
        process.wait_for(lambda: not (cgroup / "cgroup.procs").read_text(), "end of the stranger")
        cgroup.rmdir()
    assert not found, render(found)


def test_copy_of_a_living_mount_in_a_strangers_namespace_is_not_reported(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    with stand_in(prefix=["unshare", "--mount"]):
        found = diff(before, Snapshot.take(subject))
    assert not found, render(found)


def test_client_of_the_test_is_not_a_process_of_the_engine(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    client = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", str(warm_engine.socket)], cwd=warm_engine.folder
    )
    try:
        found = diff(before, Snapshot.take(subject))
    finally:
        client.kill()
        client.wait()
    assert not found, render(found)


# The allow-list, the report, the price.


def test_allow_list_has_at_most_ten_lines_with_reasons() -> None:
    assert len(ALLOWED) <= 10
    assert all(line.reason and line.pattern and line.most >= 1 for line in ALLOWED)


def test_no_allowed_line_hides_a_planted_kind() -> None:
    assert not [line for line in ALLOWED if line.pattern in {".*", ".+"} or line.most > 1]


def test_ruleset_is_told_line_by_line() -> None:
    listing = """\
table ip t {
    map m {
        type inet_service : ipv4_addr
        elements = { 80 : 10.0.0.1, 81 : 10.0.0.2 expires 3s,
                82 : 10.0.0.3 }
    }

    chain c {
        drop
    }
}
"""
    assert list(flat_ruleset(listing)) == [
        "table ip t",
        "table ip t, map m",
        "table ip t, map m: type inet_service : ipv4_addr",
        "table ip t, map m: element 80 : 10.0.0.1",
        "table ip t, map m: element 81 : 10.0.0.2",
        "table ip t, map m: element 82 : 10.0.0.3",
        "table ip t, chain c",
        "table ip t, chain c: drop",
    ]


def test_report_counts_by_kind_and_cuts_long_lists(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    before = Snapshot.take(subject)
    planted_files = [warm_engine.exec_root / f"planted-{number:02}" for number in range(20)]
    for path in planted_files:
        path.touch()
    report = render(diff(before, Snapshot.take(subject)))
    for path in planted_files:
        path.unlink()
    assert report.splitlines()[:2] == ["20 leaks", "  file: 20"]
    assert "file, under exec-root: planted-00" in report
    assert report.splitlines()[-1] == "    … and 8 more"


def test_snapshot_is_cheap(warm_engine: CortenEngine) -> None:
    subject = Subject.of(warm_engine)
    times = [Snapshot.take(subject).seconds for _ in range(5)]
    while min(times) >= 0.5 and len(times) < 30:  # others run beside it: the quickest counts
        times.append(Snapshot.take(subject).seconds)
    summary.add("leak checker", f"a snapshot takes {statistics.median(times) * 1000:.0f} ms (median of {len(times)})")
    assert min(times) < 0.5


# Programs to plant with.


@contextmanager
def stand_in(prepare: str = "", on_signal: str = "", *, prefix: Sequence[str] = ()) -> Iterator[int]:
    """A Python process that may be called a shim; SIGUSR1 makes it run `on_signal`.  Its pid."""
    program = "\n".join(
        (
            "import os, signal, socket, subprocess, tempfile",
            f"def plant(*_):\n    {on_signal or 'pass'}",
            "signal.signal(signal.SIGUSR1, plant)",
            prepare,
            "print('ready', flush=True)",
            "while True:\n    signal.pause()",
        )
    )
    argv = [*prefix, sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            yield running.pid
        finally:
            running.kill()


def orphan(argv: Sequence[str]) -> int:
    """Starts a program whose parent is gone, as a container's process is after its shim.  Its pid."""
    program = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=-3, stderr=-3).pid)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *argv], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(done.stdout)
