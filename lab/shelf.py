"""The pairs of a run, counted as the file grows: every byte is read once, however often somebody looks.

A page that reads 50,000 pairs anew at every look of every visitor would need a second each time; this needs the new rows.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from functools import lru_cache
from pathlib import Path
from threading import Lock

from lab.records import Pair

STEP = 25
"""Characters of a bar of the length chart."""


class Shelf:
    """What a pairs file holds: counts, and any page of it, newest first.

    ``characters`` and ``words`` count what was asked for, ``lengths`` the stories by characters in steps of 25.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._start()

    def _start(self) -> None:
        self._inode, self._read = 0, 0
        self._places = array("Q")
        self.test = self.cut_off = self.tokens = 0
        self.seconds = 0.0
        self.characters: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()

    @property
    def count(self) -> int:
        """Pairs read so far."""
        return len(self._places)

    def look(self) -> Shelf:
        """Read what was appended since; from the beginning if the file is another one or has shrunk. A torn last line waits."""
        with self._lock:
            try:
                facts = self.path.stat()
            except FileNotFoundError:
                self._start()
                return self
            if facts.st_ino != self._inode or facts.st_size < self._read:
                self._start()
                self._inode = facts.st_ino
            if facts.st_size > self._read:
                with self.path.open("rb") as file:
                    file.seek(self._read)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._count(line)
                        self._read += len(line)
        return self

    def _count(self, line: bytes) -> None:
        try:
            pair = Pair.of(json.loads(line))
        except (ValueError, TypeError, AttributeError):
            return  # the stages say which line is broken; a look at the others need not fail
        self._places.append(self._read)
        self.test += pair.split == "test"
        self.cut_off += pair.finish == "length"
        self.tokens += pair.tokens
        self.seconds += pair.seconds
        self.lengths[len(pair.output) // STEP * STEP] += 1
        self.words.update(pair.keywords)
        if pair.character:
            self.characters[pair.character] += 1

    def page(self, first: int, count: int, text: str = "") -> tuple[list[Pair], int]:
        """``count`` pairs from the ``first`` newest on, of those that hold ``text`` in story or instruction; and how many do."""
        if not text:
            return [self._pair(i) for i in range(self.count - 1 - first, -1, -1)[:count]], self.count
        needle = json.dumps(text, ensure_ascii=False)[1:-1].encode()
        found = [i for i, line in self._lines() if needle in line and _holds(line, text)]
        found.reverse()
        return [self._pair(i) for i in found[first : first + count]], len(found)

    def _lines(self) -> list[tuple[int, bytes]]:
        with self.path.open("rb") as file:
            return [(i, file.readline()) for i, place in enumerate(self._places) if file.seek(place) >= 0]

    def _pair(self, index: int) -> Pair:
        with self.path.open("rb") as file:
            file.seek(self._places[index])
            return Pair.of(json.loads(file.readline()))


def _holds(line: bytes, text: str) -> bool:
    row = json.loads(line)
    return text in row["output"] or text in row["instruction"]


@lru_cache(maxsize=32)
def shelf_of(path: Path) -> Shelf:
    """The shelf of a file, one for all visitors."""
    return Shelf(path)
