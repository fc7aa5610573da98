"""`--dry-run` of every prune: what it says is what the prune then does, and nothing is gone before."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from support import images, paths
from support.dockerd import Dockerd
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        yield made


@pytest.fixture
def filled(engine: CortenEngine) -> CortenEngine:
    """Two stopped containers, one of them with an anonymous volume; a named volume; the image."""
    engine.docker("load", "-i", str(images.busybox()), check=True)
    script = "echo 12345 > /data/x; echo 1 > /y"
    engine.docker("run", "--name", "one", "-v", "/data", IMAGE, "sh", "-c", script, check=True)
    engine.docker("create", "--name", "two", "--label", "a=b", IMAGE, "true", check=True)
    engine.docker("volume", "create", "named", check=True)
    return engine


def there(engine: CortenEngine) -> list[Any]:
    """Containers, volumes and images."""
    lists = (("ps", "-aq"), ("volume", "ls", "-q"), ("images", "-aq"))
    return [sorted(engine.docker(*words, check=True).stdout.split()) for words in lists]


def as_done(text: str) -> str:
    return text.replace("Would delete", "Deleted").replace("space that would be reclaimed", "reclaimed space")


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (("container", "prune"), ("--filter", "label=a=b")),
        (("container", "prune"), ()),
        (("volume", "prune"), ("-a",)),
        (("system", "prune"), ("-a", "--volumes")),
    ],
)
def test_a_dry_run_says_what_the_prune_does(
    filled: CortenEngine, verb: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Volumes and images of containers that would go, would go with them."""
    try:
        before = there(filled)
        said = filled.corten(*verb, *options, "--dry-run", check=True).stdout
        assert there(filled) == before
        done = filled.corten(*verb, *options, "-f", check=True).stdout
        assert sorted(as_done(said).splitlines()) == sorted(done.splitlines())
        assert there(filled) != before
        assert re.search(r"reclaimed: [0-9.]+", said)
    finally:
        filled.docker("system", "prune", "-a", "--volumes", "-f")
        filled.docker("volume", "prune", "-a", "-f")


def test_a_dry_run_of_another_engine_is_refused_before_it_removes(dockerd: Dockerd) -> None:
    """dockerd knows no dry run: it would remove."""
    dockerd.docker("create", "--name", "kept", IMAGE, "true", check=True)
    try:
        for verb in ("container", "volume", "image", "system"):
            argv = [str(paths.COMMANDS / "corten"), "-H", dockerd.host, verb, "prune", "--dry-run"]
            done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
            assert (done.returncode, done.stdout) == (1, "")
        assert "kept" in dockerd.docker("ps", "-a").stdout
    finally:
        dockerd.docker("rm", "kept")
