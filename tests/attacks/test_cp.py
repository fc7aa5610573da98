"""Containers against `cp`, both ways: links that are swapped while a path is looked up, mounts that are to land
elsewhere, programs that are to be run, files that hold a reader up.

Each test is a line of the cp attacks: moby CVE-2018-15664, 2021-41089, 2026-42306, GHSA-vp62-88p7-qqf5 and podman
CVE-2019-10152, 2019-18466 (links and mounts), moby CVE-2019-14271 and 2026-41567 (libraries and tools of the
container), moby CVE-2026-17106 (links of an archive).
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import images, paths, programs, races, summary, weakened_corten
from support import tarballs as t
from support.copying import call, tree
from support.engine import CortenEngine
from support.races import Race, Wanted

SLOW = pytest.mark.slow
pytestmark = races.TIMEOUT
SECRET = b"the host's own"
ROUNDS = 30
ONE = t.archive(t.directory(b"sub", mode=0o777), t.entry(b"sub/x", data=b"1"), t.entry(b"x", data=b"1"))


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that no container was given."""
    folder = paths.scratch("outside")
    (folder / "secret").write_bytes(SECRET)
    (folder / "sub").mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def volume() -> Iterator[Path]:
    """A bind mount's source, with the program that swaps."""
    folder = paths.scratch("volume")
    programs.build(Path(__file__).with_name("swap.c"), folder / "swap")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def loaded() -> Iterator[CortenEngine]:
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


@pytest.fixture
def target(loaded: CortenEngine, volume: Path) -> Iterator[CortenEngine]:
    """The engine; its container goes before the volume does."""
    yield loaded
    loaded.docker("rm", "-f", "box")


def run(engine: CortenEngine, volume: Path, script: str, *options: str) -> None:
    """A container that has made what the script makes before its last command, which goes on."""
    head, _, last = script.rpartition("; ")
    words = ("run", "-d", "--name", "box", "--network", "none", "-v", f"{volume}:/data", *options, images.BUSYBOX_REF)
    engine.docker(*words, "sh", "-c", f"{head}; touch /data/ready; {last}", check=True)
    deadline = time.monotonic() + 60
    while not (volume / "ready").exists():
        assert time.monotonic() < deadline, engine.docker("logs", "box").stderr
        time.sleep(0.01)


# where names are swapped: in the container's own layer, in a volume, above the mount point of a volume
SWAPS = {
    "layer": ("mkdir -p /d/x; echo own > /d/x/secret; ln -s {outside} /d/link; exec /data/swap /d/x /d/link", "/d/x"),
    "volume": (
        "mkdir -p /data/x; echo own > /data/x/secret; ln -s {outside} /data/link; exec /data/swap /data/x /data/link",
        "/data/x",
    ),
    "above": (
        "mkdir -p /a/b/x; echo own > /a/b/x/secret; mkdir -p /l; ln -s {outside} /l/x; exec /data/swap /a/b /l",
        "/a/b/x",
    ),
}


def swapped_out(engine: CortenEngine, path: str, wanted: Wanted = "met") -> Race:
    """Reads that met the link, reads that got the host's file."""
    race = Race()
    for _ in race.until(ROUNDS, wanted):
        found = call(engine.socket, "GET", "box", f"{path}/secret")
        race.met += found.status == 404
        race.escaped += SECRET in found.body
    return race


@pytest.mark.parametrize("where", ["layer", pytest.param("volume", marks=SLOW), pytest.param("above", marks=SLOW)])
def test_a_path_whose_names_are_swapped_is_read_inside(
    target: CortenEngine, volume: Path, outside: Path, where: str
) -> None:
    script, path = SWAPS[where]
    run(target, volume, script.format(outside=outside))
    race = swapped_out(target, path)
    seen = f"link met in {race.met} of {race.rounds} reads, {race.escaped} of the host"
    summary.add("races", f"cp out, names swapped ({where}): {seen}")
    assert race.escaped == 0
    assert race.met > 0, races.NEVER


