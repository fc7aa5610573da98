"""`buildah run --runtime corten-runtime`: every row gives what runc gives there, and the container shows the same."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support import paths, peers, sameness
from support.buildah import Buildah
from support.compatibility import compare

RUNTIMES = (peers.binary("runc"), paths.COMMANDS / "corten-runtime")

# name: (options, command, stdin)
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "output": ((), ("echo", "hi"), None),
    "exit status": ((), ("sh", "-c", "exit 4"), None),
    "stdin": ((), ("cat",), "abc"),
    "no such command": ((), ("nosuch",), None),
    "user": (("--user", "1000:50"), ("id",), None),
    "volume": (("--volume", "/usr:/u:ro"), ("sh", "-c", "ls -d /u/bin; touch /u/x"), None),
    "working directory": (("--workingdir", "/tmp"), ("pwd",), None),
}
LOOKS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "capabilities": ("--cap-add", "CAP_SYS_TIME", "--cap-drop", "CAP_CHOWN"),
    "mount": ("--mount", "type=tmpfs,destination=/t"),
}


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    with Buildah() as instance:
        yield instance


@pytest.fixture
def container(buildah: Buildah) -> Iterator[str]:
    name = buildah("from", buildah.image, check=True)
    yield name
    buildah("rm", name, check=True)


def words(runtime: object, container: str, options: tuple[str, ...]) -> tuple[str, ...]:
    return ("run", "--isolation", "oci", "--network", "none", "--runtime", str(runtime), *options, container, "--")


def normal(text: str) -> str:
    """Each runtime is named by its path and by itself."""
    for runtime in RUNTIMES:
        text = text.replace(str(runtime), "RUNTIME")
    return re.sub(r'time="[^"]*"', "TIME", text.replace("corten-runtime", "runc"))


@pytest.mark.parametrize("name", RUNS)
def test_buildah_run_gives_what_it_gives_with_runc(buildah: Buildah, container: str, name: str) -> None:
    options, command, stdin = RUNS[name]
    found = []
    for runtime in RUNTIMES:
        done = buildah.run(*words(runtime, container, options), *command, stdin=stdin)
        found.append((done.returncode, normal(done.stdout), normal(done.stderr)))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", LOOKS)
def test_what_buildah_runs_shows_what_it_shows_with_runc(buildah: Buildah, container: str, name: str) -> None:
    looks = []
    for runtime in RUNTIMES:
        done = buildah.run(*words(runtime, container, LOOKS[name]), "sh", "-c", sameness.LOOK)
        text = done.stdout + done.stderr
        looks.append(sameness.parse(text, dict.fromkeys(re.findall(r"buildah\d+", text), "ID")))
    compare(looks[0], looks[1])


def test_what_a_run_changes_is_in_the_image(buildah: Buildah, container: str) -> None:
    buildah(*words(RUNTIMES[1], container, ()), "sh", "-c", "echo made > /made", check=True)
    image = buildah("commit", "--quiet", *buildah.signatures, container, check=True)
    second = buildah("from", image, check=True)
    assert buildah(*words(RUNTIMES[1], second, ()), "cat", "/made", check=True) == "made"
    buildah("rm", second, check=True)
