"""Near-duplicates among many texts: MinHash finds candidates, the exact similarity of their shingles decides.

What a search needs of a text, its sketch, may wait on disk: a million texts need little more memory than a thousand.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHINGLE = 3
"""Characters of a shingle, spaces and marks left out: one word or so."""
SAME = 0.45
"""Jaccard similarity of shingles from which two stories are the same with retouches; calibrated: edited copies
in filter_dev.jsonl have 0.49 or more, different stories from one hand 0.05 or less."""
PERMUTATIONS = 192
BANDS = 48
"""48 bands of 4 rows: a pair at similarity 0.5 becomes a candidate with 95 %, at 0.6 with 99.9 % probability."""
MARKED = 0.37
"""Share of equal MinHashes from which a candidate is compared exactly. The share's standard error is 0.036 at most, so of
pairs at similarity 0.45 one in 70 is lost here, at 0.49 one in 2,000; halves of a template in common give 0.33."""


@dataclass(frozen=True)
class Sketches:
    """Sorted shingle numbers of every text, one hash for each band of its MinHash, and the last byte of each MinHash.

    ``bands``: [texts, BANDS] uint64; ``marks``: [texts, PERMUTATIONS] uint8.
    """

    sets: Sequence[np.ndarray]
    bands: np.ndarray
    marks: np.ndarray

    @staticmethod
    def on_disk(count: int, folder: Path) -> Sketches:
        """Room for ``count`` sketches in ``folder``, to be filled in order with ``put``."""
        bands = _on_disk((count, BANDS), np.uint64, folder)
        return Sketches(Shingles(folder), bands, _on_disk((count, PERMUTATIONS), np.uint8, folder))

    def put(self, more: Sketches) -> None:
        """Add the next ones; only for those on disk."""
        assert isinstance(self.sets, Shingles)
        start, end = len(self.sets), len(self.sets) + len(more.sets)
        self.bands[start:end], self.marks[start:end] = more.bands, more.marks
        self.sets.extend(more.sets)


def sketch(texts: Sequence[str]) -> Sketches:
    """The sketches of some texts. A shingle of three characters fits into 63 bits, so nothing collides."""
    from rensa import RMinHash

    sets = []
    for text in texts:
        dense = "".join(c for c in text if c.isalnum()) or " "
        codes = np.frombuffer(dense.ljust(SHINGLE).encode("utf-32-le"), np.uint32).astype(np.uint64)
        sets.append(np.unique(codes[:-2] << np.uint64(42) | codes[1:-1] << np.uint64(21) | codes[2:]))
    offsets = np.cumsum([0, *map(len, sets)]).tolist()
    # The sketch wants hashes, not codes: an odd factor and a shift spread the bits and lose none.
    mixed = np.concatenate(sets) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(mixed, offsets, PERMUTATIONS, 0)
    digests = np.array(matrix.to_rows(), np.uint64)
    rows = digests.reshape(len(sets), BANDS, PERMUTATIONS // BANDS)
    factors = np.uint64(0xD6E8FEB86659FD93) ** np.arange(1, PERMUTATIONS // BANDS + 1, dtype=np.uint64)
    return Sketches(sets, ((rows + np.uint64(1)) * factors).sum(-1, dtype=np.uint64), digests.astype(np.uint8))


class Shingles(Sequence[np.ndarray]):
    """The shingle sets of many texts in an unnamed file in ``folder``: what waits there (1.7 KB a story) fills no memory."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as this object)
        self._ends = array("q", [0])

    def extend(self, sets: Iterable[np.ndarray]) -> None:
        """Append some texts' sets."""
        for one in sets:
            self._file.write(one.tobytes())
            self._ends.append(self._ends[-1] + one.nbytes)
        self._file.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        start, end = self._ends[row], self._ends[row + 1]
        return np.frombuffer(os.pread(self._file.fileno(), end - start, start), np.uint64)


def _on_disk(shape: tuple[int, int], kind: Any, folder: Path | None) -> np.ndarray:
    """An array of zeros in an unnamed file; as a plain array, since indexing a ``memmap`` takes three times as long."""
    return np.memmap(tempfile.TemporaryFile(dir=folder), kind, "w+", shape=shape).view(np.ndarray)


class _Survivors:
    """The texts that stay, found again by what they share with another one: the hash of a band.

    A group is the texts with one hash in one band. ``first[row, band]`` is where the row's group begins in ``rows[band]``,
    which has room for all of it, and ``count[band, first]`` is how many survivors stand there so far.
    """

    def __init__(self, bands: np.ndarray, folder: Path | None) -> None:
        self.first = _on_disk(bands.shape, np.int32, folder)
        self.rows = _on_disk(bands.shape[::-1], np.int32, folder)
        self.count = _on_disk(bands.shape[::-1], np.int32, folder)
        self.shared = np.zeros(len(bands), bool)
        self.bands = np.arange(bands.shape[1])
        for band in self.bands:
            _, group, size = np.unique(bands[:, band], return_inverse=True, return_counts=True)
            self.first[:, band] = (np.cumsum(size) - size)[group]
            self.shared |= size[group] > 1

    def near(self, row: int) -> np.ndarray:
        """The survivors that share a band with ``row``, in order."""
        first = self.first[row]
        there = self.count[self.bands, first]
        parts = [self.rows[band, first[band] : first[band] + there[band]] for band in np.flatnonzero(there)]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int32)

    def add(self, row: int) -> None:
        """``row`` stays."""
        first = self.first[row]
        self.rows[self.bands, first + self.count[self.bands, first]] = row
        self.count[self.bands, first] += 1


def near_duplicates(
    sketches: Sketches, usable: Sequence[bool] | np.ndarray, known: int = 0, folder: Path | None = None
) -> dict[int, tuple[int, float]]:
    """Row -> (row that it repeats, Jaccard similarity of shingles) for every near-duplicate.

    The survivor is the first in the file that is ``usable`` (has no other fault) and no duplicate itself; the first
    ``known`` rows, the reference stories, come before all and are never duplicates. Working space is in ``folder``.
    """
    sets, marks = sketches.sets, sketches.marks
    survivors = _Survivors(sketches.bands, folder)
    found: dict[int, tuple[int, float]] = {}
    for row in np.flatnonzero(survivors.shared).tolist():
        others = survivors.near(row) if row >= known else np.empty(0, np.int32)
        alike = np.count_nonzero(marks[others] == marks[row], axis=1) >= MARKED * PERMUTATIONS
        best = (0.0, 0)
        own = sets[row] if alike.any() else None
        for other in others[alike].tolist():
            theirs = sets[other]
            both = len(np.intersect1d(own, theirs, assume_unique=True))
            # Among equals the earliest.
            best = max(best, (round(both / (len(own) + len(theirs) - both), 3), -other))
        if best[0] >= SAME:
            found[row] = (-best[1], best[0])
        elif usable[row]:
            survivors.add(row)
    return found
