"""`--change` of `docker import`."""

from __future__ import annotations

import pytest

from corten.core.changes import apply_changes
from corten.errors import InvalidArgument
from corten.spec.image import Healthcheck, RunConfig


def changed(*changes: str, config: RunConfig | None = None) -> RunConfig:
    return apply_changes(config or RunConfig(), changes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('CMD ["a", "b c"]', RunConfig(cmd=["a", "b c"])),
        ("cmd a b", RunConfig(cmd=["/bin/sh", "-c", "a b"])),
        ('ENTRYPOINT ["/x"]', RunConfig(entrypoint=["/x"])),
        ("ENV A b c", RunConfig(env=["A=b c"])),
        ('ENV A=1 B="2 3" C=4\\ 5', RunConfig(env=["A=1", "B=2 3", "C=4 5"])),
        ("EXPOSE 80 53/udp 90-91", RunConfig(exposed_ports={"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}})),
        ("LABEL a=b c='d e'", RunConfig(labels={"a": "b", "c": "d e"})),
        ("USER 1:2", RunConfig(user="1:2")),
        ('VOLUME ["/a", "/b c"]', RunConfig(volumes={"/a": {}, "/b c": {}})),
        ("VOLUME /a /b", RunConfig(volumes={"/a": {}, "/b": {}})),
        ("WORKDIR a/../b", RunConfig(working_dir="/b")),
        ("STOPSIGNAL SIGINT", RunConfig(stop_signal="SIGINT")),
        ("ONBUILD RUN x", RunConfig(on_build=["RUN x"])),
        ("HEALTHCHECK NONE", RunConfig(healthcheck=Healthcheck(test=["NONE"]))),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
            RunConfig(healthcheck=Healthcheck(test=["CMD-SHELL", "curl x"], interval=90 * 10**9, retries=2)),
        ),
        ('HEALTHCHECK CMD ["x"]', RunConfig(healthcheck=Healthcheck(test=["CMD", "x"]))),
    ],
)
def test_an_instruction(line: str, expected: RunConfig) -> None:
    assert changed(line) == expected


def test_instructions_add_up() -> None:
    found = changed("ENV A=1", "ENV A=2 B=$A", "WORKDIR /x", "WORKDIR y", "LABEL k=${B}")
    assert found == RunConfig(env=["A=2", "B=1"], working_dir="/x/y", labels={"k": "1"})


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("CMD", "CMD requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("LABEL a=b c", "can't find = in 'c'"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("USER a b", "USER requires exactly one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK --what=1 CMD x", "unknown flag: --what=1"),
        ("HEALTHCHECK --interval=x CMD x", "invalid duration"),
        ("HEALTHCHECK RUN x", "in HEALTHCHECK"),
        ("ENV A='x", "No closing quotation"),
    ],
)
def test_what_cannot_be_is_refused(line: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        changed(line)
