"""How many files this process may have open (RLIMIT_NOFILE, getrlimit(2)).

An engine takes all that it may have, as Go's programs do at their start; its containers get what it was given.
"""

from __future__ import annotations

import contextlib
import resource


def take_all() -> int:
    """Raises the soft limit to the hard one, where the kernel lets us; the soft limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a hard limit above fs.nr_open, which was lowered since
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def give_back(soft: int) -> None:
    """Sets the soft limit to what `take_all` of the parent returned."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def limit() -> int:
    """The soft limit now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
