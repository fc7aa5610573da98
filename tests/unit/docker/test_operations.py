"""Operations through the whole door: status codes, versions, streams, and what reaches the engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from corten.docker import containers
from corten.errors import Conflict, PermissionDenied, Unavailable
from corten.spec.image import Platform
from unit.docker.raw_client import Client, Harness, eventually

CREATE = {"Image": "busybox", "Cmd": ["x"]}


# Ping and versions.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/_ping", "/v1.40/_ping", "/v1.51/_ping"])
async def test_ping_says_what_a_client_negotiates_with(client: Client, method: str, path: str) -> None:
    answer = await client.ask(method, path)
    expected = {
        "api-version": "1.51",
        "ostype": "linux",
        "docker-experimental": "false",
        "builder-version": "1",
        "swarm": "inactive",
        "cache-control": "no-cache, no-store, must-revalidate",
        "pragma": "no-cache",
        "content-type": "text/plain; charset=utf-8",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert answer.headers["server"].startswith("Corten/")
    assert answer.headers["content-length"] == ("0" if method == "HEAD" else "2")
    assert answer.body == (b"" if method == "HEAD" else b"OK")


@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        ("1.40", 200, ""),
        ("1.45", 200, ""),
        ("1.51", 200, ""),
        (
            "1.39",
            400,
            "client version 1.39 is too old. Minimum supported API version is 1.40, "
            "please upgrade your client to a newer version",
        ),
        (
            "1",
            400,
            "client version 1 is too old. Minimum supported API version is 1.40, "
            "please upgrade your client to a newer version",
        ),
        ("1.52", 400, "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("1.99", 400, "client version 1.99 is too new. Maximum supported API version is 1.51"),
        ("2.0", 400, "client version 2.0 is too new. Maximum supported API version is 1.51"),
    ],
)
async def test_version_negotiation(client: Client, version: str, status: int, message: str) -> None:
    answer = await client.ask("GET", f"/v{version}/version")
    assert answer.status == status
    assert answer.headers["api-version"] == "1.51"
    if message:
        assert answer.message == message


async def test_attach_of_a_version_that_is_too_new(client: Client) -> None:
    answer = await client.ask("POST", "/v1.99/containers/x/attach")
    assert answer.message == "client version 1.99 is too new. Maximum supported API version is 1.51"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1.44"), ("GET", "/vx/info"), ("PUT", "/info"), ("GET", "/containers/create")],
)
async def test_unknown_paths_and_methods_are_not_found(client: Client, method: str, path: str) -> None:
    answer = await client.ask(method, path)
    assert (answer.status, answer.json) == (404, {"message": "page not found"})
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("POST", "/swarm/init", "swarm init is not supported yet"),
        ("POST", "/build", "image build is not supported yet"),
        ("GET", "/images/search", "image search is not supported yet"),
    ],
)
async def test_what_dockerd_knows_and_corten_does_not_is_named(
    client: Client, method: str, path: str, message: str
) -> None:
    answer = await client.ask(method, path, {})
    assert (answer.status, answer.message) == (501, message)


async def test_options_of_any_path_is_fine(client: Client) -> None:
    assert (await client.ask("OPTIONS", "/anything")).status == 200


# Create.


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"", ("Content-Type: application/json",), 400, "invalid JSON: got EOF while reading request body"),
        (b"{", ("Content-Type: application/json",), 400, "invalid JSON: unexpected EOF"),
        (b"{}x", ("Content-Type: application/json",), 400, "unexpected content after JSON"),
        (b"{}", ("Content-Type: application/json",), 400, "config cannot be empty in order to create a container"),
        (b"{}", (), 400, "malformed Content-Type header (): mime: no media type"),
        (
            b"{}",
            ("Content-Type: text/plain",),
            400,
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
        (
            b'{"Image": "busybox", "HostConfig": {"Memory": "64m"}}',
            ("Content-Type: application/json; charset=utf-8",),
            400,
            "invalid JSON: json: cannot unmarshal string into Go struct field "
            "CreateRequest.HostConfig.Memory of type int64",
        ),
        (b'{"Image": "nope"}', ("Content-Type: application/json",), 404, "No such image: nope:latest"),
    ],
)
async def test_a_bad_create_is_refused_in_dockers_words(
    client: Client, body: bytes, headers: tuple[str, ...], status: int, message: str
) -> None:
    answer = await client.ask("POST", "/v1.51/containers/create", body, headers)
    assert (answer.status, answer.message) == (status, message)


async def test_create_hands_on_name_platform_and_body(harness: Harness, client: Client) -> None:
    answer = await client.ask("POST", "/v1.44/containers/create?name=web&platform=linux%2Famd64", CREATE)
    assert answer.status == 201
    assert sorted(answer.json) == ["Id", "Warnings"]
    _, request, name, platform = harness.engine.calls[0]
    assert (name, platform, request.api_version) == ("web", "linux/amd64", (1, 44))
    assert request.config.cmd == ["x"]


async def test_create_of_a_taken_name_is_a_conflict(client: Client) -> None:
    assert (await client.ask("POST", "/containers/create?name=web", CREATE)).status == 201
    assert (await client.ask("POST", "/containers/create?name=web", CREATE)).status == 409


async def test_the_mac_address_of_a_container_moves_to_its_endpoint_with_a_warning(
    harness: Harness, client: Client
) -> None:
    mac = "02:42:ac:11:00:09"
    answer = await client.ask("POST", "/v1.51/containers/create", {**CREATE, "MacAddress": mac})
    assert answer.json["Warnings"] == [
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
    ]
    request = harness.engine.calls[0][1]
    assert request.networking_config.endpoints_config["bridge"].mac_address == mac


async def test_a_json_body_is_bounded(client: Client) -> None:
    head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    await client.send(head.encode() + b"Content-Length: 99000000\r\n\r\n")
    assert (await client.answer()).message == "request body too large"


# Life.


async def test_the_codes_of_a_containers_life(harness: Harness, client: Client) -> None:
    ref = await harness.create(["sleep"])
    expected = [
        ("GET", f"/containers/{ref}/json", 200),
        ("POST", f"/containers/{ref}/start", 204),
        ("POST", f"/containers/{ref}/start", 304),
        ("POST", f"/containers/{ref}/pause", 204),
        ("POST", f"/containers/{ref}/unpause", 204),
        ("POST", f"/containers/{ref}/resize?h=20&w=30", 200),
        ("POST", f"/containers/{ref}/rename?name=other", 204),
        ("GET", "/containers/other/top?ps_args=aux", 200),
        ("POST", "/containers/other/restart?t=3", 204),
        ("POST", "/containers/other/stop", 204),
        ("POST", "/containers/prune", 200),
        ("DELETE", "/containers/other?force=1&v=1", 204),
        ("GET", "/containers/other/json", 404),
        ("DELETE", "/containers/other", 404),
        ("POST", "/containers/other/start", 404),
    ]
    got = [(method, path, (await client.ask(method, path)).status) for method, path, _ in expected]
    assert got == expected
    assert ("remove", "other", True, True, False) in harness.engine.calls


async def test_answers_without_content_have_no_body(harness: Harness, client: Client) -> None:
    ref = await harness.create(["sleep"])
    await client.send(f"POST /containers/{ref}/start HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 2)
    for status in (204, 304):
        got, _, headers = await client.head()
        assert got == status
        assert headers.get("content-length") in (None, "0")
    assert (await client.ask("GET", "/_ping")).body == b"OK"


async def test_a_start_with_a_body_is_refused(client: Client) -> None:
    answer = await client.ask("POST", "/containers/x/start", {"Binds": []})
    assert answer.status == 400
    assert answer.message.startswith("starting container with non-empty request body was deprecated")


async def test_errors_of_kill_name_the_operation(client: Client) -> None:
    answer = await client.ask("POST", "/containers/x/kill?signal=TERM")
    assert (answer.status, answer.message) == (404, "cannot kill container: x: No such container: x")


@pytest.mark.parametrize(("version", "expected"), [("1.41", ("stop", "x", "", 7)), ("1.42", ("stop", "x", "INT", 7))])
async def test_the_signal_of_a_stop_counts_from_1_42(
    harness: Harness, client: Client, version: str, expected: tuple[Any, ...]
) -> None:
    await client.ask("POST", f"/v{version}/containers/x/stop?t=7&signal=INT")
    assert harness.engine.calls[0] == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/containers/x/resize?h=a&w=3", 'strconv.Atoi: parsing "a": invalid syntax'),
        ("/containers/x/resize?w=3", 'strconv.Atoi: parsing "": invalid syntax'),
        ("/containers/x/wait?condition=never", 'invalid condition: "never"'),
        ("/containers/prune?filters=x", "invalid filter"),
    ],
)
async def test_bad_parameters_are_400(client: Client, path: str, message: str) -> None:
    answer = await client.ask("POST", path)
    assert (answer.status, answer.message) == (400, message)


async def test_a_bad_timeout_is_dockerds_500(client: Client) -> None:
    answer = await client.ask("POST", "/containers/x/stop?t=soon")
    assert (answer.status, answer.message) == (500, 'strconv.Atoi: parsing "soon": invalid syntax')


@pytest.mark.parametrize(
    ("error", "status"), [(PermissionDenied("no"), 403), (Conflict("busy"), 409), (Unavailable("later"), 503)]
)
async def test_each_kind_of_error_has_its_status(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    async def fail(ref: str) -> None:
        raise error

    monkeypatch.setattr(harness.engine, "container_pause", fail)
    answer = await client.ask("POST", "/containers/x/pause")
    assert (answer.status, answer.message) == (status, str(error))


async def test_a_defect_is_500_and_the_connection_goes_on(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(ref: str) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(harness.engine, "container_pause", fail)
    answer = await client.ask("POST", "/containers/x/pause")
    assert (answer.status, answer.message) == (500, "internal error: 'oops'")
    assert (await client.ask("GET", "/_ping")).status == 200


async def test_names_may_be_percent_encoded(client: Client) -> None:
    answer = await client.ask("GET", "/containers/a%20b/json")
    assert answer.message == "No such container: a b"


# Wait, logs, events, stats.


async def test_wait_sends_its_head_at_once_and_its_body_at_the_exit(harness: Harness, client: Client) -> None:
    ref = await harness.create(["exit", "7"])
    await client.send(f"POST /v1.51/containers/{ref}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    status, _, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "application/json")
    await harness.ask("POST", f"/containers/{ref}/start")
    assert await client.chunk() == b'{"StatusCode":7}\n'
    assert await client.chunk() == b""
    assert (await client.ask("GET", "/_ping")).status == 200


@pytest.mark.parametrize("what", ["wait", "logs?follow=1&stdout=1", "stats"])
async def test_a_vanished_client_frees_its_task(harness: Harness, client: Client, what: str) -> None:
    ref = await harness.create(["sleep"])
    method = "POST" if what == "wait" else "GET"
    before = len(asyncio.all_tasks())
    await client.send(f"{method} /containers/{ref}/{what} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await client.head()
    assert len(asyncio.all_tasks()) > before
    client.close()
    await eventually(lambda: len(asyncio.all_tasks()) <= before, "all tasks of the request are gone")
    assert (harness.engine.waiting, harness.engine.following) == (0, 0)


async def test_a_client_that_vanishes_from_events_is_unsubscribed(harness: Harness, client: Client) -> None:
    await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.head()
    assert len(harness.engine.listeners) == 1
    client.close()
    await eventually(lambda: not harness.engine.listeners, "the subscription ends")


async def test_events_are_json_lines_as_they_happen(harness: Harness, client: Client) -> None:
    await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.head())[2]["content-type"] == "application/json"
    await harness.create(["x"])
    line = await client.chunk()
    assert line.endswith(b"}\n")
    assert json.loads(line)["Action"] == "create"


async def test_bad_arguments_of_events_are_an_ordinary_error(harness: Harness, client: Client) -> None:
    answer = await client.ask("GET", "/events?since=bad")
    assert (answer.status, answer.message) == (400, "invalid value for since")
    assert (await client.ask("GET", "/events?filters=%5B%5D")).message == "invalid filter"


async def test_logs_want_a_stream(client: Client) -> None:
    answer = await client.ask("GET", "/containers/x/logs")
    assert (answer.status, answer.message) == (400, "Bad parameters: you must choose at least one stream")


@pytest.mark.parametrize(
    ("version", "tty", "content_type"),
    [
        ("1.41", False, "application/vnd.docker.raw-stream"),
        ("1.42", False, "application/vnd.docker.multiplexed-stream"),
        ("1.42", True, "application/vnd.docker.raw-stream"),
    ],
)
async def test_the_content_type_of_logs(
    harness: Harness, client: Client, version: str, tty: bool, content_type: str
) -> None:
    ref = await harness.create(["echo", "hi"], Tty=tty)
    await harness.ask("POST", f"/containers/{ref}/start")
    await eventually(lambda: not harness.engine.find(ref).running, "exited")
    answer = await client.ask("GET", f"/v{version}/containers/{ref}/logs?stdout=1&tail=5&timestamps=1&since=3")
    assert answer.headers["content-type"] == content_type
    assert answer.body == (b"hi\n" if tty else b"\x01\0\0\0\0\0\0\x03hi\n")
    options = harness.engine.calls[-1][1]
    assert (options.tail, options.timestamps, options.since, options.stderr) == ("5", True, "3", False)


async def test_a_slow_reader_of_logs_slows_the_source_down(harness: Harness, client: Client) -> None:
    harness.engine.flood = b"x" * (1 << 20)
    ref = await harness.create(["sleep"])
    await client.send(f"GET /containers/{ref}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await client.head()
    await asyncio.sleep(0.3)
    front = next(iter(harness.door._fronts))
    assert front.transport is not None
    assert front.transport.get_write_buffer_size() < 3 << 20


async def test_stats_stream_with_the_figures_of_the_sample_before(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "STATS_PERIOD_S", 0.01)
    ref = await harness.create(["sleep"])
    await client.send(f"GET /containers/{ref}/stats HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await client.head()
    first, second = json.loads(await client.chunk()), json.loads(await client.chunk())
    assert first["preread"] == "0001-01-01T00:00:00Z"
    assert (second["preread"], second["precpu_stats"]) == (first["read"], first["cpu_stats"])
    await harness.ask("DELETE", f"/containers/{ref}")
    while await client.chunk():
        pass
    assert (await client.ask("GET", "/_ping")).status == 200


@pytest.mark.parametrize(("query", "samples"), [("stream=0&one-shot=1", 1), ("stream=0", 2)])
async def test_one_sample_of_stats(
    harness: Harness, client: Client, monkeypatch: pytest.MonkeyPatch, query: str, samples: int
) -> None:
    monkeypatch.setattr(containers, "STATS_PERIOD_S", 0.01)
    ref = await harness.create(["sleep"])
    answer = await client.ask("GET", f"/containers/{ref}/stats?{query}")
    assert answer.status == 200
    assert len([call for call in harness.engine.calls if call[0] == "stats"]) == samples


async def test_stats_cannot_stream_one_shot(client: Client) -> None:
    answer = await client.ask("GET", "/containers/x/stats?one-shot=1")
    assert (answer.status, answer.message) == (400, "cannot have stream=true and one-shot=true")


# Lists and exec.


async def test_parameters_of_a_list_reach_the_engine(harness: Harness, client: Client) -> None:
    path = '/containers/json?all=true&limit=3&size=1&filters={"label":{"a=b":true},"status":["exited"]}'
    assert (await client.ask("GET", path)).json == []
    filters = {"label": ["a=b"], "status": ["exited"]}
    assert harness.engine.calls == [("list", True, 3, True, filters)]
    assert (await client.ask("GET", "/containers/json?limit=x")).status == 500
    assert (await client.ask("GET", "/containers/json?limit=x&filters=x")).status == 400


async def test_exec_without_command_is_refused(client: Client) -> None:
    answer = await client.ask("POST", "/containers/x/exec", {"Cmd": []})
    assert (answer.status, answer.message) == (400, "No exec command specified")


async def test_exec_is_created_with_201(harness: Harness, client: Client) -> None:
    ref = await harness.create(["sleep"])
    body = {"Cmd": ["x"], "ConsoleSize": [3, 4]}
    assert (await client.ask("POST", f"/containers/{ref}/exec", body)).status == 409
    await client.ask("POST", f"/containers/{ref}/start")
    answer = await client.ask("POST", f"/v1.41/containers/{ref}/exec", body)
    assert answer.status == 201
    assert harness.engine.execs[answer.json["Id"]].request.console_size is None
    assert (await client.ask("POST", f"/exec/{answer.json['Id']}/resize?h=1&w=2")).status == 200


async def test_update_takes_limits_and_restart_policy(harness: Harness, client: Client) -> None:
    body = {"Memory": 5, "RestartPolicy": {"Name": "always"}}
    assert (await client.ask("POST", "/containers/x/update", body)).status == 200
    request = harness.engine.calls[0][1]
    assert (request.memory, request.restart_policy.name) == (5, "always")


async def test_explain_and_trace_are_ours(harness: Harness, client: Client) -> None:
    ref = await harness.create(["x"])
    answer = await client.ask("POST", "/v1.51/corten/explain", CREATE)
    assert (answer.status, sorted(answer.json)) == (200, ["effective", "plan"])
    assert (await client.ask("GET", f"/v1.51/containers/{ref}/corten/trace")).json["id"] == ref


# Images.


async def test_an_import_is_streamed_to_the_engine(harness: Harness, client: Client) -> None:
    path = "/images/create?fromSrc=-&repo=r&tag=t&message=m&changes=ENV%20a=b&changes=CMD%20x&platform=linux"
    answer = await client.ask("POST", path, b"tar")
    assert answer.status == 200
    assert harness.engine.calls == [("import", "r", "t", "m", ["ENV a=b", "CMD x"], "linux")]
    assert harness.engine.loaded == 3


async def test_a_load_that_fails_says_so_in_its_stream(client: Client) -> None:
    answer = await client.ask("POST", "/images/load", b"")
    assert answer.status == 200
    assert json.loads(answer.body) == {"errorDetail": {"message": "empty archive"}, "error": "empty archive"}


async def test_tag_and_remove_of_images_with_slashes(harness: Harness, client: Client) -> None:
    assert (await client.ask("POST", "/images/a/b:1/tag?repo=c/d&tag=2")).status == 201
    assert (await client.ask("DELETE", "/images/a/b:1?force=1")).status == 200
    assert harness.engine.calls == [("tag", "a/b:1", "c/d", "2"), ("rmi", "a/b:1", True, False)]
    assert (await client.ask("GET", "/images/busybox/json")).status == 200
    assert (await client.ask("GET", "/images/busybox/history")).status == 200


async def test_disk_usage_counts_images_and_containers(harness: Harness, client: Client) -> None:
    await harness.create(["x"])
    usage = (await client.ask("GET", "/v1.51/system/df")).json
    assert (len(usage["Images"]), len(usage["Containers"]), usage["Volumes"]) == (1, 1, [])
    old = (await client.ask("GET", "/v1.45/system/df")).json
    assert [document["Images"][0]["Containers"] for document in (usage, old)] == [2, 2]
    assert (usage["LayersSize"], usage["ContentSize"], "ContentSize" in old) == (5, 2, False)
    refused = await client.ask("GET", "/v1.51/system/df?type=nonsense")
    assert (refused.status, refused.json["message"]) == (400, "unknown object type: nonsense")
    assert (await client.ask("GET", "/v1.51/system/df?type=volume")).json["Images"] is None


async def test_closing_the_door_ends_its_connections(harness: Harness, client: Client) -> None:
    await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.head()
    await harness.door.close()
    await client.rest()
    with pytest.raises(ConnectionRefusedError):
        await harness.connect()


async def test_images_are_mounted_and_unmounted_by_name(harness: Harness, client: Client) -> None:
    platform = '{"os":"linux","architecture":"arm64"}'
    answer = await client.ask("POST", f"/images/a/b:1/corten/mount?target=/mnt&platform={platform}")
    assert (answer.status, answer.json["Path"]) == (201, "/mnt")
    assert (await client.ask("GET", "/corten/mounts")).json == []
    assert (await client.ask("POST", "/corten/unmount?what=a/b:1")).status == 200
    assert harness.engine.calls == [("mount", "a/b:1", "/mnt", Platform("arm64", "linux")), ("unmount", "a/b:1")]
