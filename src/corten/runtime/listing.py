"""`list`: all containers below the state root."""

from __future__ import annotations

import pwd

from corten.errors import CortenError, InvalidArgument
from corten.runtime import container, fast
from corten.runtime.commands import STDOUT_FD, encode
from corten.runtime.settings import root
from corten.runtime.state import list_ids
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from corten.runtime.args import Invocation
    from corten.runtime.log import Log

COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")
LEAST_WIDTH, GAP = 12, 3


def run(invocation: Invocation, log: Log) -> int:
    """Prints ids, a table, or JSON; a container whose record cannot be read is a warning."""
    place = root(invocation.settings)
    form = invocation.options.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    if invocation.options.is_set("quiet"):
        files.write_all(STDOUT_FD, encode("".join(f"{id}\n" for id in list_ids(place))))
        return 0
    rows = []
    for id in list_ids(place):
        try:
            record = container.state(place, id)
        except CortenError as error:
            log.warning(f"load container {id}: {error.text}")
            continue
        rows.append(record.listing(record.status(), user_name(record.owner)))
    text = (fast.dumps(rows) if rows else "null") + "\n" if form == "json" else table(rows)
    files.write_all(STDOUT_FD, encode(text))
    return 0


def user_name(uid: int) -> str:
    """The login name of a uid, `#uid` when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Go's tabwriter aligns them in runc: cells at least 12 wide, three spaces between."""
    cells = [[name.upper() for name in COLUMNS]]
    cells += [[str(row[name]) for name in COLUMNS] for row in rows]
    last = len(COLUMNS) - 1
    widths = [max(LEAST_WIDTH, *(len(row[i]) + GAP for row in cells)) for i in range(last)]
    return "".join("".join(row[i].ljust(widths[i]) for i in range(last)) + row[last] + "\n" for row in cells)
