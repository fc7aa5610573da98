"""Restart policies: whether a container that has exited is started again, and when (dockerd's restart manager).

The delay begins at 100 ms, doubles with every restart up to a minute, and begins anew after a run of ten seconds.
"""

from __future__ import annotations

from typing import Final

from corten.spec.docker import RestartPolicy

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 60.0
LONG_RUN_S: Final = 10.0


class Backoff:
    """The delays of one container's restarts, and its failures in a row."""

    def __init__(self) -> None:
        self._delay_s = 0.0
        self.failures = 0

    def next_delay(self, ran_s: float) -> float:
        """Seconds to wait before the next start, after a run of `ran_s` seconds."""
        if ran_s >= LONG_RUN_S:
            self._delay_s = 0.0
        self._delay_s = min(self._delay_s * 2, LAST_DELAY_S) if self._delay_s else FIRST_DELAY_S
        return self._delay_s

    def count(self, exit_code: int) -> None:
        """Note an exit."""
        self.failures = self.failures + 1 if exit_code else 0

    def reset(self) -> None:
        """A start by hand begins a new series."""
        self._delay_s = 0.0
        self.failures = 0


def should_restart(policy: RestartPolicy, exit_code: int, *, failures: int, stopped_by_user: bool) -> bool:
    """Whether the policy wants it again.  `always` counts a stop by hand only until the daemon starts anew."""
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not stopped_by_user
        case "on-failure":
            is_allowed = not policy.maximum_retry_count or failures <= policy.maximum_retry_count
            return exit_code != 0 and is_allowed
        case _:
            return False
