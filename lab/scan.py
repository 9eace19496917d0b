"""Which patterns a text can match at all, found for all of them in one pass of hyperscan.

A good story matches next to none of a hundred patterns, yet ``re`` reads it once for each, half of the filter's time.
Hyperscan's prefilter mode answers "perhaps" for all of them in a hundredth of that; ``re`` is then asked only about
those, so the findings stay the same. Compiling takes seconds, so only a run of many pairs does it, in its worker
processes; elsewhere, and where hyperscan is not installed, every pattern may match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

LOOSE = 10
"""From this length on, the bound of a repeat is dropped: long bounds make compiling slow, and "perhaps" may be wider."""

_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
_REPEAT = re.compile(r"(?<!\\)\{(\d+),(\d+)\}")

_database: Any = None
_numbers: dict[int, int] = {}
"""The pattern objects that the database knows, by ``id``: hashing a pattern reads all of its code."""


def _wider(pattern: str) -> str:
    """The pattern in hyperscan's dialect; it matches wherever ``pattern`` does, and perhaps elsewhere.

    Prefilter mode drops what looks ahead or behind, so a wider repeat inside of that narrows nothing.
    """
    pattern = _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)), pattern)
    return _REPEAT.sub(lambda m: m[0] if int(m[2]) < LOOSE else "+" if int(m[1]) else "*", pattern)


def compiled(patterns: Sequence[re.Pattern[str]]) -> bytes | None:
    """The database of these patterns, for ``use``; takes some seconds. None where hyperscan is not installed."""
    try:
        import hyperscan as hs
    except ImportError:
        return None
    # UCP: \s, \d and \w as in Python, for all of Unicode.
    common = hs.HS_FLAG_UTF8 | hs.HS_FLAG_UCP | hs.HS_FLAG_PREFILTER | hs.HS_FLAG_SINGLEMATCH
    own = ((re.IGNORECASE, hs.HS_FLAG_CASELESS), (re.MULTILINE, hs.HS_FLAG_MULTILINE))
    database = hs.Database()
    database.compile(
        expressions=[_wider(p.pattern).encode() for p in patterns],
        ids=[*range(len(patterns))],
        elements=len(patterns),
        flags=[common | sum(theirs for ours, theirs in own if p.flags & ours) for p in patterns],
    )
    return hs.dumpb(database)


def use(database: bytes | None, patterns: Sequence[re.Pattern[str]]) -> None:
    """From now on ask the database, made by ``compiled`` of the same patterns, first; None asks nothing any more."""
    global _database
    _database = None
    _numbers.clear()
    _perhaps.cache_clear()
    if database is not None:
        import hyperscan as hs

        _database = hs.loadb(database, hs.HS_MODE_BLOCK)
        _database.scratch = hs.Scratch(_database)
        _numbers.update((id(p), i) for i, p in enumerate(patterns))


@lru_cache(maxsize=8)
def _perhaps(text: str) -> frozenset[int]:
    found: set[int] = set()
    _database.scan(text.encode(errors="replace"), match_event_handler=lambda number, *_: found.add(number))
    return frozenset(found)


def may_match(pattern: re.Pattern[str], text: str) -> bool:
    """Whether ``pattern`` may match somewhere in ``text``; True for a pattern that no database knows."""
    number = _numbers.get(id(pattern))
    return number is None or number in _perhaps(text)


def search(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """``pattern.search(text)``."""
    return pattern.search(text) if may_match(pattern, text) else None


def finditer(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """``pattern.finditer(text)``."""
    return pattern.finditer(text) if may_match(pattern, text) else iter(())
