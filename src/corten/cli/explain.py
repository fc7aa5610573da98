"""`corten run --explain`: the effective configuration with the origin of each value, and the launch plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from corten.cli.table import align, ellipsis

_VALUE_WIDTH = 60


def print_explanation(answer: Mapping[str, Any]) -> None:
    """Prints what `POST /corten/explain` answered."""
    cells = [["FIELD", "ORIGIN", "VALUE"]]
    for row in answer["effective"]:
        cells.append([row["field"], row["origin"], ellipsis(_text(row["value"]), _VALUE_WIDTH)])
    align(cells)
    print("\nPLAN")
    for index, line in enumerate(answer["plan"]):
        print(f"{index:>3}  {line}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
