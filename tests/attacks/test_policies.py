"""Code of an ordinary user in place of the node's policies, which run as root."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import paths, weakened_corten

USER = "12345"
GOOD = "from corten.policy import create\n@create\ndef f(c): pass\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A policy file in a directory that everybody can reach."""
    folder = paths.scratch("attacked")
    (folder / "etc").mkdir(mode=0o755)
    folder.chmod(0o755)
    file = folder / "etc/policies.py"
    file.write_text(GOOD)
    file.chmod(0o644)
    (folder / "daemon.json").write_text(json.dumps({"policies": [str(file)]}))
    yield folder
    for path in [*(folder / "etc").iterdir(), *(one for one in folder.iterdir() if one.is_file())]:
        path.unlink()
    (folder / "etc").rmdir()
    folder.rmdir()


def as_user(script: str) -> None:
    argv = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "sh", "-c", script]
    subprocess.run(argv, check=True, capture_output=True)


def written(place: Path) -> None:
    """Into the file itself."""
    (place / "etc/policies.py").chmod(0o666)
    as_user(f"echo \"open('{place}/proof', 'w')\" >> {place}/etc/policies.py")


def replaced(place: Path) -> None:
    """Another one under its name."""
    (place / "etc").chmod(0o777)
    as_user(
        f"cd {place}/etc && cp policies.py new && echo \"open('{place}/proof', 'w')\" >> new && mv -f new policies.py"
    )


def validate(place: Path, commands: Path) -> tuple[int, str, bool]:
    """Status, what it says, and whether the user's code was run."""
    argv = [str(commands / "cortend"), "--validate", "--config", f"{place}/daemon.json"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr, (place / "proof").exists()


@pytest.mark.parametrize("attack", [written, replaced])
def test_what_an_ordinary_user_wrote_is_not_run(place: Path, attack: Callable[[Path], None]) -> None:
    assert validate(place, paths.COMMANDS) == (0, "configuration OK\n", False)
    attack(place)
    status, said, was_run = validate(place, paths.COMMANDS)
    assert (status, was_run) == (1, False)
    assert said.startswith(f"cortend: policies (daemon.json): {place}/etc/policies.py: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("attack", [written, replaced])
def test_twin_without_the_look_at_who_can_write_it_is_taken(place: Path, attack: Callable[[Path], None]) -> None:
    attack(place)
    with weakened_corten.build(*weakened_corten.ANY_POLICIES) as weak:
        (policyfiles,) = weak.modules("corten.engine.policyfiles")
        assert f"{place}/proof" in policyfiles.read(f"{place}/etc/policies.py")
