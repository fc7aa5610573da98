"""Words that Docker's programs read in one way."""

from __future__ import annotations

from typing import Final

# Go's `strconv.ParseBool`
BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}

HEALTH_ACTION_LABEL = "corten.health-on-failure"
"""What is done to a container that becomes unhealthy: none, kill, stop or restart."""
