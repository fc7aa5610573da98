"""Every field of the description's ContainerConfig, HostConfig, NetworkingConfig and ExecConfig against the engine.

The rows are in `fields_*`; a field of the description without a row fails.  Proof of a row: the request with the
field and the same request without it must differ in config.json and in the kernel as the row says.
"""

from __future__ import annotations

import copy
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients import api_description, fields_config, fields_host, fields_limits, fields_network
from clients.api import Api, demultiplexed
from clients.fields import BOX, EXEC_ROWS, GONE, OTHER, ROWS, YOUNGER, Row, Seen, matches, pick
from support import images, paths, summary
from support.engine import CortenEngine

END = "--end--"
TABLES = (fields_config, fields_limits, fields_host, fields_network)


# The fields of the description.


def leaves(prefix: str, fields: dict[str, Any]) -> Iterator[str]:
    """Dotted paths of all fields: `A.B` in objects, `A[].B` in lists, `A{}.B` in maps."""
    for name, schema in fields.items():
        yield from _below(f"{prefix}{name}", schema)


def _below(path: str, schema: dict[str, Any]) -> Iterator[str]:
    schema = api_description.resolve(schema)
    for suffix, part in (("", schema), ("[]", schema.get("items")), ("{}", schema.get("additionalProperties"))):
        if not isinstance(part, dict):
            continue
        inner = api_description.resolve(part)
        if suffix == "{}" and inner.get("type") == "array":
            inner = api_description.resolve(inner.get("items", {}))
        fields: dict[str, Any] = dict(inner.get("properties") or {})
        for other in inner.get("allOf", []):
            fields |= api_description.resolve(other).get("properties") or {}
        if fields:
            yield from leaves(f"{path}{suffix}.", fields)
            return
    yield path


def described() -> list[str]:
    """Every field that a create request may have."""
    return [
        *leaves("", api_description.properties("ContainerConfig")),
        *leaves("HostConfig.", api_description.properties("HostConfig")),
        *leaves("NetworkingConfig.", api_description.properties("NetworkingConfig")),
    ]


def covers(row: str, field: str) -> bool:
    """Whether a row speaks of a field: its own, or everything below it."""
    return field == row or field.startswith((f"{row}.", f"{row}[", f"{row}{{"))


def test_every_field_of_a_create_request_has_a_row() -> None:
    fields = described()
    assert len(fields) > 120
    missing = [field for field in fields if field not in GONE and not any(covers(row.field, field) for row in ROWS)]
    assert not missing, f"no row for {missing}"


def test_every_table_brings_its_rows() -> None:
    assert all(module.__doc__ for module in TABLES)
    names = [(row.field, row.kind) for row in ROWS]
    assert len(names) == len(set(names))


def test_every_row_is_of_a_field_that_exists() -> None:
    fields = described()
    stray = {row.field for row in ROWS if not any(covers(row.field, field) for field in fields)}
    assert stray <= (YOUNGER if api_description.version() < (1, 51) else set())


def test_every_field_of_an_exec_request_has_a_row() -> None:
    fields = set(leaves("", api_description.body_properties("/containers/{id}/exec")))
    rows = {row.field for row in EXEC_ROWS}
    assert fields <= rows
    assert rows - fields <= (YOUNGER if api_description.version() < (1, 51) else set())


def test_kernel_memory_is_refused_by_name_where_it_is_still_known(engine: CortenEngine) -> None:
    body = {"Image": BOX, "Cmd": ["true"], "HostConfig": {"KernelMemory": 1 << 26}}
    status, answer = Api(engine.socket, "1.41").call("POST", "/containers/create", body)
    assert (status, "KernelMemory" in answer["message"]) == (400, True)
    api = Api(engine.socket)
    made = api.ok("POST", "/containers/create", body)["Id"]
    assert "KernelMemory" not in api.ok("GET", f"/containers/{made}/json")["HostConfig"]
    api.remove(made)


