"""Every op that there is, found by looking."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import corten.launch
from corten.launch.ops import Op


def op_classes() -> list[type[Op]]:
    """The classes of all modules of `corten.launch`, by their numbers."""
    names = [f"corten.launch.{module.name}" for module in pkgutil.iter_modules(corten.launch.__path__)]
    found = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return sorted(
        {item for item in found if inspect.isclass(item) and issubclass(item, Op) and item is not Op},
        key=lambda item: item.code,
    )