@pytest.mark.parametrize("where", ["layer", pytest.param("volume", marks=SLOW), pytest.param("above", marks=SLOW)])
def test_a_directory_whose_names_are_swapped_is_written_inside(
    target: CortenEngine, volume: Path, outside: Path, where: str
) -> None:
    script, path = SWAPS[where]
    before = tree(outside)
    run(target, volume, script.format(outside=outside))
    above, _, name = path.rpartition("/")
    deep = t.archive(t.entry(f"{name}/sub/x".encode(), data=b"1"), t.directory(f"{name}/sub".encode(), mode=0o777))
    race = Race()
    for _ in race.until(ROUNDS):
        race.met += call(target.socket, "PUT", "box", path, body=ONE).status != 200
        race.met += call(target.socket, "PUT", "box", above, body=deep).status != 200
    summary.add("races", f"cp in, names swapped ({where}): link met in at least {race.met} of {2 * race.rounds}")
    assert tree(outside) == before
    assert race.met > 0, races.NEVER


@SLOW
def test_twin_without_rules_the_host_is_read_and_written(volume: Path, outside: Path) -> None:
    script, path = SWAPS["layer"]
    with (
        weakened_corten.build(*weakened_corten.COPIED) as build,
        CortenEngine(commands=build.commands) as engine,
    ):
        engine.docker("load", "-i", str(images.busybox()), check=True)
        run(engine, volume, script.format(outside=outside))
        assert swapped_out(engine, path, "escaped").escaped > 0, races.NEVER
        before = tree(outside)
        race = Race()
        for _ in race.until(ROUNDS, "escaped"):
            call(engine.socket, "PUT", "box", path, body=ONE)
            race.escaped += tree(outside) != before
        assert race.escaped > 0, races.NEVER


# what a link may name, at rest
LINKS = {
    "absolute": "ln -s {outside} /l; exec sleep 1000",
    "upwards": "ln -s ../../../../../..{outside} /l; exec sleep 1000",
    "through proc": "ln -s /proc/1/root{outside} /l; exec sleep 1000",
    "through a descriptor": "ln -s /proc/self/cwd{outside} /l; exec sleep 1000",
    "chain": "ln -s {outside} /k; ln -s k /l; exec sleep 1000",
}


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_a_link_names_what_is_in_the_container(
    target: CortenEngine, volume: Path, outside: Path, what: str, runs: bool
) -> None:
    run(target, volume, LINKS[what].format(outside=outside))
    if not runs:
        target.docker("kill", "box", check=True)
    before = tree(outside)
    for path in ("/l/", "/l/.", "/l/secret", "/l/../secret"):
        found = call(target.socket, "GET", "box", path)
        assert (found.status, SECRET in found.body) == (404, False)
    assert call(target.socket, "PUT", "box", "/l", body=ONE).status == 404
    through = t.archive(t.symlink(b"m", str(outside).encode()), t.entry(b"m/x", data=b"1"))
    assert call(target.socket, "PUT", "box", "/tmp", body=through).status != 200
    assert tree(outside) == before


# moby CVE-2026-42306: the mounts of the tree that is made for a copy


def mounts_at(engine: CortenEngine, folder: Path) -> list[str]:
    """What is mounted in a folder of the host, for us or for the engine."""
    tables = (Path("/proc/self/mountinfo"), Path(f"/proc/{engine.pid}/mountinfo"))
    return [line for table in tables for line in table.read_text().splitlines() if str(folder) in line.split()[4]]


@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=SLOW)], ids=["running", "stopped"])
def test_a_mount_whose_place_is_swapped_lands_inside(
    target: CortenEngine, volume: Path, outside: Path, runs: bool
) -> None:
    inner = volume / "inner"
    inner.mkdir()
    (inner / "mine").write_text("mine")
    before = tree(outside)
    script = "mkdir -p /m/l; ln -s {outside} /m/l/sub; exec /data/swap /m/a /m/l"
    options = ("-v", f"{inner}:/m/a/sub")
    run(target, volume, script.format(outside=outside), *options)
    for number in range(ROUNDS):
        if not runs and number % 10 == 0:
            target.docker("restart", "-t", "0", "box", check=True)
            target.docker("kill", "box", check=True)
        call(target.socket, "GET", "box", "/m/a/sub")
        call(target.socket, "PUT", "box", "/m/a/sub", body=ONE)
        found = call(target.socket, "GET", "box", "/m/a/sub/secret")
        assert SECRET not in found.body
    assert tree(outside) == before
    assert mounts_at(target, outside) == []


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_a_source_that_another_mount_holds_is_no_link_of_the_container(
    target: CortenEngine, volume: Path, outside: Path, runs: bool
) -> None:
    """The container has a directory and, once more, what lies in it; there it puts a link to the host."""
    inner = volume / "inner"
    inner.mkdir()
    before = tree(outside)
    script = f"mv /data/inner /data/was; ln -s {outside} /data/inner; exec sleep 1000"
    run(target, volume, script, "-v", f"{inner}:/inner")
    if not runs:
        target.docker("kill", "box", check=True)
    put = call(target.socket, "PUT", "box", "/inner", body=ONE)
    found = call(target.socket, "GET", "box", "/inner/secret")
    assert SECRET not in found.body
    assert tree(outside) == before
    if runs:  # it has its own directory there still
        assert (put.status, found.status) == (200, 404)
        assert (volume / "was" / "x").exists()
    else:
        text = f"mount {inner}: a link leads out of {volume}, which the container has too"
        assert put.message == found.message == text


