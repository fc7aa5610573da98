"""--use-api-socket: the same request and the same file as docker's CLI, and a container that speaks to its engine."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
BOX = "socket-box"
AUTHS = {
    "reg.example": {"auth": base64.b64encode(b"u:p").decode()},
    "https://index.docker.io/v1/": {"identitytoken": "t"},
}
HELPER = """#!/bin/sh
case $1 in
list) echo '{"kept.example": "me"}' ;;
get) echo '{"Username": "me", "Secret": "s"}' ;;
esac
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A folder for config.json, with a credential helper on the path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker-credential-kept").write_text(HELPER)
    (tmp_path / "bin" / "docker-credential-kept").chmod(0o755)
    return tmp_path


@pytest.fixture(autouse=True)
def no_box(shared_engine: CortenEngine) -> Iterator[None]:
    yield
    shared_engine.docker("rm", "-f", BOX)


def play(engine: CortenEngine, program: str, folder: Path, *words: str, host: str = "") -> tuple[int, str, str]:
    """One command of docker or corten; its own name is taken out of what it says."""
    path = paths.COMMANDS / "corten" if program == "corten" else peers.docker_cli()
    environment = client_environment() | {"DOCKER_CONFIG": str(folder)}
    environment["PATH"] = f"{folder}/bin:{environment['PATH']}"
    done = subprocess.run(
        [str(path), "-H", host or engine.host, *words], check=False, capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr.replace("docker: ", "corten: ").replace("docker run", "corten run")


def made(engine: CortenEngine, program: str, folder: Path) -> tuple[Any, Any, Any]:
    """Mounts, environment and the file of a container that a program has made."""
    status, _, said = play(
        engine, program, folder, "create", "--name", BOX, "--use-api-socket", "-e", "A=b", IMAGE, "true"
    )
    assert status == 0, said
    (seen,) = json.loads(engine.docker("inspect", BOX, check=True).stdout)
    archive = subprocess.run(
        [*engine.netns.enter, "docker", "-H", engine.host, "cp", f"{BOX}:/run/secrets/docker/config.json", "-"],
        check=False,
        capture_output=True,
    ).stdout
    file = None
    if archive:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            (entry,) = tar.getmembers()
            content = tar.extractfile(entry)
            assert content is not None
            file = (oct(entry.mode), entry.uid, content.read().decode())
    engine.docker("rm", BOX, check=True)
    return seen["HostConfig"]["Mounts"], seen["Config"]["Env"], file


@pytest.mark.parametrize(
    "settings",
    [{}, {"auths": AUTHS}, {"credsStore": "kept"}, {"auths": AUTHS, "credHelpers": {"reg.example": "kept"}}],
    ids=["nobody", "file", "store", "helper"],
)
def test_the_request_and_the_file_are_those_of_docker(
    shared_engine: CortenEngine, config: Path, settings: dict[str, Any]
) -> None:
    (config / "config.json").write_text(json.dumps(settings))
    ours, theirs = (made(shared_engine, program, config) for program in ("corten", "docker"))
    assert ours == theirs
    assert (ours[2] is None) == (not settings)


def test_a_container_with_the_socket_speaks_to_its_engine(shared_engine: CortenEngine, config: Path) -> None:
    (config / "config.json").write_text("{}")
    script = "printf 'GET /_ping HTTP/1.0\\r\\n\\r\\n' | nc local:/var/run/docker.sock; ls -l /var/run/docker.sock"
    words = ("run", "--rm", "--name", BOX, "--use-api-socket", IMAGE, "sh", "-c", script)
    status, out, said = play(shared_engine, "corten", config, *words)
    assert status == 0, said
    assert "srw" in out


@pytest.mark.parametrize("verb", ["create", "run"])
def test_an_engine_that_is_elsewhere_has_no_socket_to_give(
    shared_engine: CortenEngine, config: Path, verb: str
) -> None:
    words = (verb, "--use-api-socket", IMAGE, "true")
    ours, theirs = (
        play(shared_engine, program, config, *words, host="tcp://127.0.0.1:1") for program in ("corten", "docker")
    )
    assert ours == theirs
    assert "docker endpoint tcp://127.0.0.1:1 incompatible" in ours[2]


def test_a_helper_that_fails_makes_no_container(shared_engine: CortenEngine, config: Path) -> None:
    (config / "config.json").write_text('{"credsStore": "missing"}')
    status, _, said = play(shared_engine, "corten", config, "create", "--name", BOX, "--use-api-socket", IMAGE, "true")
    assert status == 1
    assert "docker-credential-missing" in said
    assert shared_engine.docker("inspect", BOX).returncode == 1
