"""Which engine a command line means: `--host`, `--context`, the environment, or what `context use` chose.

--host                         that address
--context NAME                 that context; both together are refused
CORTEN_HOST, DOCKER_HOST       that address
DOCKER_CONTEXT                 that context
currentContext of config.json  that context
                               else the usual socket
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from corten import errors
from corten.cli.command import Failure

if TYPE_CHECKING:
    from corten.cli.session import Session

DEFAULT: Final = "default"
HOST_VARIABLES: Final = ("CORTEN_HOST", "DOCKER_HOST")


def chosen(context: str, hosts: Sequence[str], folder: str, environ: Mapping[str, str]) -> str:
    """The name of the context; DEFAULT where an address was given or nothing was.  Raises Failure for two choices."""
    if context and hosts:
        raise Failure("conflicting options: cannot specify both --host and --context")
    if context:
        return context
    if hosts or any(environ.get(name) for name in HOST_VARIABLES):
        return DEFAULT
    if environ.get("DOCKER_CONTEXT"):
        return environ["DOCKER_CONTEXT"]
    from corten.cli.config import config_of

    return config_of(folder).current_context or DEFAULT


def apply(session: Session) -> None:
    """Makes the session one with the context's engine.  Raises Failure when there is no such context."""
    from corten.cli.contextstore import Store
    from corten.cli.transport import DEFAULT_HOST, check_host

    store = Store(session.config_folder)
    try:
        context = store.load(session.context)
    except errors.CortenError as error:
        raise Failure(f"Failed to initialize: unable to resolve docker endpoint: {error.text}") from None
    session.host = context.host or DEFAULT_HOST
    session.is_default = False
    check_host(session.host)
    files = {which: store.tls_file(session.context, which) for which in ("ca", "cert", "key")}
    if session.host.startswith("tcp:") and (context.is_unverified or any(files.values())):
        from corten.cli.tunnel import Tls

        pair = (files["cert"], files["key"]) if files["cert"] and files["key"] else ("", "")
        session.tls = Tls(files["ca"], *pair, is_verified=not context.is_unverified)
