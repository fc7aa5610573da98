"""Restart policies: whether a container that has exited is started again, and when (dockerd's restart manager).

The delay begins at 100 ms, doubles with every restart up to a minute, and begins anew after a run of ten seconds.  It
is kept in the record, as is the number of restarts: neither begins anew with a cortend or a machine, only with a start
by hand.
"""

from __future__ import annotations

from typing import Final

from corten.spec.docker import RestartPolicy

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 60.0
LONG_RUN_S: Final = 10.0


class Backoff:
    """The delays of one container's restarts."""

    def __init__(self, delay_s: float = 0.0) -> None:
        """`delay_s`: the last one."""
        self._delay_s = delay_s

    def next_delay(self, ran_s: float) -> float:
        """Seconds to wait before the next start, after a run of `ran_s` seconds."""
        if ran_s >= LONG_RUN_S:
            self._delay_s = 0.0
        self._delay_s = min(self._delay_s * 2, LAST_DELAY_S) if self._delay_s else FIRST_DELAY_S
        return self._delay_s

    def reset(self) -> None:
        """A start by hand begins a new series."""
        self._delay_s = 0.0


def should_restart(policy: RestartPolicy, exit_code: int, *, restarts: int, stopped_by_user: bool) -> bool:
    """Whether the policy wants it again, after so many restarts.

    `always` counts a stop by hand only until the daemon starts anew.
    """
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not stopped_by_user
        case "on-failure":
            is_allowed = not policy.maximum_retry_count or restarts < policy.maximum_retry_count
            return exit_code != 0 and is_allowed
        case _:
            return False
