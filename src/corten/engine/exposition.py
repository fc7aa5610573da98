"""Metrics as text: OpenMetrics 1.0, and Prometheus's format 0.0.4 for those who do not ask for it.

Source: the OpenMetrics specification, "Text format"; Prometheus, "Exposition formats".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

_ESCAPES: Final = (("\\", "\\\\"), ("\n", "\\n"), ('"', '\\"'))  # in this order

Labels = Mapping[str, str]


class Family(msgspec.Struct):
    """Samples under one name; `kind` is gauge, counter or info; a counter's name comes without `_total`."""

    name: str
    kind: str
    help: str
    rows: list[tuple[Labels, float]] = []

    def add(self, labels: Labels, value: float) -> None:
        """One sample.  Label values may be anything."""
        self.rows.append((labels, value))


def render(families: Iterable[Family], *, is_open: bool) -> str:
    """The families that have samples, in their order."""
    lines = [line for family in families if family.rows for line in _family(family, is_open=is_open)]
    return "\n".join([*lines, *(["# EOF"] if is_open else []), ""])


def _family(family: Family, *, is_open: bool) -> list[str]:
    sample = family.name + {"counter": "_total", "info": "_info"}.get(family.kind, "")
    name, kind = (family.name, family.kind) if is_open else (sample, family.kind.replace("info", "gauge"))
    head = [f"# HELP {name} {family.help}", f"# TYPE {name} {kind}"]
    return [*head, *(f"{sample}{_labels(labels)} {_number(value)}" for labels, value in family.rows)]


def _labels(labels: Labels) -> str:
    pairs = ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()])
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    """By replace: with a thousand containers str.translate is most of a scrape's text."""
    for plain, text in _ESCAPES:
        if plain in value:
            value = value.replace(plain, text)
    return value


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
