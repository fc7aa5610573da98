"""JSON as Go writes it."""

from __future__ import annotations

import json
from typing import Any, Final

_HTML: Final = str.maketrans({"&": "\\u0026", "<": "\\u003c", ">": "\\u003e"})


def go_json(value: Any, *, indent: int | None = None) -> str:
    """As `json.Marshal` and `json.MarshalIndent` do, which escape what HTML would read."""
    separators = (",", ": ") if indent else (",", ":")
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=False).translate(_HTML)