# One row.


@dataclass(frozen=True)
class Trial:
    """What a request led to."""

    config: Any
    output: str
    looked: Any
    inspect: Any


@pytest.fixture(scope="module")
def engine(shared_engine: CortenEngine) -> Iterator[CortenEngine]:
    """With a second image, whose file says which one it is."""
    marker = images.layer([images.Entry("marker", b"other image\n")])
    layers = [*images.busybox_layers(), marker]
    archive = images.docker_archive([OTHER], layers, {"Cmd": ["sh"]})
    shared_engine.docker("load", stdin=archive, check=True)
    yield shared_engine
    shared_engine.docker("rmi", OTHER, check=True)


@pytest.fixture
def folder() -> Iterator[str]:
    """A shared mount to bind, with a file, and a tmpfs below it that has a file too."""
    with tempfile.TemporaryDirectory(prefix=paths.mark()) as name:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", name], check=True)
        subprocess.run(["mount", "--make-shared", name], check=True)
        Path(name, "file").write_text("from the host\n")
        Path(name, "below").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{name}/below"], check=True)
        Path(name, "below", "deep").write_text("deep\n")
        yield name
        subprocess.run(["umount", f"{name}/below", name], check=True)


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path."""
    *above, last = path.split(".")
    for part in above:
        body = body.setdefault(part, {})
    body[last] = value


def request_of(row: Row, folder: str) -> dict[str, Any]:
    """The create request that has the row's field."""
    command = ["sh", "-c", f"{row.script}\necho {END}; sleep 60"]
    body: dict[str, Any] = {"Image": BOX}
    if not row.keep_command:
        body["Cmd"] = command
    for path, value in row.also.items():
        put(body, path, value)
    put(body, re.split(r"\[\]|\{\}", row.field)[0], value_of(row, folder))
    return body


def value_of(row: Row, folder: str) -> Any:
    return row.value(folder) if callable(row.value) else copy.deepcopy(row.value)


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    """The same request with the field taken out, in every element of a list or map on the way."""
    body = copy.deepcopy(body)
    _take_out(body, re.split(r"\.", field))
    return body


def _take_out(place: Any, parts: list[str]) -> None:
    name = re.sub(r"\[\]|\{\}", "", parts[0])
    if not isinstance(place, dict) or name not in place:
        return
    if len(parts) == 1:
        del place[name]
        return
    inner = place[name]
    elements = inner if isinstance(inner, list) else inner.values() if "{}" in parts[0] else [inner]
    for element in elements:
        for one in element if isinstance(element, list) else [element]:
            _take_out(one, parts[1:])


def attempt(engine: CortenEngine, row: Row, body: dict[str, Any], folder: str) -> Trial | str:
    """What came of a request; the message when it was refused."""
    api = Api(engine.socket)
    status, answer = api.call("POST", "/containers/create", body)
    if status >= 400:
        return str(answer["message"])
    container_id = answer["Id"]
    try:
        status, answer = api.call("POST", f"/containers/{container_id}/start")
        if status >= 400:
            return str(answer["message"])
        return observe(Seen(api, engine, container_id, folder), row, body)
    finally:
        api.remove(container_id)


def observe(seen: Seen, row: Row, body: dict[str, Any]) -> Trial:
    config = seen.engine.exec_root.glob(f"tasks/*/{seen.id}/config.json")
    text = next((path.read_text() for path in config), "")
    is_silent = "LogConfig" in row.field and row.name == "Type"
    output = "" if is_silent else seen.api.logs_until(seen.id, END, tty=bool(body.get("Tty")))
    inspect = seen.inspect
    if not text:  # it ended before its bundle could be read
        text = json.dumps({"process": {"args": [inspect["Path"], *inspect["Args"]]}})
    return Trial(json.loads(text), output, row.look(seen) if row.look else None, inspect)


