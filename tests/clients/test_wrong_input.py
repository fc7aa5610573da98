"""Wrong input to cortend, corten and tools: one clear line that names the object, the right code, nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths
from support.engine import CortenEngine
from support.netns import NetNs

IMAGE = images.BUSYBOX_REF
CORTEND, CORTEN = str(paths.COMMANDS / "cortend"), str(paths.COMMANDS / "corten")
SEE = "\nSee 'cortend --help'."


@pytest.fixture(scope="module")
def netns() -> Iterator[NetNs]:
    with NetNs() as found:
        yield found


def run(*argv: str) -> tuple[int, str]:
    """(exit code, stderr without its last line end); stdout must be empty."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout == ""
    return done.returncode, done.stderr.removesuffix("\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--host", "ftp://x"], "--host: 'ftp://x': only unix://, tcp:// and fd:// are supported"),
        (["--host", "x"], "--host: 'x': only unix://, tcp:// and fd:// are supported"),
        (["--host", "tcp://127.0.0.1:x"], "--host: 'tcp://127.0.0.1:x': give tcp://address:port"),
        (["--host", "tcp://127.0.0.1:70000"], "--host: 'tcp://127.0.0.1:70000': give tcp://address:port"),
        (["--host", "unix://"], "--host: 'unix://': give unix:///path of the socket"),
        (["--nonsense"], f"unknown flag: --nonsense{SEE}"),
        (["-Z"], f"unknown shorthand flag: 'Z' in -Z{SEE}"),
        (["word"], f'"cortend" accepts no argument(s).{SEE}'),
        (["--host"], f"flag needs an argument: --host{SEE}"),
        (["--storage-driver", "vfs"], "--storage-driver: driver not supported: vfs: overlay2 is the only one"),
        (["--add-runtime", "x"], 'invalid argument "x" for "--add-runtime" flag: invalid runtime argument: x'),
        (["--label", "x"], 'invalid argument "x" for "--label" flag: bad attribute format: x'),
        (["--bip", "x"], "--bip: invalid CIDR address: x"),
        (["--metrics-addr", "x"], "--metrics-addr: 'x': give address:port"),
        (
            ["--registry-mirror=x://y"],
            'invalid argument "x://y" for "--registry-mirror" flag: invalid mirror: unsupported scheme "x" in "x://y"',
        ),
        (
            ["--max-concurrent-uploads=x"],
            'invalid argument "x" for "--max-concurrent-uploads" flag: strconv.ParseInt: parsing "x": '
            f"invalid syntax{SEE}",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_cortend_names_the_flag_that_is_wrong(args: list[str], said: str) -> None:
    assert run(CORTEND, *args) == (1, f"cortend: {said}")


WRONG_FILES = [
    (b"{bad", "JSON is malformed: object keys must be strings (byte 1)"),
    (b"\xff\xfe{}", "JSON is malformed: invalid character (byte 0)"),
    (b"[]", "not a JSON object"),
    (b'{"debug": "yes"}', "debug: not true or false"),
    (b'{"hosts": "unix:///x"}', "hosts: not a list of strings"),
    (b'{"hosts": ["ftp://x"]}', "hosts: 'ftp://x': only unix://, tcp:// and fd:// are supported"),
    (b'{"data-root": 5}', "data-root: not a string"),
    (b'{"runtimes": {"x": 5}}', "runtimes.x: not an object"),
    (b'{"default-runtime": "nope"}', "specified default runtime 'nope' does not exist"),
    (b'{"default-pids-limit": "5"}', "default-pids-limit: not a number above 0, or -1 for no limit"),
    (b'{"labels": ["x"]}', "bad attribute format: x"),
    (b'{"log-driver": "nope"}', 'error looking up logging plugin nope: plugin "nope" not found'),
    (b'{"nonsense": 1}', "the following directives don't match any configuration option: nonsense"),
    (b'{"bip": "x"}', "bip: invalid CIDR address: x"),
    (b'{"metrics-addr": "x"}', "metrics-addr: 'x': give address:port"),
]


@pytest.mark.parametrize(("data", "said"), WRONG_FILES, ids=[data.decode(errors="replace") for data, _ in WRONG_FILES])
def test_cortend_names_what_is_wrong_in_the_file(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_bytes(data)
    assert run(CORTEND, "--config", str(file)) == (
        1,
        f"cortend: unable to configure the daemon with file {file}: {said}",
    )


@pytest.mark.parametrize(("path", "said"), [("/nonexistent", "no such file or directory"), ("/tmp", "is a directory")])
def test_cortend_names_a_file_that_it_cannot_read(path: str, said: str) -> None:
    whole = f"cortend: unable to configure the daemon with file {path}: open {path}: {said}"
    assert run(CORTEND, "--config", path) == (1, whole)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data-root", "{folder}/file", "not a directory"),
        ("data-root", "/proc/nothing/here", "/proc/nothing: no such file or directory"),
        ("exec-root", "{folder}/file", "not a directory"),
        ("exec-root", "/proc/nothing", "no such file or directory"),
        ("host", "unix:///proc/nothing/s", "/proc/nothing: no such file or directory"),
        ("pidfile", "/nonexistent/pid", "no such file or directory"),
        ("pidfile", "{folder}", "is a directory"),
        ("host", "tcp://192.0.2.1:9999", "cannot assign requested address"),
        ("metrics-addr", "192.0.2.1:9999", "cannot assign requested address"),
    ],
)
@pytest.mark.parametrize("given", ["flag", "file"])
def test_cortend_that_cannot_start_names_the_setting_and_leaves_nothing(
    netns: NetNs, tmp_path: Path, given: str, key: str, value: str, said: str
) -> None:
    (tmp_path / "file").touch()
    value = value.replace("{folder}", str(tmp_path))
    settings = {"data-root": f"{tmp_path}/d/d", "exec-root": f"{tmp_path}/e/e", "host": f"unix://{tmp_path}/s/s"}
    settings |= {key: value}
    config = {"hosts" if key == "host" else key: [value] if key == "host" else value} if given == "file" else {}
    (tmp_path / "daemon.json").write_text(json.dumps(config))
    flags = [f"--{name}={text}" for name, text in settings.items() if given == "flag" or name != key]
    before = sorted(os.listdir(tmp_path))
    subprocess.run([*netns.enter, "ip", "link", "set", "lo", "up"], check=True)
    status, text = run(*netns.enter, CORTEND, *flags, "--config", str(tmp_path / "daemon.json"))
    name = f"--{key}" if given == "flag" else f"{'hosts' if key == 'host' else key} (daemon.json)"
    assert (status, text) == (1, f"cortend: {name} {value}: {said}")
    assert sorted(os.listdir(tmp_path)) == before
    links = subprocess.run([*netns.enter, "ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    assert len(links.splitlines()) == 1, "a bridge was made"


@pytest.mark.parametrize("host", ["ftp://x", "x", "unix://", "tcp", "tcp://127.0.0.1:x", "fd://"])
def test_corten_says_itself_that_a_host_is_none(host: str) -> None:
    said = f'unable to parse host "{host}": give unix:///path.sock, tcp://address:port or ssh://host'
    assert run(CORTEN, "-H", host, "ps") == (1, said)


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("run", "--env-file", "{folder}/bytes", IMAGE), 125, "invalid utf8 bytes at line 2: [255 61 49]"),
        (("run", "--env-file", "{folder}", IMAGE), 125, "read {folder}: is a directory"),
        (("run", "--mount", "type=tmpfs,dst=/x,tmpfs-mode=9", IMAGE), 125, "invalid value for tmpfs-mode: 9"),
        (("run", "--cidfile", "/nonexistent/id", IMAGE, "true"), 127, "open /nonexistent/id: no such file"),
        (("run", "--cidfile", "{folder}/bytes", IMAGE, "true"), 125, "container ID file found"),
        (("run", "--detach-keys", "zz", IMAGE, "true"), 125, "invalid detach keys (zz): unknown character: 'zz'"),
        (("run", "--security-opt", "seccomp={folder}/bytes", IMAGE), 125, "({folder}/bytes) is not JSON"),
        (("run", "-d", "-a", "stdout", IMAGE), 1, "cannot specify both --attach and --detach"),
        (("run", "-it", IMAGE, "true"), 1, "the input device is not a TTY"),
        (("run", "--pull", "sometimes", IMAGE), 125, "invalid pull option: 'sometimes'"),
    ],
)
def test_wrong_run_says_so_and_makes_no_container(
    shared_engine: CortenEngine, tmp_path: Path, args: tuple[str, ...], status: int, said: str
) -> None:
    (tmp_path / "bytes").write_bytes(b"A=1\n\xff=1\n")
    before = shared_engine.corten("ps", "-aq").stdout
    found = run(CORTEN, "-H", shared_engine.host, *(arg.replace("{folder}", str(tmp_path)) for arg in args))
    assert found[0] == status
    assert said.replace("{folder}", str(tmp_path)) in found[1]
    assert "Error response from daemon" not in found[1]
    assert "Traceback" not in found[1]
    assert shared_engine.corten("ps", "-aq").stdout == before


