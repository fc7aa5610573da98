"""`POST /auth`."""

from __future__ import annotations

import pytest

from corten.registry.credentials import AuthConfig
from unit.docker.raw_client import Client, Harness


async def test_auth_hands_the_credentials_to_the_engine(harness: Harness) -> None:
    given = {"Username": "sue", "password": "secret", "serveraddress": "r:5000", "email": ""}
    answer = await harness.ask("POST", "/auth", given)
    assert answer.json == {"IdentityToken": "", "Status": "Login Succeeded"}
    assert harness.engine.calls == [
        ("login", AuthConfig(username="sue", password="secret", serveraddress="r:5000", email="")),
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "invalid JSON: json: cannot unmarshal array into Go value of type container.AuthConfig"),
        (
            b'{"username": 5}',
            "invalid JSON: json: cannot unmarshal number into Go struct field AuthConfig.username of type string",
        ),
        (b"{", "invalid JSON: unexpected EOF"),
    ],
)
async def test_auth_of_what_is_no_credentials_is_refused(client: Client, body: bytes, message: str) -> None:
    answer = await client.ask("POST", "/auth", body, headers=("Content-Type: application/json",))
    assert (answer.status, answer.message) == (400, message)