def test_every_kind_of_row_is_there() -> None:
    kinds = {kind: [row.field for row in ROWS if row.kind == kind] for kind in ("seen", "refused", "reported")}
    for kind, fields in kinds.items():
        assert fields, kind
    counts = ", ".join(f"{len(fields)} {kind}" for kind, fields in kinds.items())
    summary.add("fields of the API", f"{counts}; {len(EXEC_ROWS)} of exec")
    for row in ROWS:
        if row.why:
            summary.add("fields of the API", f"{row.field}: {row.why}")


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "refused"], ids=lambda row: row.field)
def test_a_field_that_is_not_supported_is_refused_by_name(engine: CortenEngine, folder: str, row: Row) -> None:
    body = request_of(row, folder)
    answer = attempt(engine, row, body, folder)
    assert isinstance(answer, str), f"{row.field} was accepted"
    assert (row.words or row.name).lower() in answer.lower()
    assert not isinstance(attempt(engine, row, without(body, row.field), folder), str), "refused without it as well"


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "reported"], ids=lambda row: row.field)
def test_operational_data_is_not_taken_from_a_request(engine: CortenEngine, folder: str, row: Row) -> None:
    made = attempt(engine, row, request_of(row, folder), folder)
    assert isinstance(made, Trial), made
    endpoint = made.inspect["NetworkSettings"]["Networks"]["bridge"]
    assert endpoint[row.name] != row.value["bridge"][row.name]


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "seen"], ids=lambda row: row.field)
def test_a_field_changes_inspect_config_and_kernel(engine: CortenEngine, folder: str, row: Row) -> None:
    body = request_of(row, folder)
    bare = attempt(engine, row, without(body, row.field), folder)
    made = attempt(engine, row, body, folder)
    assert isinstance(made, Trial), f"{row.field} is refused: {made}"
    assert row.inspect is not None
    where, wanted = row.inspect
    wanted = value_of(row, folder) if wanted is row.value else wanted
    assert matches(wanted, pick(made.inspect, where)), ("inspect", pick(made.inspect, where))
    if row.config:
        assert matches(row.config[1], pick(made.config, row.config[0])), (
            "config.json",
            pick(made.config, row.config[0]),
        )
    if row.script:
        assert matches(row.expect, made.output), ("output", made.output)
    if row.look:
        assert matches(row.expect, made.looked), ("looked", made.looked)
    if isinstance(bare, Trial):  # else the field is needed
        assert_bites(row, bare)


def assert_bites(row: Row, bare: Trial) -> None:
    """Without the field, what the row looks at is not as it is with it."""
    if row.config:
        assert not matches(row.config[1], pick(bare.config, row.config[0])), "config.json is the same without it"
    if row.script and not row.same_kernel:
        assert not matches(row.expect, bare.output), ("the output is the same without it", bare.output)
    if row.look and not row.same_kernel:
        assert not matches(row.expect, bare.looked), ("it looks the same without it", bare.looked)


# All fields at zero.

# nil and an empty list are two things: [] resets an entry point, and masks nothing.
NIL = {"Entrypoint", "Cmd", "HostConfig.MaskedPaths", "HostConfig.ReadonlyPaths", "Shell"}
# Pointers whose zero is a value of its own in Docker.
POINTERS = {"StopTimeout", "HostConfig.MemorySwappiness", "HostConfig.PidsLimit"}


def zero_of(path: str, schema: dict[str, Any]) -> Any:
    schema = api_description.resolve(schema)
    if path in NIL | POINTERS:
        return None
    if "properties" in schema or "allOf" in schema:
        return {}
    if path == "HostConfig.ConsoleSize":
        return [0, 0]
    return {"string": "", "integer": 0, "boolean": False, "array": [], "object": {}}[schema.get("type", "object")]


