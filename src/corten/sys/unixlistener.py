"""A unix socket that appears in its folder only once somebody listens."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_NEW: Final = ".new"


def appear(listener: socket.socket, folder_fd: int, name: str, *, backlog: int, mode: int, group: int = -1) -> None:
    """Binds and listens at `name` in an open folder.  Who finds the file is answered, and finds its rights complete.

    A file of that name is replaced at once, so that a client sees the old socket or the new one, never none.
    The address goes through /proc/self/fd, because a path in sockaddr_un has at most 107 bytes (unix(7)).
    `group`: of the file, -1 for that of the process; where it may not be given the file keeps that.  Raises OSError.
    """
    new = name + _NEW
    with contextlib.suppress(FileNotFoundError):  # of a process that was killed in here
        os.unlink(new, dir_fd=folder_fd)
    listener.bind(f"/proc/self/fd/{folder_fd}/{new}")
    try:
        os.chmod(new, mode, dir_fd=folder_fd)
        if group >= 0:
            with contextlib.suppress(PermissionError):
                os.chown(new, 0, group, dir_fd=folder_fd)
        listener.listen(backlog)
        os.rename(new, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        os.unlink(new, dir_fd=folder_fd)
        raise
