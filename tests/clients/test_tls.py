"""An engine on TCP with mutual TLS, used by the real docker CLI, docker-py and by corten."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import images, paths, peers, process
from support.certificates import Authority, Pair
from support.dockerd import client_environment
from support.engine import CortenEngine

PORT = 2376
HOST = f"tcp://127.0.0.1:{PORT}"
IMAGE = images.BUSYBOX_REF


class Lab:
    """The engine, and files for those who may and those who may not."""

    def __init__(self, folder: Path) -> None:
        (folder / "other").mkdir()
        self.authority, other = Authority(folder), Authority(folder / "other", "Somebody else")
        self.server, self.client = self.authority.issue("server"), self.authority.issue("client")
        self.stranger = other.issue("stranger")
        self.other_ca = other.ca
        self.certs = folder / "certs"
        self.certs.mkdir()
        for source, name in ((self.authority.ca, "ca"), (self.client.cert, "cert"), (self.client.key, "key")):
            shutil.copy(source, self.certs / f"{name}.pem")
        self.engine = CortenEngine(args=["--host", HOST, "--tlsverify", *self.flags(self.server)])

    def flags(self, pair: Pair, authority: Path | None = None) -> list[str]:
        ca = authority or self.authority.ca
        return [f"--tlscacert={ca}", f"--tlscert={pair.cert}", f"--tlskey={pair.key}"]

    def run(
        self, program: str, *args: str, stdin: bytes = b"", env: dict[str, str] | None = None, host: str = HOST
    ) -> subprocess.CompletedProcess[bytes]:
        """One of the two clients, beside the engine."""
        path = peers.docker_cli() if program == "docker" else paths.COMMANDS / "corten"
        argv = [*self.engine.netns.enter, str(path), "-H", host, *args]
        return subprocess.run(
            argv, input=stdin, capture_output=True, check=False, timeout=60, env=client_environment() | (env or {})
        )

    def trusted(self, program: str, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = self.run(program, "--tlsverify", *self.flags(self.client), *args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for this file."""
    folder = paths.scratch("tls")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        made = Lab(folder)
        with made.engine:
            made.engine.docker("load", "-i", str(images.busybox()), check=True)
            yield made


both = pytest.mark.parametrize("program", ["corten", "docker"])


@both
def test_a_client_with_a_certificate_is_served(lab: Lab, program: str) -> None:
    assert b"Server" in lab.trusted(program, "version").stdout


@both
def test_the_variables_of_docker_do_as_well(lab: Lab, program: str) -> None:
    env = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(lab.certs)}
    done = lab.run(program, "info", "--format", "{{.Driver}}", env=env)
    assert (done.returncode, done.stdout) == (0, b"overlay2\n"), done.stderr


@both
def test_stdin_ends_and_the_answer_still_comes(lab: Lab, program: str) -> None:
    script = "cat >/dev/null; sleep 0.2; echo after"
    assert lab.trusted(program, "run", "--rm", "-i", IMAGE, "sh", "-c", script, stdin=b"x\n").stdout == b"after\n"


