"""Lines that tests want printed after the run: hit counts, seeds, versions, races won."""

from __future__ import annotations

_sections: dict[str, list[str]] = {}


def add(title: str, line: str) -> None:
    """Adds a line to a titled section of the summary; a line that is there already is not repeated."""
    lines = _sections.setdefault(title, [])
    if line not in lines:
        lines.append(line)


def sections() -> dict[str, list[str]]:
    """All sections, in the order in which they were begun."""
    return _sections
