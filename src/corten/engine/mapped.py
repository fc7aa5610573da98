"""What is different for a container whose users are mapped (`userns-remap`): its root, its namespaces, its process.

The container keeps the map that it was made with, whatever the node's is by now.  dockerd documentation, "Isolate
containers with a user namespace"; namespaces of another container are joined together with the user namespace that they
belong to, as in moby's daemon/oci_linux.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from msgspec.structs import replace

from corten.core.owners import IdMap
from corten.core.snapshots import Mount
from corten.engine import launcherrors
from corten.engine.container import Container, Roster
from corten.engine.effective import Effective
from corten.engine.usernamespaces import UserNamespaces
from corten.engine.users import User
from corten.errors import Internal, InvalidArgument
from corten.shim import idmapped
from corten.sys.fsids import acting_as

_UNMAPPED = "unable to start container process: unable to setup user: cannot set uid to unmapped user in user namespace"


def root(described: Mount, id_map: IdMap | None, namespaces: UserNamespaces) -> Mount:
    """A container's layers with the owners that it is to see.  Raises Unavailable."""
    if id_map is None:
        return described
    return replace(described, options=[*described.options, *idmapped.options(namespaces.path(id_map), id_map.root)])


def acting(id_map: IdMap | None) -> AbstractContextManager[None]:
    """This thread makes files as the container's root meanwhile: nobody else's have an owner in its layers."""
    return nullcontext() if id_map is None else acting_as(*id_map.root)


def check_user(user: User, id_map: IdMap | None) -> None:
    """Raises Internal in runc's words for one that the map does not have."""
    if id_map is not None and not id_map.has(user.uid, user.gid):
        raise launcherrors.start_error(InvalidArgument(_UNMAPPED))[0]


def check_exec_user(user: User, id_map: IdMap | None) -> None:
    """The same for `docker exec -u`."""
    if id_map is not None and not id_map.has(user.uid, user.gid):
        raise launcherrors.exec_error(Internal(_UNMAPPED))


def lender(effective: Effective, roster: Roster) -> Container | None:
    """The container whose user namespace is joined, because another one of its namespaces is.

    Raises InvalidArgument when its users are not mapped like this one's: who is root in one user namespace has no right
    over what belongs to another.
    """
    host = effective.host
    modes: Mapping[str, str] = {"network": effective.network, "PID": host.pid_mode, "IPC": host.ipc_mode}
    for kind, mode in modes.items():
        prefix, colon, ref = mode.partition(":")
        if prefix == "container" and colon:
            other = roster.find(ref)
            if other.record.effective.id_map != effective.id_map:
                raise InvalidArgument(
                    f"cannot join the {kind} namespace of container {other.id}: its users are not mapped as this "
                    "container's are (userns-remap); give both the same --userns"
                )
            return other
    return None
