"""`docker rm` beside other verbs of the same container."""

from __future__ import annotations

import threading
import time

from clients.api import Api
from support import images
from support.engine import CortenEngine
from support.process import wait_for

TURNS = 12
PATIENCE_S = 60  # until a removal meets a start


def started_and_removed(api: Api, container_id: str, query: str) -> int:
    """The status of a DELETE that comes while the container is being started."""
    start = threading.Thread(target=api.call, args=("POST", f"/containers/{container_id}/start"))
    start.start()
    code, _ = api.call("DELETE", f"/containers/{container_id}{query}")
    start.join()
    return code


def create(api: Api, command: list[str], host_config: dict[str, object]) -> str:
    body = {"Image": images.BUSYBOX_REF, "Cmd": command, "HostConfig": {"NetworkMode": "none", **host_config}}
    return str(api.ok("POST", "/containers/create", body)["Id"])


def test_a_removal_refused_because_of_a_start_has_removed_nothing(engine: CortenEngine) -> None:
    api = Api(engine.socket)
    refused = turn = 0
    end = time.monotonic() + PATIENCE_S
    while turn < TURNS or (not refused and time.monotonic() < end):
        turn += 1
        container_id = create(api, ["true"], {"AutoRemove": True})
        code = started_and_removed(api, container_id, "")
        assert code in {204, 404, 409}
        refused += code == 409
        wait_for(lambda i=container_id: api.call("GET", f"/containers/{i}/json")[0] == 404, "end of it")  # type: ignore[misc]
    assert refused, "no removal met a start"


def test_a_forced_removal_during_a_start_removes(engine: CortenEngine) -> None:
    api = Api(engine.socket)
    for _ in range(TURNS):
        container_id = create(api, ["sleep", "1000"], {})
        assert started_and_removed(api, container_id, "?force=1") == 204
        assert api.call("GET", f"/containers/{container_id}/json")[0] == 404
