"""`docker top`: the host's ps(1), and of its rows those that are the container's."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Collection
from typing import Any, Final

from corten.errors import Internal, InvalidArgument

Json = dict[str, Any]

DEFAULT_ARGUMENTS: Final = "-ef"
_TIMEOUT_S: Final = 10.0
_MAX_ARGUMENTS: Final = 16 << 10  # shlex takes a second for a megabyte


async def top(pids: Collection[int], ps_args: str) -> Json:
    """`{"Titles", "Processes"}`.  Raises Internal with dockerd's texts when ps fails or prints no PID."""
    output = await _ps(_arguments(ps_args or DEFAULT_ARGUMENTS))
    return parse(output, pids)


def _arguments(text: str) -> list[str]:
    if len(text) > _MAX_ARGUMENTS:
        raise Internal("ps: argument list too long")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid ps_args: {error}") from error
    if "\0" in text:
        raise Internal("ps: invalid argument")
    for word in words:
        # -o pid=NAME would give columns names of the client's choice, also the one that is looked for
        if word.startswith("-o") and "=" in word:
            raise InvalidArgument(f'specifying "{word}" is not allowed')
    return words


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
