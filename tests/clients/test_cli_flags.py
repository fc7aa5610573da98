"""The flags of every verb, `docker VERB --help` against `corten VERB --help`, both ways.

EXPLAINED is the whole list of what may differ; a row that explains nothing any more fails too.  A flag that Docker has
and Corten does not support yet is there all the same and says so: the last tests give each one a value.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from support import images, paths, peers, summary
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
CORTEN = str(paths.COMMANDS / "corten")
TOP = (
    *("attach", "create", "events", "exec", "history", "images", "import", "info", "inspect", "kill", "load", "logs"),
    *("pause", "port", "ps", "rename", "restart", "rm", "rmi", "run", "start", "stop", "tag", "top", "unpause"),
    *("cp", "update", "version", "wait"),
)
CONTAINER = (
    *("attach", "create", "exec", "inspect", "kill", "logs", "ls", "pause", "port", "prune", "rename", "restart", "rm"),
    *("run", "start", "stop", "top", "unpause", "update", "wait", "cp"),
)
IMAGES = ("history", "import", "inspect", "load", "ls", "prune", "rm", "tag")
VERBS: list[tuple[str, ...]] = [
    (),
    *((verb,) for verb in TOP),
    *(("container", verb) for verb in CONTAINER),
    *(("image", verb) for verb in IMAGES),
    *(("system", verb) for verb in ("df", "events", "info", "prune")),
    *(("network", verb) for verb in ("connect", "create", "disconnect", "inspect", "ls", "prune", "rm")),
    *(("volume", verb) for verb in ("create", "inspect", "ls", "prune", "rm", "update")),
    *(("context", verb) for verb in ("create", "export", "import", "inspect", "ls", "rm", "show", "update", "use")),
]

OF_SWARM = [
    ("ls", "--cluster"),
    *(("create", f"--{name}") for name in ("availability", "group", "limit-bytes", "required-bytes", "scope")),
    *(("create", f"--{name}") for name in ("secret", "sharing", "topology-preferred", "topology-required", "type")),
]
# (verb, flag) → why only one of the two shows it; "*" is every verb
EXPLAINED = {
    ("*", "--help"): "docker takes it everywhere and lists it only for run and create",
    ("image prune", "--unused-for"): "Corten's own: by last use",
    ("image prune", "--dry-run"): "Corten's own: what would go",
    ("container prune", "--dry-run"): "Corten's own: what would go",
    ("network prune", "--dry-run"): "Corten's own: what would go",
    ("volume prune", "--dry-run"): "Corten's own: what would go",
    ("system prune", "--dry-run"): "Corten's own: what would go",
    ("*", "--health-on-failure"): "Corten's own: what is done to an unhealthy container",
    **{(f"volume {verb}", flag): "of cluster volumes, which need a swarm" for verb, flag in OF_SWARM},
    ("run", "--explain"): "Corten's own: the effective configuration and the plan, without a start",
}


def flags(program: str, verb: tuple[str, ...]) -> set[str]:
    """All flags that a verb's help lists, short and long."""
    done = subprocess.run([program, *verb, "--help"], check=True, capture_output=True, text=True, timeout=60)
    heads = [re.split(r"\s{2,}", line.strip())[0] for line in done.stdout.splitlines() if line.strip().startswith("-")]
    return {flag for head in heads for flag in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", head)}


_seen: set[tuple[str, ...]] = set()


@pytest.fixture(scope="module")
def used() -> Iterator[set[tuple[str, str]]]:
    """The rows of EXPLAINED that were needed."""
    rows: set[tuple[str, str]] = set()
    yield rows
    if _seen == set(VERBS):  # the file as a whole ran
        assert rows == set(EXPLAINED), f"explain nothing: {set(EXPLAINED) - rows}"
    for (verb, flag), reason in EXPLAINED.items():
        summary.add("flags that only one of docker and corten lists", f"{verb} {flag}: {reason}")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb) or "(none)")
def test_verb_has_the_flags_of_dockers(verb: tuple[str, ...], used: set[tuple[str, str]]) -> None:
    theirs, ours = flags(str(peers.docker_cli()), verb), flags(CORTEN, verb)
    _seen.add(verb)
    unexplained = []
    for flag in theirs ^ ours:
        rows = {("*", flag), (verb[-1] if verb else "", flag), (" ".join(verb), flag)} & set(EXPLAINED)
        used |= rows
        if not rows:
            unexplained.append(("docker" if flag in theirs else "corten", flag))
    assert unexplained == [], "only one has it, and EXPLAINED does not say why"


