"""A registry that lies to who pushes: the push ends with an error in bounded time, the image stays what it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import lies
from support.engine import CortenEngine
from support.lyingregistry import Exchange, Lie, LyingRegistry, Trap, on

WRITES = ("POST", "PATCH", "PUT")


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """With one image, pulled from an honest registry that is gone."""
    with CortenEngine() as made:
        with LyingRegistry(netns=made.netns) as honest:
            reference = honest.add(lies.honest(), lies.REPOSITORY, lies.TAG)
            made.docker("pull", reference, check=True)
            made.docker("tag", reference, "mine:1", check=True)
            made.docker("rmi", reference, check=True)
        yield made
        assert "Traceback" not in made.log.read_text(errors="replace"), made.log_tail()


@pytest.fixture
def registry(engine: CortenEngine) -> Iterator[LyingRegistry]:
    with LyingRegistry(netns=engine.netns) as made:
        yield made


def pushed(engine: CortenEngine, registry: LyingRegistry) -> tuple[int, str]:
    """Exit status and all that the docker CLI printed; the name goes again."""
    target = f"{registry.host}/target/pushed:1"
    engine.docker("tag", "mine:1", target, check=True)
    done = engine.docker("push", target, timeout=90)
    engine.docker("rmi", target, check=True)
    return done.returncode, done.stdout + done.stderr


def looks(engine: CortenEngine) -> str:
    """The image, but for the time of its last name."""
    return engine.docker(
        "image", "inspect", "-f", "{{.Id}} {{json .RootFS}} {{json .RepoTags}}", "mine:1", check=True
    ).stdout


def accepting(exchange: Exchange) -> bool:
    """Takes everything and keeps nothing."""
    if exchange.method == "POST":
        return exchange.reply(202, {"Location": f"{exchange.target}x", "Range": "0-0"})
    return exchange.reply(202 if exchange.method == "PATCH" else 201, {"Location": exchange.target})


def far_range(exchange: Exchange) -> bool:
    """More arrived than was ever sent."""
    if exchange.method == "POST":
        return False
    return exchange.reply(202, {"Location": exchange.target, "Range": "0-99999999999999"})


LIES: dict[str, Lie] = {
    "uploads that always begin anew": on(
        "uploads", lambda one: one.reply(202, {"Location": one.target, "Range": "0-0"}), methods=("PATCH", "PUT")
    ),
    "a range beyond what was sent": on("uploads", far_range, methods=WRITES),
    "no location": on("uploads", lies.status(202), methods=("POST",)),
    "a location that is a file": on("uploads", lies.status(202, {"Location": "file:///etc/passwd"}), methods=("POST",)),
    "a location of megabytes": on("uploads", lies.status(202, {"Location": "/v2/" + "x" * 60_000}), methods=("POST",)),
    "a location with line ends": on("uploads", lies.status(202, {"Location": "/v2/x\r X: y"}), methods=("POST",)),
    "a redirect to itself": on("uploads", lies.redirect_loop, methods=WRITES),
    "headers without an end": on("uploads", lies.endless_headers, methods=WRITES),
    "interim answers without an end": on("uploads", lies.endless_interim, methods=("PUT", "PATCH")),
    "denied with terminal commands": on("uploads", lies.status(403, {}, lies.HOSTILE_DENIAL), methods=WRITES),
    "a refused digest": on(
        "uploads",
        lies.status(400, {}, b'{"errors": [{"code": "DIGEST_INVALID", "message": "digest invalid"}]}'),
        methods=("PUT",),
    ),
    "another digest of the manifest": on(
        "manifests", lambda one: one.reply(201, {"Docker-Content-Digest": lies.OTHER}), methods=("PUT",)
    ),
    "a manifest that is not taken": on("manifests", lies.status(500, {}, b"x" * 100_000), methods=("PUT",)),
    "a manifest answered without an end": on("manifests", lies.endless_body, methods=("PUT",)),
}
# The registry may say so; the push ends all the same.
TOLD_AS_DONE = {"a manifest answered without an end"}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if "without an end" in one else ()) for one in LIES]
)
def test_a_push_to_a_liar_ends(engine: CortenEngine, registry: LyingRegistry, name: str) -> None:
    registry.lies.append(lambda exchange: exchange.method in WRITES and LIES[name](exchange))
    before = looks(engine)
    status, told = pushed(engine, registry)
    assert status != 0 or name in TOLD_AS_DONE, told
    assert lies.OTHER not in told
    assert len(told) < 20_000, len(told)
    assert not {"\x1b", "\x07"} & set(told), told[:300]
    assert registry.poured_out == 0
    assert looks(engine) == before


def test_a_registry_that_keeps_nothing_is_believed_but_harms_nobody(
    engine: CortenEngine, registry: LyingRegistry
) -> None:
    registry.lies.append(on("uploads", accepting, methods=WRITES))
    status, told = pushed(engine, registry)
    assert status == 0, told
    assert lies.honest().digest in told


def test_blobs_that_are_said_to_be_there_are_not_sent(engine: CortenEngine, registry: LyingRegistry) -> None:
    """What the registry then says of the manifest is told."""
    unknown = b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry"}]}'
    sizes = {blob.digest: str(len(blob.data)) for blob in lies.honest().blobs}
    registry.lies += [
        on("blobs", lambda one: one.reply(200, {"Content-Length": sizes[one.reference]}), methods=("HEAD",)),
        on("manifests", lies.status(400, {}, unknown), methods=("PUT",)),
    ]
    status, told = pushed(engine, registry)
    assert status != 0
    assert "blob unknown" in told
    assert not [one for one in registry.asked if one.method in WRITES and one.body and one.kind == "uploads"]


def test_a_mount_from_elsewhere_that_is_answered_elsewhere_gets_nothing(
    engine: CortenEngine, registry: LyingRegistry
) -> None:
    with Trap(netns=engine.netns) as trap:
        where = f"{trap.url}/v2/x/blobs/uploads/here"
        registry.lies.append(on("uploads", lies.status(202, {"Location": where}), methods=("POST",)))
        pushed(engine, registry)
        assert trap.caught == []


def test_after_all_lies_the_same_manifest_is_pushed(engine: CortenEngine, registry: LyingRegistry) -> None:
    status, told = pushed(engine, registry)
    assert status == 0, told
    held = registry.held["target/pushed"]
    assert held.manifests["1"][1] == lies.honest().manifest.data
    assert {blob.digest for blob in lies.honest().blobs} <= held.blobs.keys()
