"""`--use-api-socket`: a container that may speak to the engine, and to registries as its maker does.

The engine's socket is bound to /var/run/docker.sock; credentials, where there are some, are put into
/run/secrets/docker/config.json of the container that was made, and DOCKER_CONFIG leads there (docker's CLI 28).
"""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

from corten import errors
from corten.cli.config import config_of
from corten.cli.session import Session

SOCKET = "/var/run/docker.sock"
FOLDER = "/run/secrets/docker"
_SCHEME = "unix://"


def check(host: str) -> None:
    """Raises InvalidArgument in docker's words where the engine is elsewhere."""
    if not host.startswith(_SCHEME):
        raise errors.InvalidArgument(
            f"flag --use-api-socket can only be used with unix sockets: docker endpoint {host} incompatible"
        )


def prepare(session: Session, body: dict[str, Any]) -> bytes:
    """Adds the socket to the request; the archive to put into the container, b"" where nobody is logged in.

    Raises a CortenError when a credential helper fails.
    """
    check(session.host)
    mount = {"Type": "bind", "Source": session.host.removeprefix(_SCHEME), "Target": SOCKET, "BindOptions": {}}
    body["HostConfig"]["Mounts"] = [*body["HostConfig"].get("Mounts", ()), mount]
    auths = config_of(session.config_folder).all_entries()
    if not auths:
        return b""
    body["Env"] = [*body.get("Env", ()), f"DOCKER_CONFIG={FOLDER}"]
    text = json.dumps({"auths": dict(sorted(auths.items()))}, indent="\t", ensure_ascii=False).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(f"{FOLDER}/config.json")
        entry.size, entry.mode = len(text), 0o600
        tar.addfile(entry, io.BytesIO(text))
    return archive.getvalue()


def put(session: Session, container_id: str, archive: bytes) -> None:
    """Puts the credentials into the container.  Raises a CortenError."""
    query = {"path": "/", "noOverwriteDirNonDir": "true"}
    try:
        session.client.open("PUT", f"/containers/{container_id}/archive", query=query, body=archive).read()
    except errors.CortenError as error:
        raise errors.Internal(f"injecting docker config.json into container failed: {error.text}") from error