def test_cidfile_of_a_container_that_was_not_made_goes_again(shared_engine: CortenEngine, tmp_path: Path) -> None:
    file = tmp_path / "id"
    assert shared_engine.corten("run", "--cidfile", str(file), "--cap-add", "NONSENSE", IMAGE).returncode == 125
    assert not file.exists()
    assert shared_engine.corten("run", "--rm", "--cidfile", str(file), IMAGE, "true").returncode == 0
    assert len(file.read_text()) == 64


@pytest.mark.parametrize("ref", ["Bad/Name", "a:b:c", "", "x@sha256:1", "/x", "x/", "a..b", "x:-"])
def test_mkimage_refuses_a_name_that_no_engine_takes(tmp_path: Path, ref: str) -> None:
    output = tmp_path / "image.tar"
    argv = [sys.executable, str(paths.REPOSITORY / "tools" / "mkimage.py"), "--ref", ref, "--output", str(output)]
    status, said = run(*argv)
    assert status == 2
    assert f"--ref {ref}: invalid reference format" in said
    assert not output.exists()


@pytest.mark.parametrize("ref", ["a", "a/b:1", "localhost:5000/x:y", "reg.example/a/b__c-d:V1.2_3"])
def test_mkimage_takes_a_name_that_engines_take(tmp_path: Path, ref: str) -> None:
    output = tmp_path / "image.tar"
    argv = [sys.executable, str(paths.REPOSITORY / "tools" / "mkimage.py"), "--ref", ref, "--output", str(output)]
    assert run(*argv) == (0, "")
    assert output.exists()


def test_mkimage_names_what_it_cannot_write() -> None:
    argv = [
        sys.executable,
        str(paths.REPOSITORY / "tools" / "mkimage.py"),
        "--ref",
        "a",
        "--output",
        "/nonexistent/x.tar",
    ]
    assert run(*argv) == (1, "mkimage.py: /nonexistent/x.tar: no such file or directory")
