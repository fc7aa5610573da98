"""The engine where this machine is unlike others, as far as that can be made here: below a shared `/`.

br_netfilter on and off is in test_network.py; the rest of what others have in the virtual machine, test_engine_v2.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import images, paths, peers, process
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
SHARED = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --make-rshared / && exec "$0" "$@"')


def inside(engine: CortenEngine, *argv: str) -> str:
    """What a program prints in cortend's mount namespace."""
    enter = ["nsenter", f"--mount=/proc/{engine.pid}/ns/mnt", "--"]
    return subprocess.run([*enter, *argv], check=True, capture_output=True, text=True, timeout=60).stdout


def mount_points(engine: CortenEngine) -> set[str]:
    return {line.split()[4] for line in Path(f"/proc/{engine.pid}/mountinfo").read_text().splitlines()}


@pytest.fixture
def on_shared_root(make_engine: Callable[..., CortenEngine]) -> Iterator[CortenEngine]:
    """An engine in a mount namespace whose whole tree is shared, as systemd makes it."""
    engine = make_engine(config={"runtimes": {"runc": {"path": str(peers.binary("runc"))}}})
    engine.docker("load", "-i", str(images.busybox()), check=True)
    engine.stop()
    engine.start(SHARED)
    yield engine
    engine.docker("rm", "-f", "box")


def test_a_shared_root_shows_nothing_of_a_container(on_shared_root: CortenEngine) -> None:
    engine = on_shared_root
    rows = Path(f"/proc/{engine.pid}/mountinfo").read_text().splitlines()
    assert ["shared:" in row for row in rows if row.split()[4] == "/"][-1:] == [True]
    before = mount_points(engine)
    for options in ((), ("--runtime", "runc")):
        engine.docker("run", "-d", "--name", "box", *options, IMAGE, "sleep", "100", check=True)
        assert mount_points(engine) <= before, options  # what others had mounted may be gone meanwhile
        engine.docker("rm", "-f", "box", check=True)
        assert mount_points(engine) <= before, options


def test_a_bind_below_a_shared_root_propagates_as_asked(on_shared_root: CortenEngine) -> None:
    for runtime in ((), ("--runtime", "runc")):
        for propagation in ("rprivate", "rslave", "rshared"):
            check_propagation(on_shared_root, propagation, runtime)


def check_propagation(engine: CortenEngine, propagation: str, runtime: tuple[str, ...]) -> None:
    folder = paths.scratch("bind")
    try:
        for name in ("late", "back"):
            (folder / name).mkdir()
        options = (*runtime, "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
        bind = f"{folder}:/data:{propagation}"
        engine.docker("run", "-d", "--name", "box", *options, "-v", bind, IMAGE, "sleep", "100", check=True)
        inside(engine, "mount", "-t", "tmpfs", "late", str(folder / "late"))
        seen = engine.docker("exec", "box", "cat", "/proc/mounts", check=True).stdout
        assert ("late /data/late tmpfs" in seen) == (propagation != "rprivate"), (propagation, runtime)
        engine.docker("exec", "box", "mount", "-t", "tmpfs", "back", "/data/back", check=True)
        assert (str(folder / "back") in mount_points(engine)) == (propagation == "rshared"), (propagation, runtime)
    finally:
        engine.docker("rm", "-f", "box")
        inside(engine, "sh", "-c", f"umount {folder}/late; umount {folder}/back 2>/dev/null; true")
        process.unmount_below(folder)
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def test_every_capability_is_the_bounding_set_of_the_engine(shared_engine: CortenEngine) -> None:
    """--privileged and --cap-add ALL, as current dockerd has it: what the machine does not give is left out."""
    status = Path(f"/proc/{shared_engine.pid}/status").read_text().splitlines()
    bounding = dict(line.split(":", 1) for line in status)["CapBnd"].strip()
    for runtime in ((), ("--runtime", "runc")):
        for options in (("--privileged",), ("--cap-add", "ALL")):
            words = ("run", "--rm", *runtime, *options, "--network", "none", IMAGE)
            seen = shared_engine.docker(
                *words, "grep", "-E", "Cap(Prm|Eff|Bnd)", "/proc/self/status", check=True
            ).stdout
            assert {line.split()[1] for line in seen.splitlines()} == {bounding}, (runtime, options)


FEW_FILES = ("sh", "-c", 'ulimit -Sn 1024 && exec "$0" "$@"')


def test_cortend_takes_all_files_that_it_may_open_and_containers_get_what_it_was_given(
    make_engine: Callable[..., CortenEngine],
) -> None:
    """Under the built-in runtime: runc is a Go program, and raises its limit itself."""
    engine = make_engine()
    engine.docker("load", "-i", str(images.busybox()), check=True)
    engine.stop()
    engine.start(FEW_FILES)
    (row,) = [line for line in Path(f"/proc/{engine.pid}/limits").read_text().splitlines() if "open files" in line]
    soft, hard = row.split()[3:5]
    assert soft == hard != "1024"
    look = ("sh", "-c", "ulimit -Sn; ulimit -Hn")
    ran = engine.docker("run", "--rm", IMAGE, *look, check=True).stdout
    engine.docker("run", "-d", "--name", "box", IMAGE, "sleep", "100", check=True)
    entered = engine.docker("exec", "box", *look, check=True).stdout
    engine.docker("rm", "-f", "box", check=True)
    assert ran.split() == entered.split() == ["1024", hard]
