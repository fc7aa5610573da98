"""`POST /images/create?fromImage=…`."""

from __future__ import annotations

import json

from corten.registry.credentials import Credentials, encode_auth
from unit.docker.raw_client import Client, Harness


async def test_a_pull_is_the_engines_with_the_clients_credentials(harness: Harness, client: Client) -> None:
    auth = encode_auth(Credentials(username="me", password="secret"))
    path = "/v1.51/images/create?fromImage=r/i&tag=1&platform=linux/arm64"
    answer = await client.ask("POST", path, headers=(f"X-Registry-Auth: {auth}",))
    assert answer.status == 200
    assert json.loads(answer.body) == {"status": "Pulling from r/i", "id": "1"}
    assert harness.engine.calls == [("pull", "r/i", "1", "linux/arm64", Credentials("me", "secret"))]


async def test_a_pull_without_readable_credentials_goes_on_without(harness: Harness, client: Client) -> None:
    answer = await client.ask("POST", "/images/create?fromImage=r&tag=1", headers=("X-Registry-Auth: %%%",))
    assert answer.status == 200
    assert harness.engine.calls == [("pull", "r", "1", "", Credentials())]


async def test_what_a_registry_does_not_have_is_an_ordinary_answer_and_what_fails_later_in_the_stream(
    client: Client,
) -> None:
    answer = await client.ask("POST", "/images/create?fromImage=nosuch&tag=latest")
    assert (answer.status, answer.message) == (
        404,
        "manifest for nosuch:latest not found: manifest unknown: manifest unknown",
    )
    answer = await client.ask("POST", "/images/create?fromImage=broken&tag=latest")
    assert answer.status == 200
    *_, last = answer.body.splitlines()
    text = "filesystem layer verification failed"
    assert json.loads(last) == {"errorDetail": {"message": text}, "error": text}