@both
def test_what_goes_through_an_attached_container_is_whole(lab: Lab, program: str) -> None:
    data = os.urandom(1 << 20) * 3
    done = lab.trusted(program, "run", "--rm", "-i", IMAGE, "sha256sum", stdin=data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    back = lab.trusted(program, "run", "--rm", "-i", IMAGE, "cat", stdin=data).stdout
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()


@both
def test_exec_logs_exit_codes_and_archives_work(lab: Lab, program: str, tmp_path: Path) -> None:
    name = lab.trusted(program, "run", "-d", IMAGE, "sh", "-c", "echo one; sleep 100").stdout.strip().decode()
    try:
        assert lab.trusted(program, "exec", "-i", name, "cat", stdin=b"typed").stdout == b"typed"
        assert lab.run(program, "--tlsverify", *lab.flags(lab.client), "exec", name, "false").returncode == 1
        lab.trusted(program, "kill", name)
        assert lab.trusted(program, "logs", "-f", name).stdout == b"one\n"
        lab.trusted(program, "export", "-o", str(tmp_path / "x.tar"), name)
        assert (tmp_path / "x.tar").stat().st_size > 1 << 20
    finally:
        lab.trusted(program, "rm", "-f", name)


def test_docker_py_is_served(lab: Lab) -> None:
    script = (
        "import docker, sys\n"
        "ca, cert, key, host, image = sys.argv[1:]\n"
        "tls = docker.tls.TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=True)\n"
        "client = docker.DockerClient(base_url=host, tls=tls)\n"
        "print(client.containers.run(image, ['echo', 'hello'], remove=True))\n"
        "box = client.containers.run(image, ['sleep', '100'], detach=True)\n"
        "print(box.exec_run(['sh', '-c', 'echo out; echo err >&2'], demux=True))\n"
        "box.remove(force=True)\n"
    )
    python = paths.COMMANDS / "python3"
    argv = [*lab.engine.netns.enter, str(python), "-c", script, str(lab.authority.ca)]
    argv += [str(lab.client.cert), str(lab.client.key), HOST, IMAGE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=client_environment())
    assert done.stdout == "b'hello\\n'\nExecResult(exit_code=0, output=(b'out\\n', b'err\\n'))\n", done.stderr


# who is refused


@both
def test_a_client_without_a_certificate_is_refused(lab: Lab, program: str) -> None:
    done = lab.run(program, "--tlsverify", f"--tlscacert={lab.authority.ca}", "ps")
    assert done.returncode == 1
    assert re.search(rb"certificate required|bad certificate|closed the connection", done.stderr), done.stderr


@both
def test_a_client_with_a_stranger_s_certificate_is_refused(lab: Lab, program: str) -> None:
    done = lab.run(program, "--tlsverify", *lab.flags(lab.stranger, lab.authority.ca), "ps")
    assert done.returncode == 1
    assert re.search(rb"unknown certificate authority|unknown ca|closed the connection", done.stderr), done.stderr


@both
def test_an_engine_that_is_not_trusted_is_left_alone(lab: Lab, program: str) -> None:
    done = lab.run(program, "--tlsverify", *lab.flags(lab.client, lab.other_ca), "ps")
    assert done.returncode == 1
    assert re.search(rb"unknown authority|certificate in certificate chain|local issuer certificate", done.stderr), (
        done.stderr
    )


@both
def test_a_name_that_the_certificate_has_not_is_refused(lab: Lab, program: str) -> None:
    done = lab.run(program, "--tlsverify", *lab.flags(lab.client), "ps", host=f"tcp://127.0.0.2:{PORT}")
    assert done.returncode == 1  # nothing listens there
    plain = lab.run(program, "--tls", *lab.flags(lab.client), "ps")
    assert plain.returncode == 0, plain.stderr


@both
def test_a_client_that_speaks_plain_http_is_told(lab: Lab, program: str) -> None:
    done = lab.run(program, "ps")
    assert done.returncode == 1
    assert b"Client sent an HTTP request to an HTTPS server" in done.stderr


@both
def test_files_that_are_not_there_are_named(lab: Lab, program: str) -> None:
    done = lab.run(program, "--tlsverify", "--tlscacert=/nowhere/ca.pem", "ps")
    assert done.returncode == 1
    assert b"open /nowhere/ca.pem: no such file or directory" in done.stderr


def connections(pid: int) -> int:
    """How many TCP connections the engine holds (proc_net_tcp(5): state 01 and 08, established and half closed)."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(f":{PORT:04X}") and row[3] in ("01", "08"))


def at_rest(lab: Lab) -> int:
    """Open descriptors of the engine that has no client."""
    process.wait_for(lambda: not connections(lab.engine.pid), "connections are closed")
    time.sleep(0.1)  # for the pairs behind them
    return len(os.listdir(f"/proc/{lab.engine.pid}/fd"))


def test_a_connection_that_says_nothing_hinders_nobody(lab: Lab) -> None:
    lab.trusted("docker", "ps")
    before = at_rest(lab)
    script = "import socket,sys,time; a=[socket.create_connection(('127.0.0.1',2376)) for _ in range(50)];"
    script += "[s.send(b'\\x16\\x03\\x01') for s in a]; print('there',flush=True); sys.stdin.read()"
    argv = [*lab.engine.netns.enter, str(paths.COMMANDS / "python3"), "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        assert idle.stdout.readline() == b"there\n"
        assert connections(lab.engine.pid) == 50
        lab.trusted("docker", "ps")
        idle.communicate(b"")
    process.wait_for(lambda: at_rest(lab) <= before, "closed descriptors")


def test_clients_that_vanish_leave_no_descriptor(lab: Lab) -> None:
    lab.trusted("docker", "ps")
    before = at_rest(lab)
    argv = [*lab.engine.netns.enter, str(peers.docker_cli()), "-H", HOST, "--tlsverify", *lab.flags(lab.client)]
    for _ in range(5):
        with subprocess.Popen([*argv, "events"], stdout=subprocess.DEVNULL, env=client_environment()) as running:
            try:
                process.wait_for(lambda: connections(lab.engine.pid) > 0, "connection")
            finally:
                running.kill()
        process.wait_for(lambda: at_rest(lab) <= before, "closed descriptors")


# contexts


@both
def test_a_context_with_files_is_as_good_as_flags(lab: Lab, program: str, tmp_path: Path) -> None:
    env = client_environment() | {"DOCKER_CONFIG": str(tmp_path)}
    other = {"docker": str(paths.COMMANDS / "corten"), "corten": str(peers.docker_cli())}[program]
    for name, pair in (("right", lab.client), ("wrong", lab.stranger)):
        words = f"host={HOST},ca={lab.authority.ca},cert={pair.cert},key={pair.key}"
        argv = [other, "context", "create", name, "--docker", words]
        subprocess.run(argv, check=True, capture_output=True, timeout=60, env=env)
    path = peers.docker_cli() if program == "docker" else paths.COMMANDS / "corten"

    def ask(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [*lab.engine.netns.enter, str(path), *words, "info", "-f", "{{.Driver}}"]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=env | more)

    assert ask("--context", "right").stdout == "overlay2\n"
    assert ask(DOCKER_CONTEXT="right").stdout == "overlay2\n"
    assert ask("-c", "wrong").returncode == 1
    subprocess.run([other, "context", "use", "right"], check=True, capture_output=True, timeout=60, env=env)
    assert ask().stdout == "overlay2\n"
    assert ask(DOCKER_HOST="unix:///nowhere/s").returncode == 1


# what cortend says of wrong files


def validate(*args: str) -> tuple[int, str]:
    """`cortend --validate`."""
    argv = [str(paths.COMMANDS / "cortend"), "--validate", *args]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30, env=client_environment())
    return done.returncode, done.stderr


def swapped(lab: Lab) -> list[str]:
    return [f"--tlscacert={lab.authority.ca}", f"--tlscert={lab.server.cert}", f"--tlskey={lab.client.key}"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (lambda lab: lab.flags(lab.server), "configuration OK"),
        (
            lambda lab: lab.flags(lab.server, Path("/nowhere")),
            'could not read CA certificate "/nowhere": open /nowhere',
        ),
        (
            lambda lab: ["--tlscert=/nowhere", "--tlskey=/x"],
            'could not load X509 key pair (cert: "/nowhere", key: "/x")',
        ),
        (swapped, "error reading X509 key pair"),
        (
            lambda lab: lab.flags(lab.server, Path("/dev/null")),
            'failed to append certificates from PEM file: "/dev/null"',
        ),
    ],
)
def test_validate_looks_into_the_files(lab: Lab, flags: Callable[[Lab], list[str]], text: str) -> None:
    status, said = validate("--tlsverify", *flags(lab))
    assert text in said
    assert status == (0 if text == "configuration OK" else 1)


def test_tls_without_verify_serves_anyone_and_warns() -> None:
    folder = paths.scratch("tls")
    authority = Authority(folder)
    server = authority.issue("server")
    config = {"tls": True, "tlscert": str(server.cert), "tlskey": str(server.key)}
    try:
        with CortenEngine(config=config, args=["--host", HOST]) as engine:
            argv = [*engine.netns.enter, str(peers.docker_cli()), "-H", HOST, "--tlsverify"]
            argv += [f"--tlscacert={authority.ca}", "ps", "-q"]
            done = subprocess.run(argv, check=False, capture_output=True, timeout=30, env=client_environment())
            assert (done.returncode, done.stdout) == (0, b""), done.stderr
            assert "anyone who can reach 127.0.0.1" in engine.log_tail()
    finally:
        shutil.rmtree(folder)


def test_sighup_takes_new_files_for_new_clients_and_a_wrong_one_changes_nothing() -> None:
    folder = paths.scratch("tls")
    (folder / "other").mkdir()
    old, new = Authority(folder), Authority(folder / "other", "Its successor")
    used = {key: folder / f"{key}.pem" for key in ("tlscacert", "tlscert", "tlskey")}

    def put(authority: Authority) -> None:
        pair = authority.issue("server")
        for source, target in zip((authority.ca, pair.cert, pair.key), used.values(), strict=True):
            shutil.copy(source, target)

    put(old)
    config = {"tlsverify": True, **{key: str(path) for key, path in used.items()}}
    try:
        with CortenEngine(config=config, args=["--host", HOST]) as engine:

            def ask(authority: Authority, *words: str) -> subprocess.Popen[bytes]:
                pair = authority.issue("client")
                argv = [*engine.netns.enter, str(peers.docker_cli()), "-H", HOST, "--tlsverify"]
                argv += [f"--tlscacert={authority.ca}", f"--tlscert={pair.cert}", f"--tlskey={pair.key}", *words]
                pipe = subprocess.PIPE
                return subprocess.Popen(argv, stdout=pipe, stderr=pipe, env=client_environment())

            def is_served(authority: Authority) -> bool:
                running = ask(authority, "ps", "-q")
                running.communicate(timeout=60)
                return running.returncode == 0

            def hup(told: str) -> None:
                count = engine.log.read_text().count(told)
                os.kill(engine.pid, signal.SIGHUP)
                process.wait_for(lambda: engine.log.read_text().count(told) > count, told)

            assert (is_served(old), is_served(new)) == (True, False)
            with ask(old, "events") as open_since_before:
                process.wait_for(lambda: connections(engine.pid) > 0, "connection")
                put(new)
                hup("Reloaded configuration: ")
                assert (is_served(old), is_served(new)) == (False, True)
                assert open_since_before.poll() is None
                assert connections(engine.pid) > 0
                open_since_before.kill()
            used["tlskey"].write_text("no key")
            hup("configuration not reloaded: invalid TLS configuration: ")
            assert (is_served(old), is_served(new)) == (False, True)
    finally:
        shutil.rmtree(folder)
