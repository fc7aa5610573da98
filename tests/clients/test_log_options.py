"""Options of log drivers, right and wrong, given by the docker CLI to dockerd and to Corten: the same words."""

from __future__ import annotations

import re

import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
CASES = """
--log-driver json-file --log-opt foo=x
--log-driver nope
--log-driver json-file --log-opt max-size=x
--log-driver json-file --log-opt max-size=0
--log-driver json-file --log-opt max-size=-1
--log-driver json-file --log-opt max-file=0
--log-driver json-file --log-opt max-file=x
--log-driver json-file --log-opt compress=x
--log-driver json-file --log-opt compress=true
--log-driver json-file --log-opt compress=true --log-opt max-file=3
--log-driver json-file --log-opt mode=x
--log-driver json-file --log-opt max-buffer-size=1m
--log-driver json-file --log-opt mode=non-blocking --log-opt max-buffer-size=x
--log-driver json-file --log-opt cache-disabled=x
--log-driver json-file --log-opt labels-regex=(
--log-driver json-file --log-opt tag={{.Nope}}
--log-driver json-file --log-opt tag={{
--log-driver json-file --log-opt tag={{nope}}
--log-driver json-file --log-opt tag=a{{.ID.X}}
--log-driver json-file --log-opt env-regex=a**
--log-driver json-file --log-opt env-regex=[
--log-driver json-file --log-opt env-regex=*
--log-driver local --log-opt labels=x
--log-driver local --log-opt max-size=x
--log-driver local --log-opt max-file=x
--log-driver local --log-opt max-file=1
--log-driver local --log-opt max-file=-1
--log-driver local --log-opt compress=x
--log-driver none --log-opt foo=x
--log-driver syslog --log-opt foo=x
--log-driver syslog --log-opt syslog-address=x
--log-driver syslog --log-opt syslog-address=1.2.3.4:514
--log-driver syslog --log-opt syslog-address=localhost:514
--log-driver syslog --log-opt syslog-address=http://x
--log-driver syslog --log-opt syslog-address=unix:///nonexistent
--log-driver syslog --log-opt syslog-address=udp://a:b:c
--log-driver syslog --log-opt syslog-facility=x
--log-driver syslog --log-opt syslog-facility=24
--log-driver syslog --log-opt syslog-format=x
--log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:1
--log-driver syslog --log-opt syslog-address=unixgram:///etc/hostname
--log-driver syslog
--log-driver syslog --log-opt syslog-address=tcp+tls://127.0.0.1:1 --log-opt syslog-tls-ca-cert=/nonexistent
--log-driver journald --log-opt foo=x
--log-driver journald
--log-driver gelf
--log-driver gelf --log-opt gelf-address=x
--log-driver gelf --log-opt gelf-address=udp://x
--log-driver gelf --log-opt gelf-address=http://x:1
--log-driver gelf --log-opt gelf-address=udp://127.0.0.1:1 --log-opt foo=x
--log-driver gelf --log-opt gelf-address=tcp://127.0.0.1:1
--log-driver gelf --log-opt gelf-address=tcp://127.0.0.1:1 --log-opt gelf-compression-type=gzip
--log-driver gelf --log-opt gelf-address=udp://127.0.0.1:1 --log-opt gelf-compression-type=x
--log-driver gelf --log-opt gelf-address=udp://127.0.0.1:1 --log-opt gelf-compression-level=x
--log-driver gelf --log-opt gelf-address=udp://127.0.0.1:1 --log-opt gelf-tcp-max-reconnect=1
--log-driver gelf --log-opt gelf-address=tcp://127.0.0.1:1 --log-opt gelf-tcp-max-reconnect=x
--log-driver fluentd
--log-driver fluentd --log-opt foo=x
--log-driver fluentd --log-opt fluentd-address=udp://x
--log-driver fluentd --log-opt fluentd-address=tcp://x/y
--log-driver fluentd --log-opt fluentd-address=x:y
--log-driver fluentd --log-opt fluentd-address=x:99999
--log-driver fluentd --log-opt fluentd-address=unix://
--log-driver fluentd --log-opt fluentd-address=unix:///nonexistent
--log-driver fluentd --log-opt fluentd-async=x
--log-driver fluentd --log-opt fluentd-async=true --log-opt fluentd-async-connect=true
--log-driver fluentd --log-opt fluentd-retry-wait=x
--log-driver fluentd --log-opt fluentd-retry-wait=5
--log-driver fluentd --log-opt fluentd-max-retries=-1
--log-driver fluentd --log-opt fluentd-buffer-limit=x
--log-driver fluentd --log-opt fluentd-async-reconnect-interval=1ms
--log-driver fluentd --log-opt fluentd-async-reconnect-interval=x
--log-opt foo=x
--log-opt max-file=2
""".strip().splitlines()


# Each takes half a second: one in six is in the gate, and all in `make test-all`.
ALL = [pytest.param(words, marks=[pytest.mark.slow] if number % 6 else []) for number, words in enumerate(CASES)]


def said(side: DockerClient, words: str) -> tuple[int, str, str]:
    """Exit code, output and errors, without what each run has of its own."""
    done = side.docker("run", "--rm", *words.split(), IMAGE, "echo", "hi", timeout=60)
    errors = re.sub(r"\b[0-9a-f]{64}\b", "<id>", done.stderr)
    return done.returncode, done.stdout, errors


@pytest.mark.parametrize("words", ALL)
def test_an_option_is_answered_as_dockerd_answers_it(dockerd: Dockerd, shared_engine: CortenEngine, words: str) -> None:
    assert said(shared_engine, words) == said(dockerd, words)
