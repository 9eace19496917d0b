"""Passages that texts share, found by hashes of every window of a corpus: copies in answers, leaks into evaluation.

White space is folded. A window is known by a 64-bit polynomial hash, so 5,000 stories take a second and 25 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lab.records import Pair

SPAN = 30
"""Characters of a shared passage that count as copied: about a sentence; chance does not make it."""
SEED = 12
"""Characters from which a shared passage is looked at; shorter ones ("어느 날 아침, 토끼") are everybody's."""
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)


def flat(text: str) -> str:
    """The text with white space folded."""
    return " ".join(text.split())


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)


def _powers(base: int, count: int) -> np.ndarray:
    """base^0 ... base^(count - 1) modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def _windows(codes: np.ndarray, length: int) -> np.ndarray:
    """A hash of every window of ``length`` characters."""
    if len(codes) < length:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        powers, back = (_powers(base, len(codes)) for base in (_BASE, _INVERSE))
        sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum((codes + np.uint64(1)) * powers, out=sums[1:])
        return (sums[length:] - sums[:-length]) * back[: len(codes) - length + 1]


class Passages:
    """The corpus of what was trained on, ready to be asked for shared passages."""

    def __init__(self, texts: Iterable[str]) -> None:
        # No evaluation text holds the separator, so no window across two texts is ever found.
        self._codes = _codes("\0".join(map(flat, texts)))

    @cached_property
    def _spans(self) -> np.ndarray:
        return np.unique(_windows(self._codes, SPAN))

    @cached_property
    def _seeds(self) -> tuple[np.ndarray, np.ndarray]:
        hashes = _windows(self._codes, SEED)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def shared(self, text: str) -> list[int]:
        """Where in the folded text a passage of ``SPAN`` characters of the corpus begins.

        A shorter text is a passage as a whole, if it has ``SEED`` characters; below, chance makes it.
        """
        codes = _codes(flat(text))
        if SEED <= len(codes) < SPAN:
            return [0] if self.longest(text) == len(codes) else []
        own = _windows(codes, SPAN)
        if not len(self._spans):
            return []
        places = np.searchsorted(self._spans, own).clip(max=len(self._spans) - 1)
        return np.flatnonzero(self._spans[places] == own).tolist()

    def longest(self, text: str) -> int:
        """Length of the longest passage shared with the corpus; 0 below ``SEED`` characters."""
        codes = _codes(flat(text))
        own, (hashes, places) = _windows(codes, SEED), self._seeds
        first, last = np.searchsorted(hashes, own, "left"), np.searchsorted(hashes, own, "right")
        counts = last - first
        if not counts.sum():
            return 0
        here = np.repeat(np.arange(len(own)), counts)
        there = places[
            np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        ]
        length = SEED
        while True:
            going = (here + length < len(codes)) & (there + length < len(self._codes))
            here, there = here[going], there[going]
            same = codes[here + length] == self._codes[there + length]
            here, there = here[same], there[same]
            if not len(here):
                return length
            length += 1


def find_leaks(known: Passages, sets: dict[str, Sequence[Pair]]) -> list[dict[str, Any]]:
    """Evaluation texts that share a passage with a training output: set, id, first passage, share of its passages."""
    leaks = []
    for name, pairs in sets.items():
        for pair in pairs:
            found = known.shared(pair.output)
            if found:
                text = flat(pair.output)
                share = len(found) / max(1, len(text) - SPAN + 1)
                leaks.append(
                    {"set": name, "id": pair.id, "span": text[found[0] :][:SPAN], "share": round(share, 3), "kind": "passage"}
                )  # fmt: skip
    return sorted(leaks, key=lambda x: -x["share"])
