"""Words of a Dockerfile instruction: split at blanks, quotes taken away, variables put in.

As in Docker's Dockerfile reference, "Environment replacement".  Splitting keeps quotes, so that `"a b"=c` is one word;
`expand` then takes them away:

    '…'          as it is
    "…"          variables; a backslash only before `"`, `$` and itself
    \\x          x
    $VAR ${VAR}  the value, or nothing
    ${VAR:-w} ${VAR-w} ${VAR:+w} ${VAR+w} ${VAR:?w} ${VAR?w}   as in sh(1)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from corten.errors import InvalidArgument

_DEPTH_MAX = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODIFIER = re.compile(r":?[-+?]")


def split(text: str) -> list[str]:
    """Words with their quotes and backslashes; a quote that never ends takes the rest."""
    words: list[str] = []
    word, quote, position = "", "", 0
    while position < len(text):
        character = text[position]
        if character == "\\" and quote != "'" and position + 1 < len(text):
            word += text[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        if character.isspace() and not quote:
            words += [word] if word else []
            word = ""
        else:
            word += character
        position += 1
    return [*words, word] if word else words


def expand(word: str, env: Mapping[str, str]) -> str:
    """The word without quotes, variables replaced.  Raises InvalidArgument."""
    return _Expansion(word, env).run()


class _Expansion:
    """One pass over a word."""

    def __init__(self, word: str, env: Mapping[str, str]) -> None:
        self._word = word
        self._env = env
        self._at = 0
        self._depth = 0

    def run(self) -> str:
        return self._until("")

    def _until(self, end: str) -> str:
        """Everything up to the character `end`, which is taken too; '' is the end of the word."""
        found = ""
        while self._at < len(self._word):
            character = self._word[self._at]
            if end and character == end:
                self._at += 1
                return found
            found += self._piece(character)
        if end:
            raise self._error(f"unexpected end of statement while looking for matching {end}")
        return found

    def _piece(self, character: str) -> str:
        if character == "'":
            return self._single_quoted()
        if character == '"':
            return self._double_quoted()
        if character == "$":
            return self._variable()
        if character == "\\" and self._at + 1 < len(self._word):
            self._at += 1
        self._at += 1
        return self._word[self._at - 1]

    def _single_quoted(self) -> str:
        end = self._word.find("'", self._at + 1)
        if end < 0:
            raise self._error("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at + 1, end + 1
        return self._word[start:end]

    def _double_quoted(self) -> str:
        found = ""
        self._at += 1
        while self._at < len(self._word):
            character = self._word[self._at]
            if character == '"':
                self._at += 1
                return found
            if character == "$":
                found += self._variable()
                continue
            if character == "\\" and self._word[self._at + 1 : self._at + 2] in ('"', "$", "\\"):
                self._at += 1
                character = self._word[self._at]
            found += character
            self._at += 1
        raise self._error("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        self._at += 1
        has_brace = self._word.startswith("{", self._at)
        match = _NAME.match(self._word, self._at + has_brace)
        if match is None:
            if has_brace:
                raise self._error("bad substitution")
            return "$"
        self._at = match.end()
        value = self._env.get(match[0])
        return self._modified(match[0], value) if has_brace else value or ""

    def _modified(self, name: str, value: str | None) -> str:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error("substitutions are nested too deeply")
        try:
            return self._substituted(name, value)
        finally:
            self._depth -= 1

    def _substituted(self, name: str, value: str | None) -> str:
        modifier = _MODIFIER.match(self._word, self._at)
        if modifier is None:
            if not self._word.startswith("}", self._at):
                raise self._error("unsupported modifier in substitution")
            self._at += 1
            return value or ""
        self._at = modifier.end()
        other = self._until("}")
        is_set = bool(value) if ":" in modifier[0] else value is not None
        if modifier[0].endswith("+"):
            return other if is_set else ""
        if not is_set and modifier[0].endswith("?"):
            raise self._error(f"{name}: {other or 'not allowed to be unset'}")
        return value or "" if is_set else other

    def _error(self, why: str) -> InvalidArgument:
        return InvalidArgument(f'failed to process "{_quoted(self._word)}": {why}')


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
