"""What the comparison of two engines normalizes away: one table, counted, printed at the end of the run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = Any


@dataclass(frozen=True, slots=True)
class Rule:
    """A field (its last names, dotted, `*` for any) or a pattern in texts, what stands for it, and why."""

    where: str
    stands: str
    reason: str
    pattern: re.Pattern[str] | None = None


def text_rule(pattern: str, stands: str, reason: str) -> Rule:
    """A rule for texts wherever they stand."""
    return Rule(f"text /{pattern}/", stands, reason, re.compile(pattern))


def field_rule(where: str, reason: str) -> Rule:
    """A rule for the value of a field."""
    return Rule(where, "<any>", reason)


LONG_AGO = 1_735_689_600  # 2025: times of the test images lie before, times of what a check made lie after

RULES = (
    field_rule("State.Pid", "the kernel's choice"),
    field_rule("body.Pid", "the kernel's choice"),
    field_rule("GraphDriver.Data", "each engine lays out its own store"),
    field_rule("*.Api-Version", "the latest that each speaks"),
    field_rule("*.SandboxKey", "each engine has its own folder for network namespaces"),
    field_rule("*.MacAddress", "random, or made of the address"),
    text_rule(r"^corten$", "runc", "the default runtime's name: Corten's own is built in"),
    text_rule(r"\brunc create failed: |(?<=exec failed: )exec failed: ", "", "runc names itself and its verb"),
    text_rule(
        r"^/proc/interrupts$|^/sys/devices/system/cpu/cpu\d+/thermal_throttle$",
        "",
        "masked paths of Docker 28, not of 26.1",
    ),
    text_rule(r"Go struct field \S+ of type \S+", "<Go>", "names of dockerd's own structs and types"),
    text_rule(r"(?<!sha256:)\b[0-9a-f]{64}\b", "<id>", "ids of containers, networks, execs are random; digests stay"),
    text_rule(r"\b[0-9a-f]{12}\b", "<short id>", "the same, shortened"),
    text_rule(r"\b(202[5-9]|20[3-9]\d)-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", "<time>", "the clock; image times stay"),
    text_rule(r"\b(Less than a second|\d+ seconds?|About a minute)\b", "<duration>", "the clock, rounded"),
    text_rule(r"\b172\.17\.0\.(?!1\b|0\b)\d+", "<address>", "the next free one; network and gateway stay"),
)


FOLDER = Rule("text of the engine's own folder", "<folder>", "each engine has its own")
ROTATED = {"compress": "true", "max-file": "5", "max-size": "20m"}
ROTATION = Rule("*.LogConfig.Config of ours alone", "{}", "Corten rotates logs by default, and says so")
OURS = Rule("Corten", "", "a key of ours in inspect: origins of values, the node's words, the verdict")
EMPTIED = Rule("item of a list that a rule above emptied", "", "masked paths of Docker 28 count as no item")
CLOCK = Rule("*.Created as a number since 2025", "<time>", "the clock; image times stay")


class Normalizer:
    """Applies RULES and counts how often each of them changed something."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.fields = [rule for rule in rules if rule.pattern is None]
        self.texts = [rule for rule in rules if rule.pattern is not None]
        self.hits: Counter[Rule] = Counter()

    def __call__(self, seen: Json, folder: Path) -> Json:
        """What was seen, with everything replaced that may differ between two engines."""
        return self._value(seen, (), str(folder))

    def _value(self, value: Json, place: tuple[str, ...], folder: str) -> Json:
        for rule in self.fields:
            if place and value not in ("", None, 0, [], {}) and matches(place, rule.where):
                self.hits[rule] += 1
                return rule.stands
        if isinstance(value, int) and value > LONG_AGO and place[-1:] == ("Created",):
            self.hits[CLOCK] += 1
            return CLOCK.stands
        if value == ROTATED and place[-2:] == ("LogConfig", "Config"):
            self.hits[ROTATION] += 1
            return {}
        if isinstance(value, dict):
            self.hits[OURS] += OURS.where in value
            value = {key: item for key, item in value.items() if key != OURS.where}
            return {self._text(key, folder): self._value(item, (*place, key), folder) for key, item in value.items()}
        if isinstance(value, list):
            items = [(item, self._value(item, place, folder)) for item in value]
            kept = [shown for item, shown in items if shown != "" or item == ""]
            self.hits[EMPTIED] += len(items) - len(kept)
            return kept
        return self._text(value, folder) if isinstance(value, str) else value

    def _text(self, text: str, folder: str) -> str:
        name = folder.rpartition("/")[2]  # which stands in the whole path too
        self.hits[FOLDER] += text.count(name)
        text = text.replace(folder, FOLDER.stands).replace(name, FOLDER.stands)
        for rule in self.texts:
            assert rule.pattern is not None
            text, count = rule.pattern.subn(rule.stands, text)
            self.hits[rule] += count
        return text

    def report(self) -> list[str]:
        """One line per rule, in the order in which they are applied: hits, field, reason."""
        rules = [*self.fields, CLOCK, ROTATION, OURS, FOLDER, *self.texts, EMPTIED]
        return [f"{self.hits[rule]:6}  {rule.where:48} {rule.reason}" for rule in rules]


def matches(place: tuple[str, ...], where: str) -> bool:
    """Whether the last names of a place are those of a dotted pattern; `*` is any one name, or none at the left end."""
    names = where.split(".")
    if names[0] == "*":
        names = names[1:]
    tail = place[-len(names) :]
    return len(tail) == len(names) and all(name in ("*", got) for name, got in zip(names, tail, strict=True))
