"""An object as a seekable stream: ranges that grow while it is read in order, and what was read kept for a while."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

from curate.base.store.blocks import Kept
from curate.base.store.protocol import Changed, Entry, Store, StoreError, shown

__all__ = ["BLOCK", "Ranges"]

BLOCK = 1 << 16  # bytes: of what is asked for after a seek, and kept
LONGEST = {
    False: 1 << 20,
    True: 1 << 22,
}  # bytes of one request: of a reader of a part, and of one who reads on to the end
SHARE = {False: 8, True: 1}  # a request is as long as what was read in order before it, over this
NEAR = 8 * BLOCK  # a jump ahead by no more than this is still reading in order
HELD = 1 << 25  # bytes in memory
REST = 50  # a checksum may cost another fiftieth of the object


class Ranges(io.RawIOBase):
    """A raw stream of one version of an object. Raises StoreError: transient where the object changes meanwhile.

    through: it is read to the end, more or less. kept: blocks on this machine's disk, which other processes see. keep:
    whether what is read now goes there. skim: what is not at hand is not read, but zeros: for who needs an index only.
    requests, bytes: what was asked of the store. counted: told of each request's bytes. held: blocks in memory, of an earlier
    reader of the same version in this thread.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        entry: Entry,
        *,
        through: bool = False,
        kept: Kept | None = None,
        counted: Callable[[int], None] | None = None,
        held: OrderedDict[int, bytes] | None = None,
    ) -> None:
        self.store, self.object, self.entry, self.size = store, name, entry, entry.bytes
        self.name = name.rpartition("/")[2]  # formats are guessed by its end too
        self.through, self.kept, self.keep, self.skim = through, kept, kept is not None, False
        self.counted = counted
        self.requests = self.bytes = self.at = 0
        self._held: OrderedDict[int, bytes] = OrderedDict() if held is None else held
        self.expected: tuple[int, int] | None = (
            None  # bytes that will be read for certain: in as few requests as may be
        )
        self._next, self._run = 0, 0  # where reading in order goes on, and bytes of it so far
        self.digest: Digest | None = Digest(self.size) if through else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        target = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        if target < 0:
            return -errno.EINVAL  # as FFmpeg's own files answer
        self.at = target
        return target

    def readinto(self, buffer: Any) -> int:
        if self.at >= self.size or not len(buffer):
            return 0
        number, start = divmod(self.at, BLOCK)
        found = memoryview(self._block(number))[start : start + len(buffer)]
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)

    def buffered(self, size: int) -> BinaryIO:
        return io.BufferedReader(self, size)

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        parts = []
        while count > 0 and (part := self.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def fetch(self, start: int, end: int) -> None:
        """Have bytes [start, end) at hand, by one request where they are not."""
        first, last = start // BLOCK, -(-min(end, self.size) // BLOCK)
        missing = [number for number in range(first, last) if self._at_hand(number) is None]
        if missing:
            self._request(missing[0], missing[-1] + 1)

    def checksum(self) -> str | None:
        """BLAKE2b of the object, 32 hex digits, if little of it was not read; that is read now."""
        if self.digest is None:
            return None
        missing = 0
        while (number := self.digest.next) * BLOCK < self.size:
            if self._at_hand(number) is None:
                missing += BLOCK
                if missing > self.size // REST:
                    return None
                self._request(number, number + 1)
            elif self.digest.next == number:
                self.digest.add(number, self._held[number])
        return self.digest.whole()

    def _block(self, number: int) -> bytes:
        found = self._at_hand(number)
        if found is None:
            if self.skim:
                return bytes(min(BLOCK, self.size - number * BLOCK))
            self._request(number, number + self._ahead(number))
            found = self._held[number]
        self._note(number, len(found))
        return found

    def _at_hand(self, number: int) -> bytes | None:
        found = self._held.get(number)
        if found is None and self.kept is not None:
            found = self.kept.read(number)
            if found is not None:
                self._hold(number, found)
        return found

    def _note(self, number: int, size: int) -> None:
        """Follow whether reading goes on in order."""
        if number + 1 == self._next:
            return
        near = 0 <= number - self._next <= NEAR // BLOCK
        self._run = self._run + size if near else size
        self._next = number + 1

    def _ahead(self, number: int) -> int:
        """How many blocks to ask for from this one on."""
        near = 0 <= number - self._next <= NEAR // BLOCK
        wanted = min(self._run // SHARE[self.through], LONGEST[self.through]) if near else 0
        if self.expected and self.expected[0] < (number + 1) * BLOCK and number * BLOCK < self.expected[1]:
            wanted = min(-(-self.expected[1] // BLOCK) - number, LONGEST[True] // BLOCK) * BLOCK
        elif self.expected:
            wanted = 0  # past what was asked for: no more than has to be
        count = 1
        while (
            count < wanted // BLOCK and (number + count) * BLOCK < self.size and self._at_hand(number + count) is None
        ):
            count += 1
        return count

    def _request(self, first: int, last: int) -> None:
        start, end = first * BLOCK, min(last * BLOCK, self.size)
        place = self.store.where(self.object)
        try:
            found = self.store.read(self.object, start, end, self.entry.version)
        except (Changed, FileNotFoundError):
            raise StoreError(
                f"{shown(place)}: was written to, or deleted, while it was worked on: run the same command again",
                transient=True,
                changed=True,
            ) from None
        self.requests, self.bytes = self.requests + 1, self.bytes + len(found)
        if self.counted:
            self.counted(len(found))
        if len(found) != end - start:
            raise StoreError(f"{shown(place)}: is shorter than it was when it was opened", transient=True)
        for number in range(first, -(-end // BLOCK)):
            block = found[(number - first) * BLOCK : (number - first + 1) * BLOCK]
            self._hold(number, block, room=end - start)
            if self.keep and self.kept is not None:
                self.kept.write(number, block)

    def _hold(self, number: int, block: bytes, room: int = 0) -> None:
        self._held[number] = block
        self._held.move_to_end(number)
        while len(self._held) * BLOCK > max(HELD, room + BLOCK):
            self._held.popitem(last=False)
        if self.digest is not None:
            self.digest.add(number, block)


class Digest:
    """BLAKE2b of a whole object, of its blocks as they pass: in order, or early and a few at a time."""

    EARLY = 64  # blocks that came before their turn, and wait

    def __init__(self, size: int) -> None:
        self.size, self.next = size, 0
        self.hash = hashlib.blake2b(digest_size=16)
        self.early: dict[int, bytes] = {}

    def add(self, number: int, block: bytes) -> None:
        if number > self.next:
            if len(self.early) < self.EARLY:
                self.early[number] = block
            return
        if number < self.next:
            return
        self.hash.update(block)
        self.next += 1
        while (waiting := self.early.pop(self.next, None)) is not None:
            self.hash.update(waiting)
            self.next += 1

    def whole(self) -> str | None:
        """32 hex digits; None where a part has not passed."""
        return self.hash.hexdigest() if self.next * BLOCK >= self.size else None