def test_every_verb_of_docker_is_there_or_is_refused_by_name() -> None:
    """Also those of the groups; groups of swarm and plugins count as verbs."""
    silent = []
    for group in ((), ("container",), ("context",), ("image",), ("network",), ("system",), ("volume",)):
        for verb in verbs(group) - {
            "buildx",
            "compose",
            "container",
            "context",
            "image",
            "network",
            "system",
            "volume",
        }:
            done = subprocess.run([CORTEN, *group, verb, "--help"], check=False, capture_output=True, text=True)
            path = " ".join(("corten", *group, verb))
            is_refused = done.returncode == 1 and done.stderr == f"corten: '{path}' is not supported yet\n"
            if done.returncode != 0 and not is_refused:
                silent.append((path, done.stderr))
    assert silent == []


def verbs(group: tuple[str, ...]) -> set[str]:
    done = subprocess.run([peers.docker_cli(), *group, "--help"], check=True, capture_output=True, text=True)
    return set(re.findall(r"^  ([a-z][a-z-]+)\*? {2,}\S", done.stdout, re.M))


# flags of run that parse and are refused by name: by Corten's engine, or by the CLI as docker's does
REFUSED = [
    ("--cpu-count=1", "--cpu-count"),
    ("--cpu-percent=1", "--cpu-percent"),
    ("--disable-content-trust=false", "--disable-content-trust=false is not supported yet"),
    ("--io-maxbandwidth=1m", "--io-maxbandwidth"),
    ("--io-maxiops=1", "--io-maxiops"),
    ("--isolation=hyperv", "Invalid isolation"),
    ("--link=x:y", "could not get container for x"),
    ("--storage-opt=size=1g", "--storage-opt is supported only for overlay over xfs"),
    ("--volumes-from=x", "No such container: x"),
]


@pytest.mark.parametrize(("flag", "words"), REFUSED, ids=[flag for flag, _ in REFUSED])
@pytest.mark.parametrize("verb", ["run", "create"])
def test_flag_that_is_not_supported_says_so_and_makes_nothing(
    shared_engine: CortenEngine, verb: str, flag: str, words: str
) -> None:
    before = shared_engine.corten("ps", "-aq").stdout
    done = shared_engine.corten(verb, flag, IMAGE, "true")
    assert done.returncode in (1, 125)
    assert words in done.stderr
    assert shared_engine.corten("ps", "-aq").stdout == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("start", "--checkpoint", "c", "x"), "--checkpoint is not supported yet"),
        (("start", "--checkpoint-dir", "/c", "x"), "--checkpoint-dir is not supported yet"),
        (("rmi", "--platform", "linux/s390x", IMAGE), "does not match the specified platform"),
        (("load", "--platform", "linux/s390x", "-i", str(images.busybox())), "no image for the requested platform"),
        (("image", "history", "--platform", "linux/s390x", IMAGE), "does not match the specified platform"),
        (("image", "inspect", "--platform", "linux/s390x", IMAGE), "does not match the specified platform"),
        (("--context", "other", "ps"), "cannot specify both --host and --context"),
        (("--log-level", "loud", "ps"), "unable to parse logging level: loud"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_other_flags_that_are_not_supported_say_so(
    shared_engine: CortenEngine, args: tuple[str, ...], words: str
) -> None:
    done = shared_engine.corten(*args)
    assert done.returncode in (1, 125)
    assert words in done.stderr


@pytest.mark.parametrize("verb", ["history", "image inspect"])
def test_platform_that_the_image_has_is_taken(shared_engine: CortenEngine, verb: str) -> None:
    plain = shared_engine.corten(*verb.split(), IMAGE, check=True).stdout
    assert shared_engine.corten(*verb.split(), "--platform", "linux/amd64", IMAGE, check=True).stdout == plain


def test_door_names_a_platform_that_it_cannot_give(shared_engine: CortenEngine) -> None:
    """The real docker CLI gets the same refusals."""
    done = shared_engine.docker("history", "--platform", "linux/s390x", IMAGE)
    assert (done.returncode, "does not match the specified platform" in done.stderr) == (1, True)
    done = shared_engine.docker("rmi", "--platform", "linux/s390x", IMAGE)
    assert (done.returncode, "does not match the specified platform" in done.stderr) == (1, True)
