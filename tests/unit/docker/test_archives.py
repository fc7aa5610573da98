"""Operations that answer with an archive: the stream, and errors before and in it."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from corten.spec.image import Platform
from unit.docker.raw_client import Client, Harness


async def test_save_streams_the_images_of_the_path_or_of_names(harness: Harness, client: Client) -> None:
    answer = await client.ask("GET", "/images/busybox/get")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-tar")
    assert answer.body == b"archive of busybox"
    answer = await client.ask("GET", "/v1.51/images/get?names=busybox&names=busybox:latest")
    assert answer.body == b"archive of busybox busybox:latest"
    assert harness.engine.calls[-1] == ("save", ["busybox", "busybox:latest"], None)


async def test_an_image_that_is_not_there_is_an_ordinary_error(client: Client) -> None:
    answer = await client.ask("GET", "/images/get?names=nothing")
    assert (answer.status, answer.message) == (404, "No such image: nothing")


async def test_the_platform_is_an_object_and_older_versions_have_none(harness: Harness, client: Client) -> None:
    given = quote(json.dumps({"os": "linux", "architecture": "arm64", "variant": "v8"}))
    await client.ask("GET", f"/v1.48/images/get?names=busybox&platform={given}")
    assert harness.engine.calls[-1][2] == Platform("arm64", "linux", "v8")
    await client.ask("GET", f"/v1.47/images/get?names=busybox&platform={given}")
    assert harness.engine.calls[-1][2] is None
    for wrong, text in (("{", "failed to parse platform"), ('{"os":"linux"}', "both OS and Architecture")):
        answer = await client.ask("GET", f"/v1.48/images/get?names=busybox&platform={quote(wrong)}")
        assert (answer.status, answer.message[: len(text)]) == (400, text)
    for method, path in (("GET", "/v1.48/images/get?names=busybox"), ("POST", "/v1.48/images/load?quiet=1")):
        answer = await client.ask(method, f"{path}&platform={given}&platform={given}")
        assert (answer.status, answer.message) == (400, "multiple platform parameters not supported")


async def test_what_fails_on_the_way_cuts_the_stream(harness: Harness, client: Client) -> None:
    harness.engine.flood = b"x"
    with pytest.raises(ValueError, match="invalid literal"):  # the size of the next chunk never comes
        await client.ask("GET", "/images/busybox/get")


async def test_commit_takes_its_parameters_and_perhaps_a_configuration(harness: Harness, client: Client) -> None:
    created = await client.ask("POST", "/containers/create?name=box", {"Image": "busybox"})
    assert created.status == 201
    path = "/commit?container=box&repo=r/x&tag=t&comment=c&author=a&changes=ENV%20a=b&changes=CMD%20x"
    answer = await client.ask("POST", path)
    assert (answer.status, list(answer.json)) == (201, ["Id"])
    given = {"comment": "c", "author": "a", "pause": True, "changes": ["ENV a=b", "CMD x"], "config": None}
    assert harness.engine.calls[-1] == ("commit", "box", "r/x", "t", given)
    answer = await client.ask("POST", "/commit?container=box&pause=0", {"Cmd": ["y"]})
    asked: Any = harness.engine.calls[-1][4]
    assert (asked["pause"], asked["config"].cmd) == (False, ["y"])
    for empty in ({}, {"HostConfig": {"Memory": 5}}, {"nobodys": 1}):  # docker-py sends the first
        await client.ask("POST", "/commit?container=box", empty)
        asked = harness.engine.calls[-1][4]
        assert asked["config"] is None
    assert (await client.ask("POST", "/commit?container=nothing")).status == 404


async def test_files_are_told_of_read_and_written(harness: Harness, client: Client) -> None:
    created = await client.ask("POST", "/containers/create?name=box", {"Image": "busybox"})
    assert created.status == 201
    told = {"name": "/a b", "size": 3, "mode": 420, "mtime": "", "linkTarget": ""}
    header = "x-docker-container-path-stat"
    answer = await client.ask("HEAD", "/containers/box/archive?path=/a%20b")
    assert (answer.status, json.loads(base64.b64decode(answer.headers[header])), answer.body) == (200, told, b"")
    answer = await client.ask("GET", "/containers/box/archive?path=/a%20b")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-tar")
    assert (json.loads(base64.b64decode(answer.headers[header])), answer.body) == (told, b"archive of /a b")
    path = "/containers/box/archive?path=/d&noOverwriteDirNonDir=true&copyUIDGID=1"
    assert (await client.ask("PUT", path, b"an archive")).status == 200
    assert harness.engine.calls[-1] == ("extract", "box", "/d", b"an archive", True, True)


async def test_files_that_are_not_there_are_ordinary_errors(client: Client) -> None:
    assert (await client.ask("POST", "/containers/create?name=box", {"Image": "busybox"})).status == 201
    for method in ("GET", "PUT"):
        answer = await client.ask(method, "/containers/box/archive?path=/nope")
        assert (answer.status, answer.message) == (404, "Could not find the file /nope in container box")
        for query in ("", "?path=", "?path=%00"):
            assert (await client.ask(method, f"/containers/box/archive{query}")).status == 400
    assert (await client.ask("HEAD", "/containers/box/archive?path=/nope")).status == 404
    assert (await client.ask("GET", "/containers/nothing/archive?path=/d")).status == 404


async def test_changes_and_export_are_of_a_container(client: Client) -> None:
    await client.ask("POST", "/containers/create?name=box", {"Image": "busybox"})
    assert (await client.ask("GET", "/containers/box/changes")).json == [{"Path": "/box", "Kind": 1}]
    answer = await client.ask("GET", "/containers/box/export")
    assert (answer.headers["content-type"], answer.body) == ("application/octet-stream", b"box")
    assert (await client.ask("GET", "/containers/nothing/export")).status == 404
