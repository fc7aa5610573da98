"""`docker top`: the host's ps(1), and of its rows those that are the container's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Any, Final

from corten.errors import Internal, InvalidArgument

Json = dict[str, Any]

DEFAULT_ARGUMENTS: Final = "-ef"
_TIMEOUT_S: Final = 10.0
_MAX_ARGUMENTS: Final = 16 << 10
_TITLES: Final = re.compile(r"\s+(?:-o)?(\S*)=\s*(PID\S*)")


async def top(pids: Collection[int], ps_args: str) -> Json:
    """`{"Titles", "Processes"}`.  Raises Internal with dockerd's texts when ps fails or prints no PID.

    Asked for these processes alone, as the tree of `f` and the selection of `-o` need it; where ps takes no `-q` beside
    the client's options, for what those say.
    """
    arguments = _arguments(ps_args or DEFAULT_ARGUMENTS)
    wanted = "-q" + ",".join(map(str, sorted(pids)))
    try:
        output = await _ps([*arguments, *([wanted] if len(wanted) < _MAX_ARGUMENTS else [])])
    except Internal:
        output = await _ps(arguments)
    return parse(output, pids)


def _arguments(text: str) -> list[str]:
    """Separated by blanks alone, as dockerd has it: there is no shell."""
    if len(text) > _MAX_ARGUMENTS:
        raise Internal("ps: argument list too long")
    if "\0" in text:
        raise Internal("ps: invalid argument")
    # -o comm=PID would give a column of the container's choice the name of the one that is looked for
    for name, title in _TITLES.findall(" " + text):
        if name != "pid":
            raise InvalidArgument(f'specifying "{name}={title}" is not allowed')
    return [word for word in text.split(" ") if word]


async def _ps(arguments: list[str]) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "ps", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Internal("ps: timed out") from None
    if process.returncode:
        lines = [line for line in complaint.decode(errors="replace").splitlines() if line.strip()]
        first = lines[0].removeprefix("error:").strip() if lines else f"exit status {process.returncode}"
        raise Internal(f"ps: error: {first}" if lines and lines[0].startswith("error:") else f"ps: {first}")
    return output.decode(errors="replace")


def parse(output: str, pids: Collection[int]) -> Json:
    """Rows whose PID is one of `pids`; the last column holds the rest of the line, blanks and all."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise Internal("Couldn't find PID field in ps output")
    place = titles.index("PID")
    rows = []
    for line in lines[1:]:
        words = line.split(None, len(titles) - 1)
        if len(words) > place and words[place].isdigit() and int(words[place]) in pids:
            last = " ".join(words[len(titles) - 1 :]).rstrip()
            rows.append([*words[: len(titles) - 1], *([last] if len(words) == len(titles) else [])])
    return {"Titles": titles, "Processes": rows}
