"""The effective configuration as people see it: `corten run --explain`, and inspect's key of ours.  Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from corten.engine.effective import BUILT_IN, FLAG, ID_MAP, NODE_KEY, UPDATE, Effective, fields
from corten.runtime import effective as node_words
from corten.spec.docker_json import nonzero_fields, to_json


def explain(effective: Effective) -> list[dict[str, Any]]:
    """`corten run --explain`: every field that has a value, with its origin."""
    shown = {"Config": to_json(effective.config), "HostConfig": to_json(effective.host)}
    out: list[dict[str, Any]] = []
    for path, _ in fields(effective.config, effective.host):
        value: Any = shown
        for part in path.split("."):
            value = value[part]
        out.append({"field": path, "value": value, "origin": effective.origins.get(path, BUILT_IN)})
    out += [
        {"field": path, "value": msgspec.to_builtins(value), "origin": FLAG}
        for name, asked in effective.endpoints.items()
        for path, value in nonzero_fields(asked, f"EndpointsConfig.{name}")
    ]
    if effective.host.pids_limit is None:
        origin = effective.origins.get("HostConfig.PidsLimit", BUILT_IN)
        out.append({"field": "HostConfig.PidsLimit", "value": effective.pids_limit, "origin": origin})
    if effective.id_map is not None:
        out.append({"field": ID_MAP, "value": effective.id_map.text, "origin": effective.origins.get(ID_MAP, BUILT_IN)})
    out += [
        {"field": field, "value": list(value), "origin": origin} for field, (value, origin) in effective.names.items()
    ]
    out += [
        {"field": f"{NODE_KEY}.{word}", "value": text, "origin": origin}
        for word, text, origin in node_words.lines(effective.node)
    ]
    return out + _of_policies(effective, {row["field"]: row for row in out})


def _of_policies(effective: Effective, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds to the rows what was asked for, and returns rows of what has none: fields that a policy made empty."""
    more: list[dict[str, Any]] = []
    for path, asked in effective.asked.items():
        said = {"asked": {"value": asked.value, "origin": asked.origin}}
        found = [row for field, row in rows.items() if field == path or field.startswith(f"{path}.")]
        for row in found:
            row.update(said)
        if not found:
            more.append({"field": path, "value": None, "origin": effective.origins.get(path, BUILT_IN), **said})
    if effective.lifetime is not None:
        lifetime = effective.lifetime
        more.append({"field": f"{NODE_KEY}.Lifetime", "value": lifetime.seconds, "origin": lifetime.policy})
    return more


def of_policies(effective: Effective) -> dict[str, Any]:
    """For inspect: what was asked for in the fields that policies have set, and the lifetime; {} for neither."""
    out: dict[str, Any] = {}
    if effective.asked:
        out["Asked"] = msgspec.to_builtins(effective.asked)
    if effective.lifetime is not None:
        out["Lifetime"] = msgspec.to_builtins(effective.lifetime)
    return out


def origins(effective: Effective) -> dict[str, str]:
    """For inspect: field with a value → where that is from, in the words of `explain`."""
    node = f"{NODE_KEY}."
    return {row["field"]: row["origin"] for row in explain(effective) if not row["field"].startswith(node)}


def node_object(effective: Effective) -> dict[str, Any]:
    """For inspect: what the node's file and daemon.json said, in the words of `corten` in the runtime's `state`.

    {} where neither did; where one said anything the limit of processes stands there too, whoever said that.
    """
    origin = effective.origins.get("HostConfig.PidsLimit", BUILT_IN)
    if not effective.node and origin in (FLAG, BUILT_IN, UPDATE):
        return {}
    return {NODE_KEY: {"pidsLimit": {"value": effective.pids_limit, "origin": origin}, **effective.node}}
