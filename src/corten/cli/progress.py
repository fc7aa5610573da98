"""Streams of progress messages on a terminal, with a line per layer that changes in place, or as plain lines.

What Docker's CLI shows (moby pkg/jsonmessage, facts only).  Texts come from an engine, and partly from the registry
behind it: on a terminal nothing of them is obeyed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from corten.cli.command import Failure
from corten.spec.progress import WIDE, bar

_CLEAR = "\x1b[2K\r"


def show(
    messages: Iterable[Mapping[str, Any]],
    *,
    out: TextIO | None = None,
    quiet: bool = False,
    aux: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> None:
    """Shows the messages as they come, and hands each `aux` on; raises Failure with the text of an error among them."""
    display = Display(out or sys.stdout)
    for message in messages:
        if "errorDetail" in message or "error" in message:
            detail = message.get("errorDetail") or {}
            raise Failure(printable(str(detail.get("message") or message.get("error") or "")))
        if message.get("aux") is not None:
            aux(message["aux"])
        elif not quiet:
            display.show(message)


class Display:
    """One stream's lines on one output."""

    def __init__(self, out: TextIO, *, is_terminal: bool | None = None) -> None:
        self._out = out
        self._is_terminal = out.isatty() if is_terminal is None else is_terminal
        self._rows: dict[str, int] = {}

    def show(self, message: Mapping[str, Any]) -> None:
        """One message."""
        text = self._plain(message) if not self._is_terminal else self._on_terminal(message)
        if text:
            self._out.write(text)
            self._out.flush()

    def _plain(self, message: Mapping[str, Any]) -> str:
        if _bar(message, WIDE):
            return ""
        return str(message["stream"]) if message.get("stream") else f"{_head(message)}{message.get('status', '')}\n"

    def _on_terminal(self, message: Mapping[str, Any]) -> str:
        subject = str(message.get("id") or "")
        if not subject or message.get("progressDetail") is None:
            self._rows.clear()  # what comes after an ordinary line begins new rows
            stream = message.get("stream")
            ordinary = f"{_head(message)}{message.get('status', '')}\n"
            return printable(str(stream) if stream else ordinary)
        start = ""
        if subject not in self._rows:
            self._rows[subject] = len(self._rows)
            start = "\n"
        up = len(self._rows) - self._rows[subject]
        line = printable(f"{_head(message)}{message.get('status', '')} {_bar(message, _columns(self._out))}")
        return f"{start}\x1b[{up}A{_CLEAR}{line}\r\x1b[{up}B"


def printable(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def _head(message: Mapping[str, Any]) -> str:
    return f"{message['id']}: " if message.get("id") else ""


def _bar(message: Mapping[str, Any], columns: int) -> str:
    detail = message.get("progressDetail") or {}
    return bar(int(detail.get("current") or 0), int(detail.get("total") or 0), width=columns)


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or WIDE
    except (OSError, ValueError):
        return WIDE
