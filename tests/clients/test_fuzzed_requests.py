"""Requests made of the API's description with values that do not belong there: no failure of the engine, no hang.

What is asked of every operation that Corten serves: hostile names in the path, hostile values in each parameter of the
query, bodies whose fields have values of other kinds.  The seed and the
rounds are CORTEN_FUZZ_SEED and CORTEN_FUZZ_ROUNDS.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from clients import api_description
from clients.api import Api
from clients.test_answer_schema import served
from corten.docker.versions import version_text
from support import images, summary
from support.engine import CortenEngine

# operations that wait for what never comes, end other tests' objects, or need a registry
LEFT_OUT = frozenset(
    {
        *("GET /events", "POST /auth", "POST /images/create", "POST /images/{name}/push"),
        *("POST /containers/prune", "POST /images/prune", "POST /volumes/prune", "POST /networks/prune"),
        *("POST /containers/{id}/wait", "GET /distribution/{name}/json", "POST /images/load", "HEAD /_ping"),
    }
)
# what never ends unless it is told to
ONCE = {"/containers/{id}/stats": ["stream=0"]}
WORDS = (
    *("", "0", "-1", "1e9", "true", "null", "nonesuch", "a b", "../..", "/etc/passwd", "%00", "é\u202e", "x" * 5000),
    *("9223372036854775808", "-9223372036854775809", "{}", "[]", '{"a":', '{"label":["x"]}', '{"label":{"x":true}}'),
    *("2024-01-01", "SIGKILL", "bridge", "\n", "';--", "*", "(", "sha256:" + "0" * 64),
)
# what is there, so that every second request has something to act on
THERE = {
    "/containers": "fuzzed",
    "/exec": "nonesuch",
    "/images": "fuzzed:1",
    "/volumes": "fuzzed",
    "/networks": "bridge",
}
KINDS: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**63, -(2**63) - 1, 10**30, "", "x", "\x00", "é", "../..", [], [None], [[]], ["x", 1]),
    *({}, {"": None}, {"x": {}}, {"x": ["y"]}),
)


def values(rng: random.Random, schema: Any, depth: int = 0) -> Any:
    """A value that is of its schema now and then."""
    schema = api_description.resolve(schema or {})
    if rng.random() < 0.25 or depth > 5:
        return rng.choice(KINDS)
    fields = dict(schema.get("properties") or {})
    for part in schema.get("allOf") or ():
        fields |= api_description.resolve(part).get("properties") or {}
    if fields:
        chosen = rng.sample(sorted(fields), min(len(fields), rng.randint(0, 4)))
        return {name: values(rng, fields[name], depth + 1) for name in chosen}
    kind = schema.get("type")
    if kind == "array":
        return [values(rng, schema.get("items"), depth + 1) for _ in range(rng.randint(0, 2))]
    if kind == "integer":
        return rng.choice((0, 1, -1, 2**31, 2**63 - 1, 2**64))
    if kind == "boolean":
        return rng.random() < 0.5
    return rng.choice((*WORDS[:12], *(schema.get("enum") or ())) if kind == "string" else KINDS)


def request(rng: random.Random, path: str, operation: dict[str, Any]) -> tuple[str, Any]:
    """(target, body) of one try."""
    names = (*WORDS[1:], *[THERE["/" + path.split("/")[1]]] * len(WORDS)) if "{" in path else ()
    target = re.sub(r"\{\w+\}", lambda _: quote(rng.choice(names), safe=""), path)
    query, body = list(ONCE.get(path, ())), None
    for parameter in operation.get("parameters") or ():
        if parameter.get("in") == "query" and parameter["name"] not in ("follow", "stream") and rng.random() < 0.6:
            query.append(f"{quote(parameter['name'])}={quote(rng.choice(WORDS), safe='')}")
        elif parameter.get("in") == "body":
            body = values(rng, parameter["schema"])
            if isinstance(body, dict) and path == "/containers/create":
                body["Image"] = images.BUSYBOX_REF
    return target + ("?" + "&".join(query) if query else ""), body


def tries(rng: random.Random, rounds: int) -> Iterator[tuple[str, str, Any]]:
    """(METHOD, target, body) of every operation, round by round, each with a container, an image and a volume."""
    for _ in range(rounds):
        yield (
            "POST",
            "/containers/create?name=fuzzed",
            {"Image": images.BUSYBOX_REF, "Cmd": ["sleep", "600"], "StopSignal": "KILL"},
        )
        yield "POST", "/containers/fuzzed/start", None
        yield "POST", f"/images/{quote(images.BUSYBOX_REF, safe='')}/tag?repo=fuzzed&tag=1", None
        yield "POST", "/volumes/create", {"Name": "fuzzed"}
        for method, path in served():
            if f"{method} {path}" not in LEFT_OUT:
                operation = api_description.description()["paths"][path][method.lower()]
                yield (method, *request(rng, path, operation))


def test_no_request_ends_in_a_failure_of_the_engine(engine: CortenEngine) -> None:
    seed = int(os.environ.get("CORTEN_FUZZ_SEED", "5"))
    rounds = int(os.environ.get("CORTEN_FUZZ_ROUNDS", "3"))
    summary.add("seeds", f"test_fuzzed_requests: CORTEN_FUZZ_SEED={seed}")
    api = Api(engine.socket, version_text(api_description.version()))
    wrong, answers = [], Counter[int]()
    for method, target, body in tries(random.Random(seed), rounds):
        status, answer = api.call(method, target, body, timeout=30)  # a hang is a timeout
        answers[status] += 1
        if method == "HEAD" and status >= 500:  # its words are those of GET
            answer = api.call("GET", target, timeout=30)[1]
        if status >= 500 and not is_told(answer):
            wrong.append(f"{method} {target[:300]} {str(body)[:600]}: {status} {str(answer)[:300]}")
    assert not wrong, f"seed {seed}\n" + "\n".join(wrong)
    assert engine.is_running()
    assert {200, 201, 204, 400, 404, 409} <= set(answers), answers
    summary.add("seeds", f"test_fuzzed_requests: answers {dict(sorted(answers.items()))}")
    for row in api.ok("GET", "/containers/json?all=1"):
        api.remove(row["Id"])


def is_told(answer: Any) -> bool:
    """Whether it is a refusal in words, which dockerd too answers with 500, and no failure that nobody foresaw."""
    text = answer.get("message", "") if isinstance(answer, dict) else ""
    return bool(text) and not re.search(r"internal error|Traceback|Error\(|NoneType|object has no|unexpected", text)