# moby CVE-2019-14271, 2026-41567: nothing of the container runs


TOOLS = ("getent", "xz", "unxz", "gzip", "pigz", "unpigz", "tar", "zstd", "igzip", "id", "chown", "sh")


def test_no_program_of_the_container_is_run(target: CortenEngine, volume: Path) -> None:
    tool = "#!/data/ash\\necho $0 >> /data/ran\\n"
    script = (
        "cp /bin/busybox /data/ash; mkdir -p /usr/bin /sbin; "
        f"for tool in {' '.join(TOOLS)}; do for folder in /bin /usr/bin /sbin; do rm -f $folder/$tool; "
        f"printf '{tool}' > $folder/$tool; chmod 755 $folder/$tool; done; done; "
        "echo 'passwd: evil' > /etc/nsswitch.conf; exec sleep 1000"
    )
    run(target, volume, script, "-u", "root")
    body = t.archive(t.entry(b"x", data=b"1"))
    for packed in (body, gzip.compress(body), lzma.compress(body)):
        assert call(target.socket, "PUT", "box", "/tmp", body=packed, copyUIDGID="1").status == 200
    assert call(target.socket, "GET", "box", "/").status == 200
    assert not (volume / "ran").exists()


# podman CVE-2019-18466 and its kind: what holds a reader up, or never ends


def test_pipes_devices_and_files_without_an_end_hold_nobody_up(target: CortenEngine, volume: Path) -> None:
    run(target, volume, "mkdir /d; mkfifo /d/pipe; mknod /d/zero c 1 5; exec sleep 1000")
    for path in ("/d/pipe", "/d/zero"):
        assert call(target.socket, "GET", "box", path).entries[0][5] == 0
    assert call(target.socket, "PUT", "box", "/d", body=t.archive(t.entry(b"pipe", data=b"1"))).status == 200
    for path in ("/d/pipe/x", "/d/zero/"):
        assert call(target.socket, "PUT", "box", path, body=ONE).status == 500


def test_kernel_files_are_no_part_of_a_container(target: CortenEngine, volume: Path) -> None:
    run(target, volume, "ln -s /proc/sys/kernel /k; exec sleep 1000", "--privileged")
    assert call(target.socket, "GET", "box", "/proc").entries == [("proc", b"5", 0o755, 0, 0, 0, "")]
    assert call(target.socket, "GET", "box", "/sys/kernel").status == 404
    assert call(target.socket, "PUT", "box", "/k", body=t.archive(t.entry(b"hostname", data=b"x"))).status == 404
    assert call(target.socket, "GET", "box", "/proc/1/environ").status == 404


@pytest.mark.parametrize("path", ["/dev", "/"])
def test_a_mount_of_the_container_itself_is_not_entered(target: CortenEngine, volume: Path, path: str) -> None:
    """A procfs over a destination would take what is copied into it; the directory below gets it."""
    run(target, volume, "umount /data/sub || true; mount -t proc proc /v; exec sleep 1000", "--privileged", "-v",
        f"{volume}:/v")  # fmt: skip
    assert call(target.socket, "GET", "box", "/v/1").status == 404
    assert call(target.socket, "PUT", "box", "/v", body=ONE).status == 200
    assert call(target.socket, "GET", "box", "/v/x").status == 200  # in the layer's own directory, below both mounts
    assert call(target.socket, "HEAD", "box", path).status == 200


def test_what_is_mounted_is_not_removed_by_an_archive(target: CortenEngine, volume: Path) -> None:
    run(target, volume, "true; exec sleep 1000")
    for body in (
        t.archive(t.entry(b"hosts", data=b"1.2.3.4 evil")),
        t.archive(t.directory(b"hosts")),
        t.archive(t.symlink(b"hosts", b"/x")),
    ):
        found = call(target.socket, "PUT", "box", "/etc", body=body)
        assert (found.status, found.message) == (500, "unlinkat /etc/hosts: device or resource busy")
    found = call(target.socket, "PUT", "box", "/", body=t.archive(t.entry(b"data", data=b"1")))
    assert (found.status, found.message) == (500, "unlinkat /data: device or resource busy")
    assert "/data" in target.docker("exec", "box", "mount", check=True).stdout
    assert "localhost" in target.docker("exec", "box", "cat", "/etc/hosts", check=True).stdout


