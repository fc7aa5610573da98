"""The layers of one pull on their way: where its unpacking reads them, and what its user is told of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from typing import Final

from corten.core.content import ContentStore
from corten.core.partials import Partial
from corten.registry.cancel import Cancel
from corten.registry.downloads import Stage
from corten.spec import progress
from corten.spec.image import Descriptor
from corten.spec.progress import Json

Tell = Callable[[Json], object]
"""Takes one message for the user, from any thread, without waiting."""

_EVERY_S: Final = 0.1  # as dockerd thins its bars


class Line:
    """What the user is told of one layer, in dockerd's words."""

    def __init__(self, blob: Descriptor, tell: Tell) -> None:
        self.blob = blob
        self._id = blob.digest.partition(":")[2][:12]
        self._tell = tell
        self._next_s = 0.0
        self._is_here = False
        self._is_begun = False

    def already_exists(self) -> None:
        """It is here, unpacked."""
        self.say("Already exists")

    def begin(self) -> None:
        """It is part of the pull."""
        self._is_begun = True
        self.say("Pulling fs layer")

    def is_present(self) -> None:
        """Its blob need not come."""
        self._is_here = True
        self.say(Stage.COMPLETE.value)

    def watch(self, stage: Stage, number: int) -> None:
        """Takes what `Downloads` says."""
        if stage is Stage.DOWNLOADING:
            self._bar(stage.value, number)
        elif stage is Stage.RETRYING:
            self.say(f"{stage.value} {number} second{'' if number == 1 else 's'}")
        else:
            self._is_here = stage is Stage.COMPLETE
            self.say(stage.value)

    def extracting(self, count: int) -> None:
        """So many bytes of the blob are unpacked; the bar of its download comes first."""
        if self._is_here:
            self._bar("Extracting", count)

    def complete(self) -> None:
        """It got its place."""
        self._is_begun = False
        self._tell(progress.moved("Extracting", self._id, current=self.blob.size, total=self.blob.size))
        self.say("Pull complete")

    def end(self) -> None:
        """All have their places; another pull may have given it its own."""
        if self._is_begun:
            self.complete()

    def say(self, text: str) -> None:
        """A message without numbers."""
        self._tell(progress.status(text, self._id))

    def _bar(self, text: str, current: int) -> None:
        now = time.monotonic()
        if current and now >= self._next_s:
            self._next_s = now + _EVERY_S
            self._tell(progress.moved(text, self._id, current=current, total=self.blob.size))


class Arrivals:
    """The blobs of a pull, on their way or in the store (`core.layers.Blobs`)."""

    def __init__(
        self, content: ContentStore, partials: Mapping[str, Partial], lines: Mapping[str, Line], cancel: Cancel
    ) -> None:
        self._content = content
        self._partials = partials
        self._lines = lines
        self._cancel = cancel

    def chunks(self, digest: str, /) -> Generator[bytes, None, None]:
        """The blob from its start, as it comes.  Raises what ended the pull, or another blob of it."""
        partial = self._partials.get(digest)
        source = self._content.chunks(digest) if partial is None else partial.chunks(self.check)
        count = 0
        for chunk in source:
            yield chunk
            count += len(chunk)
            self._lines[digest].extracting(count)

    @property
    def is_empty(self) -> bool:
        """Whether all of them are in the store."""
        return not self._partials

    def wait(self) -> None:
        """Returns when all of them are here and verified; raises as `chunks`."""
        for partial in self._partials.values():
            partial.wait(self.check)

    def check(self) -> None:
        """Raises when there is nothing to wait for any more."""
        for partial in self._partials.values():
            if partial.error is not None:
                raise partial.error
        self._cancel.check()

    def wake(self) -> None:
        """Has everybody who waits check."""
        for partial in self._partials.values():
            partial.wake()
