"""The judge of leaks: what an engine left on the machine between two snapshots of it.

Written from the outside: it reads /proc, /sys, nft(8) and the two roots, and knows nothing of the engine but its
paths, its id, and that a shim's command line begins with `corten-shim`.

    subject = Subject.of(engine)
    before = Snapshot.take(subject)
    …
    expect_none(before)                  # or: with no_leaks(engine): …
"""

from support.leaks.judge import ALLOWED, Allowed, Leak, Snapshot, diff, expect_none, no_leaks, render, settled
from support.leaks.subject import Subject

__all__ = [
    "ALLOWED",
    "Allowed",
    "Leak",
    "Snapshot",
    "Subject",
    "diff",
    "expect_none",
    "no_leaks",
    "render",
    "settled",
]
