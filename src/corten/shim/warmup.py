"""What a zygote does before its first fork, so that shims share the result instead of each making its own copy."""

from __future__ import annotations

from corten.shim import protocol
from corten.shim.detach import DetachFilter, parse_keys
from corten.shim.jsonlog import RecordEncoder

_ROUNDS = 16  # CPython 3.11 specializes a function's bytecode after 8 calls


def warm_up() -> None:
    """Run the hot pure functions until the interpreter has adapted their code."""
    encoder = RecordEncoder("stdout")
    keys = DetachFilter(parse_keys(""))
    body = protocol.encode({"op": "hello", "seq": 1, "list": [1, 2], "text": "é"})
    for _ in range(_ROUNDS):
        encoder.feed(b'a plain line\nand "one" <with> specials\nunfinished', 1)
        encoder.finish(1)
        keys.feed(b"typed")
        protocol.decode(body)
