"""save, load, import, export, commit and diff of the corten command line against an engine; imports from the web."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from support import images, imagestate, paths
from support import tarballs as t
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.httpthread import HttpThread

IMAGE = images.BUSYBOX_REF
ROOTFS = t.archive(t.directory(b"bin"), t.entry(b"bin/x", data=b"x" * 100_000))


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        made.corten("load", "-i", str(images.busybox()), check=True)
        yield made


def cli(engine: CortenEngine, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """The corten command line with bytes."""
    argv = [str(paths.COMMANDS / "corten"), "-H", engine.host, *words]
    return subprocess.run(argv, input=stdin, capture_output=True, check=False, env=client_environment(), timeout=60)


class Web(BaseHTTPRequestHandler):
    """A root file system at /rootfs, and servers that are not so good."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/rootfs")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path not in ("/rootfs", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(ROOTFS)))
        self.end_headers()
        self.wfile.write(ROOTFS if self.path == "/rootfs" else ROOTFS[: len(ROOTFS) // 2])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def web(engine: CortenEngine) -> Iterator[str]:
    with HttpThread(Web, netns=engine.netns) as server:
        yield server.url


@pytest.mark.parametrize("path", ["/rootfs", "/moved"])
def test_an_image_is_imported_from_the_web(engine: CortenEngine, web: str, path: str) -> None:
    done = engine.docker("import", "-c", 'CMD ["/bin/x"]', f"{web}{path}", "from/web:1", check=True)
    assert f"Downloading from {web}{path}" in done.stdout
    (found,) = json.loads(engine.docker("image", "inspect", "from/web:1", check=True).stdout)
    assert done.stdout.splitlines()[-1] == found["Id"]
    assert (found["Comment"], found["Config"]["Cmd"]) == (f"Imported from {web}{path}", ["/bin/x"])
    own = engine.corten("import", f"{web}{path}", "from/web:2", check=True)
    assert own.stdout.splitlines()[0] == f"Downloading from {web}{path}"
    engine.docker("rmi", "from/web:1", "from/web:2", check=True)
    imagestate.judge(engine)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("{web}/absent", "failed to GET {web}/absent with status 404"),
        ("{web}/short", ""),
        ("ftp://127.0.0.1/x", "unsupported address"),
        ("http://127.0.0.1:1/x", "connection refused"),
        ("file:///etc/passwd", "unsupported address"),
    ],
)
def test_what_the_web_does_not_give_is_no_image(engine: CortenEngine, web: str, address: str, text: str) -> None:
    query = f"fromSrc={address.format(web=web)}&repo=from/web&tag=1"
    argv = ["curl", "-s", "--unix-socket", str(engine.socket), "-X", "POST", f"http://d/images/create?{query}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "message" in said or '"error"' in said, said
    assert text.format(web=web) in said
    assert "from/web" not in engine.docker("images").stdout
    imagestate.judge(engine)


def test_save_and_load_through_a_pipe_and_a_file(engine: CortenEngine, tmp_path: Path) -> None:
    engine.corten("tag", IMAGE, "piped:1", check=True)
    piped = cli(engine, "save", "piped:1")
    engine.corten("save", "-o", str(tmp_path / "saved.tar"), "piped:1", check=True)
    assert piped.stdout == (tmp_path / "saved.tar").read_bytes()
    assert (tmp_path / "saved.tar").stat().st_mode & 0o777 == 0o600
    engine.corten("rmi", "piped:1", check=True)
    assert cli(engine, "load", stdin=piped.stdout).stdout == b"Loaded image: piped:1\n"
    assert cli(engine, "load", "-q", "-i", str(tmp_path / "saved.tar")).stdout == b"Loaded image: piped:1\n"
    engine.corten("rmi", "piped:1", check=True)


def test_a_save_that_fails_leaves_no_file_and_not_the_old_one_changed(engine: CortenEngine, tmp_path: Path) -> None:
    (tmp_path / "saved.tar").write_bytes(b"old")
    assert engine.corten("save", "-o", str(tmp_path / "saved.tar"), "nothing").returncode == 1
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("saved.tar", b"old")]


