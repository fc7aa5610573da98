"""As whom the engine shall speak to a registry: the header `X-Registry-Auth` of pull, push and run."""

from __future__ import annotations

import base64
import json

from corten.cli.config import INDEX_SERVER, Login, config_of
from corten.spec.reference import DEFAULT_DOMAIN, parse


def server_of(domain: str) -> str:
    """The name under which config.json keeps the credentials for a registry."""
    return INDEX_SERVER if domain == DEFAULT_DOMAIN else domain


def registry_auth(reference: str, folder: str) -> dict[str, str]:
    """The headers for a request about `reference`: none when nobody is logged in.

    `folder` is where config.json lies (`Session.config_folder`).  Raises InvalidArgument for what is no name.
    """
    server = server_of(parse(reference).domain)
    login = config_of(folder).login(server)
    return {} if login.is_empty else {"X-Registry-Auth": encoded(login, server)}


def encoded(login: Login, server: str) -> str:
    """base64url of Docker's AuthConfig (Docker API, "Authentication")."""
    return base64.urlsafe_b64encode(json.dumps(auth_config(login, server)).encode()).decode()


def auth_config(login: Login, server: str) -> dict[str, str]:
    """Docker's AuthConfig."""
    fields = {
        "username": login.username,
        "password": login.password,
        "serveraddress": server,
        "identitytoken": login.identity_token,
        "registrytoken": login.registry_token,
    }
    return {key: value for key, value in fields.items() if value}
