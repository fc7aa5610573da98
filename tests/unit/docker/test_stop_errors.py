"""What stop and restart answer when they fail."""

from __future__ import annotations

import pytest

from corten.errors import Conflict, CortenError, InvalidArgument, NotFound, NotModified, Unavailable
from unit.docker.raw_client import Client, Harness


@pytest.mark.parametrize(
    ("error", "status"), [(InvalidArgument("no"), 500), (Conflict("no"), 500), (Unavailable("no"), 503)]
)
async def test_errors_of_stop_and_restart_name_the_operation_and_are_500(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch, error: CortenError, status: int
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(harness.engine, "container_stop", fail)
    monkeypatch.setattr(harness.engine, "container_restart", fail)
    answer = await client.ask("POST", "/containers/x/stop")
    assert (answer.status, answer.message) == (status, "cannot stop container: x: no")
    answer = await client.ask("POST", "/containers/x/restart")
    assert (answer.status, answer.message) == (status, "Cannot restart container x: no")


@pytest.mark.parametrize(("error", "status"), [(NotFound("none"), 404), (NotModified("none"), 304)])
async def test_what_is_not_there_or_does_not_run_is_not_an_error_of_stop(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch, error: CortenError, status: int
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(harness.engine, "container_stop", fail)
    answer = await client.ask("POST", "/containers/x/stop")
    assert answer.status == status