def test_a_field_at_its_zero_value_counts_as_absent(engine: CortenEngine, folder: str) -> None:
    host_fields = api_description.properties("HostConfig")
    config_fields = api_description.properties("ContainerConfig")
    zeroes = {name: zero_of(name, schema) for name, schema in config_fields.items()}
    zeroes["HostConfig"] = {name: zero_of(f"HostConfig.{name}", schema) for name, schema in host_fields.items()}
    zeroes["NetworkingConfig"] = {"EndpointsConfig": {}}
    row = Row("Image", BOX, script="true")
    wanted = request_of(row, folder)
    bare = attempt(engine, row, wanted, folder)
    full = attempt(engine, row, {**zeroes, **wanted}, folder)
    assert isinstance(bare, Trial), bare
    assert isinstance(full, Trial), full
    assert plain(full) == plain(bare)


def plain(trial: Trial) -> Any:
    """config.json without what is the container's own."""
    text = json.dumps(trial.config).replace(trial.inspect["Id"], "ID").replace(trial.inspect["Id"][:12], "ID")
    return json.loads(re.sub(r"/proc/\d+/fd", "/proc/PID/fd", text))


# Exec.


@pytest.fixture(scope="module")
def box(engine: CortenEngine) -> Iterator[str]:
    """A running container to exec in."""
    api = Api(engine.socket)
    made = api.ok("POST", "/containers/create", {"Image": BOX, "Cmd": ["sleep", "300"]})["Id"]
    api.ok("POST", f"/containers/{made}/start")
    yield made
    api.remove(made)


@pytest.mark.parametrize("row", EXEC_ROWS, ids=lambda row: row.field)
def test_a_field_of_exec_changes_what_runs(engine: CortenEngine, box: str, row: Row) -> None:
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["sh", "-c", row.script], **row.also}
    if row.name in ("AttachStdout", "AttachStderr"):
        del body["AttachStdout"], body["AttachStderr"]
    with_field = {**body, row.field: row.value}
    act = Exec(engine, box)
    output, inspect = act.run(with_field, detach_keys=row.name == "DetachKeys")
    assert matches(row.expect, output.strip()), output
    if row.inspect:
        assert matches(row.inspect[1], pick(inspect, row.inspect[0])), inspect
    bare = {name: value for name, value in with_field.items() if name != row.field}
    status, answer = act.api.call("POST", f"/containers/{box}/exec", bare)
    if status < 400:
        assert not matches(row.expect, act.stream(answer["Id"], bare, row.name == "DetachKeys").strip())


class Exec:
    """Runs exec requests over a raw connection."""

    def __init__(self, engine: CortenEngine, box: str) -> None:
        self.engine, self.box = engine, box
        self.api = Api(engine.socket)

    def run(self, body: dict[str, Any], *, detach_keys: bool) -> tuple[str, Any]:
        made = self.api.ok("POST", f"/containers/{self.box}/exec", body)["Id"]
        output = self.stream(made, body, detach_keys)
        return output, self.api.ok("GET", f"/exec/{made}/json")

    def stream(self, exec_id: str, body: dict[str, Any], detach_keys: bool) -> str:
        """The output of the exec, "typed" being its stdin; or "detached" when the detach keys end it."""
        data = json.dumps({"Tty": bool(body.get("Tty"))}).encode()
        head = (
            f"POST /v1.51/exec/{exec_id}/start HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(self.engine.socket))
            client.sendall(head.encode() + data)
            if detach_keys:
                return self._detach(client)
            if not body.get("Tty"):
                client.sendall(b"typed")
                client.shutdown(socket.SHUT_WR)
            raw = read_all(client).partition(b"\r\n\r\n")[2]
        return (raw if body.get("Tty") else demultiplexed(raw)).decode().replace("\r\n", "\n")

    @staticmethod
    def _detach(client: socket.socket) -> str:
        time.sleep(0.2)
        client.sendall(b"\x01")
        client.settimeout(5)
        try:
            read_all(client)
        except TimeoutError:
            return "still attached"
        return "detached"


def read_all(client: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    out = b""
    while piece := client.recv(65536):
        out += piece
    return out
