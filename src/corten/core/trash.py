"""Trees that nobody needs any more, out of everybody's way: renamed into one directory, removed when there is time.

    take(parent, name)    renamed: at once, however large it is
    throw(parent, name)   that, and removed: as long as the disk takes; while this is held, later
    empty()               removes what was left here: by whoever was killed, by `take`, while it was held

What is in here has no record and needs none: the place says what it is.  A removal that is cut short is gone on with
by the next start, from what is left.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import threading

from corten.core.trees import remove_entry

log = logging.getLogger("corten.core")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Trash:
    """The directory `path`, made when it is missing.  Thread-safe."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path, 0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._is_held = False

    def hold(self) -> None:
        """Until `release`, nothing is removed: whoever throws something away does not wait for the disk."""
        self._is_held = True

    def release(self) -> None:
        """Who throws something away removes it again; what was thrown away meanwhile is left to `empty`."""
        self._is_held = False

    def throw(self, parent: str, name: str) -> None:
        """Ends the tree `name` in the directory `parent`, now or, while this is held, later; absent is fine."""
        self.end(self.take(parent, name))

    def end(self, taken: str) -> None:
        """Removes what `take` took, now or, while this is held, later."""
        if taken and not self._is_held:
            self._remove(taken)

    def take(self, parent: str, name: str) -> str:
        """The same, later in any case; its name in here, '' when there is nothing any more.

        What cannot be renamed (a file system of its own, no room for one name more) is removed where it is.
        """
        taken = secrets.token_hex(8)
        parent_fd = os.open(parent, _DIRECTORY)
        try:
            os.rename(name, os.path.join(self.path, taken), src_dir_fd=parent_fd)
        except FileNotFoundError:
            return ""
        except OSError as error:
            log.debug("%s/%s is removed where it is: %s", parent, name, error)
            remove_entry(parent_fd, os.fsencode(name))
            return ""
        finally:
            os.close(parent_fd)
        return taken

    def _remove(self, name: str) -> bool:
        """One entry; False when somebody is at it already.  Raises OSError, and leaves the rest for `empty`."""
        with self._lock:
            if name in self._busy:
                return False
            self._busy.add(name)
        try:
            fd = os.open(self.path, _DIRECTORY)
            try:
                remove_entry(fd, os.fsencode(name))
            finally:
                os.close(fd)
        finally:
            with self._lock:
                self._busy.discard(name)
        return True

    def names(self) -> list[str]:
        """What is in here."""
        return sorted(os.listdir(self.path))

    def empty(self) -> int:
        """Removes all there is, one tree after the other; how many.

        One that the disk does not give up is left to the next start, which the log says.
        """
        removed = 0
        for name in self.names():
            try:
                removed += self._remove(name)
            except OSError as error:
                reason = os.strerror(error.errno or errno.EIO).lower()
                log.warning("%s/%s cannot be removed, the next start tries it again: %s", self.path, name, reason)
        return removed
