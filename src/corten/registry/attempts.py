"""When a request is made again, and how long that waits.

A registry that is busy says so (429, 503), perhaps with `Retry-After` (RFC 9110 §10.2.3); a line breaks; a gateway has
lost what is behind it.  All of that passes.  A refusal, a missing name or a lie does not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

from corten.registry.cancel import Cancel
from corten.registry.errors import ConnectionFailed, RegistryError

DOCUMENT_ATTEMPTS = 3
WAIT_MAX = 60.0
"""The longest `Retry-After` that is waited for; who asks for more gets none of it, and the user the answer."""
_FIRST_WAIT = 0.5
_FACTOR = 4.0
_LAST_WAIT = 20.0
_PASSING = {408, 429, 500, 502, 503, 504}
_NOT_PASSING = {"UNAUTHORIZED", "DENIED", "UNSUPPORTED"}

T = TypeVar("T")


def retry_after(value: str) -> float | None:
    """Seconds of a `Retry-After` header, a number or a date; None for none or nonsense."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except (ValueError, OverflowError, OSError):
        return None


def wait_before_next(error: RegistryError, attempt: int) -> float | None:
    """Seconds before attempt number `attempt` + 1 (from 1 on), with jitter; None when another makes no sense."""
    if error.code in _NOT_PASSING or not (isinstance(error, ConnectionFailed) or error.status in _PASSING):
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= WAIT_MAX else None
    wait = min(_FIRST_WAIT * _FACTOR ** (attempt - 1), _LAST_WAIT)
    return wait * random.uniform(0.75, 1.25)


def persistently(work: Callable[[], T], *, cancel: Cancel, attempts: int = DOCUMENT_ATTEMPTS) -> T:
    """`work()`, again after errors that pass.  Nobody there at all counts as an answer: the next endpoint is tried.

    Raises what the last attempt raised; Cancelled.
    """
    attempt = 1
    while True:
        try:
            return work()
        except RegistryError as error:
            wait = wait_before_next(error, attempt)
            is_absent = isinstance(error, ConnectionFailed) and not error.was_connected
            if wait is None or is_absent or attempt >= attempts:
                raise
        attempt += 1
        cancel.wait(wait)