def test_a_read_only_volume_stays_so_through_links_and_deep_archives(target: CortenEngine, volume: Path) -> None:
    kept = volume / "kept"
    (kept / "sub").mkdir(parents=True)
    before = tree(kept)
    script = "ln -s /ro /l; mkdir /d; ln -s /ro /d/m; exec sleep 1000"
    run(target, volume, script, "-v", f"{kept}:/ro:ro")
    for path in ("/ro", "/l", "/d/../l/sub", "/ro/sub"):
        found = call(target.socket, "PUT", "box", path, body=ONE)
        assert (found.status, found.message) == (400, "mounted volume is marked read-only")
    for path, name in (("/", b"ro/x"), ("/d", b"m/x"), ("/", b"ro/new/deep/x"), ("/", b"l/sub/x")):
        found = call(target.socket, "PUT", "box", path, body=t.archive(t.entry(name, data=b"1")))
        assert (found.status, "read-only file system" in found.message) == (500, True)
    assert tree(kept) == before


def test_a_directory_that_goes_while_it_is_copied_into_takes_nothing_along(
    target: CortenEngine, volume: Path, outside: Path
) -> None:
    """Whoever waits for the archive has the destination renamed, and a link put in its place."""
    run(target, volume, "mkdir /d; exec sleep 1000")
    before = tree(outside)
    reading, renamed = threading.Event(), threading.Event()

    class Body:
        """Comes in two parts."""

        def __iter__(self) -> Iterator[bytes]:
            yield t.entry(b"first", data=b"x" * (2 << 20))
            reading.set()
            renamed.wait(60)
            yield t.archive(t.entry(b"second/x", data=b"1"), t.entry(b"third", data=b"1"))

    def rename() -> None:
        reading.wait(60)
        script = f"until [ -e /d/first ]; do sleep 0.05; done; mv /d /e; ln -s {outside} /d"
        target.docker("exec", "box", "sh", "-c", script, check=True)
        renamed.set()

    thread = threading.Thread(target=rename)
    thread.start()
    assert call(target.socket, "PUT", "box", "/d", body=Body()).status == 200
    thread.join()
    assert tree(outside) == before
    listed = target.docker("exec", "box", "ls", "/e", check=True).stdout.split()
    assert listed == ["first", "second", "third"]


def test_links_of_a_container_lead_the_command_line_nowhere(
    target: CortenEngine, volume: Path, outside: Path, tmp_path: Path
) -> None:
    """moby CVE-2026-17106: what `corten cp` unpacks here, while the container changes it."""
    script = "mkdir -p /d/x; echo own > /d/x/secret; ln -s {outside} /d/link; exec /data/swap /d/x /d/link"
    run(target, volume, script.format(outside=outside))
    before = tree(outside)
    race = Race()  # met: something was copied
    for number in race.until(12):
        into = tmp_path / str(number)
        into.mkdir()
        (into / "link").symlink_to(outside)
        race.met += target.corten("cp", "box:/d/.", str(into)).returncode == 0
        for path in into.rglob("*"):
            assert not (path.is_file() and not path.is_symlink() and path.read_bytes() == SECRET)
    assert race.met > 0, "nothing was copied"
    assert tree(outside) == before


def test_a_start_that_is_asked_for_meanwhile_waits_for_the_copy(target: CortenEngine, volume: Path) -> None:
    """The layers are never mounted twice."""
    target.docker("create", "--name", "box", "--network", "none", images.BUSYBOX_REF, "cat", "/etc/second", check=True)
    done: list[Callable[[], object]] = []
    started = threading.Event()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield t.entry(b"first", data=b"x" * (2 << 20))
            started.set()
            time.sleep(1)
            yield t.archive(t.entry(b"second", data=b"in time\n"))

    def start() -> None:
        started.wait(60)
        found = target.docker("start", "-a", "box")
        done.append(lambda: found.stdout)

    thread = threading.Thread(target=start)
    thread.start()
    assert call(target.socket, "PUT", "box", "/etc", body=Body()).status == 200
    thread.join()
    assert done[0]() == "in time\n"
