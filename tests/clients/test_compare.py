"""Every check of checks_*.py: Corten sees what dockerd sees, and no longer when the option is taken out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from subprocess import TimeoutExpired
from typing import Any

import pytest
from docker.errors import DockerException

from clients import (
    api_description,
    checks_ends,
    checks_exec,
    checks_health,
    checks_images,
    checks_life,
    checks_lists,
    checks_py,
    checks_run,
    checks_see,
    checks_update,
    checks_volumes,
    checks_wrong,
)
from clients.compare import CHECKS, Check, Side, difference, peer_only
from clients.normal import RULES, Normalizer
from corten.docker.routes import SERVED
from corten.docker.versions import version_text
from support import process, summary
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.stripdoor import StripDoor

# each adds to CHECKS
MODULES = (
    checks_run,
    checks_life,
    checks_health,
    checks_update,
    checks_ends,
    checks_exec,
    checks_lists,
    checks_images,
    checks_see,
    checks_volumes,
    checks_wrong,
    checks_py,
)
FAILS = (LookupError, TypeError, ValueError, AttributeError, DockerException, TimeoutExpired, OSError)
LEAST = 120  # checks that the issue asks for


BITES_OF_THE_GATE = 4  # one check in so many shows there that it can fail; all of them do in the whole run


def row(check: Check, *, is_slow: bool) -> Any:
    return pytest.param(check, id=check.name, marks=[pytest.mark.slow] if is_slow else [])


ROWS = [row(one, is_slow=one.is_slow) for one in CHECKS]
BITES = [row(one, is_slow=one.is_slow or bool(number % BITES_OF_THE_GATE)) for number, one in enumerate(CHECKS)]


@pytest.fixture(scope="module")
def reference(dockerd: Dockerd) -> Iterator[Side]:
    """dockerd 26.1."""
    side = Side(dockerd.socket, dockerd.folder, tuple(dockerd.netns.enter))
    yield side
    process.remove_cgroups(side.parent)


@pytest.fixture(scope="module")
def corten(request: pytest.FixtureRequest, reference: Side) -> Iterator[Side]:
    """The engine under test."""
    if peer_only():
        yield reference
        return
    engine: CortenEngine = request.getfixturevalue("shared_engine")
    side = Side(engine.socket, engine.folder, tuple(engine.netns.enter))
    yield side
    process.remove_cgroups(side.parent)


@pytest.fixture(scope="module")
def normal() -> Iterator[Normalizer]:
    """The one table, and its report at the end."""
    normalizer = Normalizer(RULES)
    yield normalizer
    for line in normalizer.report():
        summary.add("normalized before comparing (hits, where, why)", line)


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """What dockerd showed, by check, so that the bite needs no third run of it."""
    return {}


def both(check: Check, reference: Side, corten: Side) -> tuple[Any, Any]:
    """What the two engines show, side by side: most of dockerd's time is waiting."""
    if reference is corten:
        return alone(check, reference), alone(check, corten)
    with ThreadPoolExecutor(1) as thread:
        expected = thread.submit(alone, check, reference)
        seen = alone(check, corten)
        return expected.result(), seen


def alone(check: Check, side: Side) -> Any:
    """What an engine shows when it has nothing else to do."""
    side.clear()
    return check.see(side)


@pytest.mark.parametrize("check", ROWS)
def test_corten_and_dockerd_show_the_same(
    check: Check, reference: Side, corten: Side, normal: Normalizer, known: dict[str, Any]
) -> None:
    expected, found = both(check, reference, corten)
    seen = normal(found, corten.folder)
    known[check.name] = normal(expected, reference.folder)
    differences = difference(known[check.name], seen)
    if differences:  # Corten has one try; on a busy machine dockerd gives a wrong answer now and then
        known[check.name] = normal(alone(check, reference), reference.folder)
        if difference(known[check.name], seen):
            pytest.fail("\n".join(differences), pytrace=False)
        summary.add("clients", f"{check.name}: dockerd showed something else at first: {'; '.join(differences)}")


@pytest.mark.parametrize("check", BITES)
def test_a_check_fails_when_its_option_is_taken_out(
    check: Check, reference: Side, corten: Side, normal: Normalizer, known: dict[str, Any]
) -> None:
    if check.name not in known:
        known[check.name] = normal(alone(check, reference), reference.folder)
    corten.clear()
    with StripDoor(corten.socket, check.without) as door:
        try:
            stripped = check.see(Side(door.socket, corten.folder, corten.enter, patience=12))
        except FAILS as error:
            stripped = repr(error)  # a check that cannot go on fails as well
    if not door.hits:
        pytest.fail(f"{check.without} stood in no request", pytrace=False)
    if not difference(known[check.name], normal(stripped, corten.folder)):
        pytest.fail(f"no bite: without {check.without} it still shows {known[check.name]!r}", pytrace=False)


def test_there_are_as_many_checks_as_the_issue_asks_for() -> None:
    assert len(CHECKS) >= LEAST
    summary.add("clients", f"{len(CHECKS)} checks, each against both engines, each with its bite proved")


# of operations that the door leaves to its front
HIJACKED = ("/containers/{id}/attach", "/exec/{id}/start")


def is_served(method: str, path: str) -> bool:
    return path in HIJACKED or (method, re.sub(r"\{\w+\}", "{}", path)) in {entry[:2] for entry in SERVED}


def test_what_later_versions_added_is_listed_as_not_compared() -> None:
    """test_door_description.py and test_api_fields.py hold these to the API's description instead."""
    later = api_description.later_fields(is_served)
    title = f"not compared: API {version_text(api_description.version())} has it, dockerd 26.1 (1.45) does not"
    for field in later:
        summary.add(title, field)
    if api_description.version() >= (1, 51):
        assert {"GET /images/json ?manifests", "GET /info answer.FirewallBackend"} <= set(later)
        assert "POST /containers/create body.HostConfig.Mounts[].ImageOptions" in later
    assert not [field for field in later if field.endswith(".State.Status")]  # which 1.45 has, too