def test_a_container_is_changed_listed_committed_and_exported(engine: CortenEngine) -> None:
    script = "echo said > /new; rm /etc/group"
    engine.corten("run", "--name", "box", "--network", "none", IMAGE, "sh", "-c", script, check=True)
    assert engine.corten("diff", "box").stdout == "C /etc\nD /etc/group\nA /new\n"
    done = engine.corten("commit", "-m", "said", "-a", "me", "-c", "ENV A=b", "box", "made:1", check=True)
    assert done.stdout.startswith("sha256:")
    ran = engine.corten("run", "--rm", "--network", "none", "made:1", "sh", "-c", "cat /new; echo $A; ls /etc/group")
    assert ran.stdout == "said\nb\n"
    with tarfile.open(fileobj=io.BytesIO(cli(engine, "export", "box").stdout)) as archive:
        assert archive.extractfile("new").read() == b"said\n"  # type: ignore[union-attr]
    engine.corten("rm", "box", check=True)
    engine.corten("rmi", "made:1", check=True)
    imagestate.judge(engine)


def test_the_parent_of_a_commit_is_removed_after_it(engine: CortenEngine, tmp_path: Path) -> None:
    """Layers go when the last image that has them goes."""
    layer = images.layer([images.Entry("mine", b"mine")])
    (tmp_path / "base.tar").write_bytes(images.docker_archive(["base:1"], [*images.busybox_layers(), layer], {}))
    engine.corten("load", "-i", str(tmp_path / "base.tar"), check=True)
    engine.corten("run", "--name", "box", "--network", "none", "base:1", "touch", "/new", check=True)
    engine.corten("commit", "box", "made:1", check=True)
    engine.corten("rm", "box", check=True)
    engine.corten("rmi", "base:1", check=True)
    assert engine.corten("run", "--rm", "--network", "none", "made:1", "cat", "/mine", "/new").stdout == "mine"
    engine.corten("rmi", "made:1", check=True)
    imagestate.judge(engine)


def test_events_tell_of_archives(engine: CortenEngine) -> None:
    engine.corten("run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000", check=True)
    since = subprocess.run(["date", "+%s.%N"], capture_output=True, text=True, check=True).stdout.strip()
    engine.corten("commit", "box", "made:1", check=True)
    cli(engine, "export", "box")
    cli(engine, "save", "made:1")
    until = subprocess.run(["date", "+%s.%N"], capture_output=True, text=True, check=True).stdout.strip()
    form = "{{.Type}} {{.Action}}"
    told = engine.docker("events", "--since", since, "--until", until, "--format", form, check=True).stdout.splitlines()
    assert told == [
        *("container pause", "image tag", "container commit", "container unpause"),
        *("container export", "image save"),
    ]
    engine.corten("rm", "-f", "box", check=True)
    engine.corten("rmi", "made:1", check=True)


def test_a_load_tells_how_far_its_layers_are_unless_it_is_quiet(engine: CortenEngine, tmp_path: Path) -> None:
    layers = [images.layer([images.Entry("large", bytes([number]) * (3 << 20))]) for number in (1, 2)]
    path = tmp_path / "large.tar"
    path.write_bytes(images.docker_archive(["large:1"], layers, {}))
    argv = ["curl", "-s", "--unix-socket", str(engine.socket), "-X", "POST", "-T", str(path)]
    told = []
    for quiet in (1, 0):
        url = f"http://d/images/load?quiet={quiet}"
        said = subprocess.run([*argv, url], capture_output=True, text=True, check=True).stdout
        told.append([json.loads(line) for line in said.splitlines()])
        engine.corten("rmi", "large:1", check=True)
    assert told[0] == [{"stream": "Loaded image: large:1\n"}]
    *bars, last = told[1]
    assert last == told[0][0]
    assert {one["status"] for one in bars} == {"Loading layer"}
    ends = {one["id"]: one["progressDetail"] for one in bars}
    sizes = {t.digest(layer)[7:19]: len(layer) for layer in layers}
    assert ends == {name: {"current": size, "total": size} for name, size in sizes.items()}
