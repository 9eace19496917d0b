"""The scan that tells which patterns may match: never wrong in saying no, and worth its time."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lab import scan
from lab.checks import SCANNED, check_pair, narration
from lab.config import FilterConfig
from lab.domain import reference_stories
from lab.records import Pair

ROWS = [
    json.loads(line)
    for name in ("filter_dev", "filter_hard")
    for line in (Path(__file__).parent / "fixtures" / f"{name}.jsonl").read_text("utf-8").splitlines()
]

REQUIREMENTS = (Path(__file__).parent.parent / "requirements.txt").read_text("utf-8").splitlines()
HYPERSCAN = next(Requirement(line) for line in REQUIREMENTS if line.startswith("hyperscan"))
where_installed = pytest.mark.skipif(
    HYPERSCAN.marker is not None and not HYPERSCAN.marker.evaluate(),
    reason="requirements.txt leaves hyperscan out on this processor, and every pattern is asked",
)


@pytest.fixture(scope="module")
def database() -> bytes:
    made = scan.compiled(SCANNED)
    assert made is not None
    return made


@pytest.fixture(autouse=True)
def nothing_in_use_afterwards() -> Iterator[None]:
    yield
    scan.use(None, ())


@where_installed
def test_where_a_pattern_matches_it_may_match(database: bytes) -> None:
    texts = [t for r in ROWS for t in (r["output"], narration(r["output"]))]
    matching = [[p.search(t) is not None for p in SCANNED] for t in texts]
    assert sum(map(any, zip(*matching, strict=True))) > 0.9 * len(SCANNED)  # hardly a pattern that no text tries
    scan.use(database, SCANNED)
    for text, hits in zip(texts, matching, strict=True):
        for pattern, hit in zip(SCANNED, hits, strict=True):
            assert scan.may_match(pattern, text) or not hit, (pattern.pattern[:80], text)


@where_installed
def test_the_checks_find_the_same_with_it(database: bytes) -> None:
    pairs = [Pair(r["id"], r["instruction"], r["output"], r["character"], tuple(r["keywords"])) for r in ROWS]
    without = [check_pair(p, FilterConfig()) for p in pairs]
    scan.use(database, SCANNED)
    assert [check_pair(p, FilterConfig()) for p in pairs] == without


@where_installed
def test_few_patterns_are_left_to_ask_about_a_good_story(database: bytes) -> None:
    scan.use(database, SCANNED)
    left = [sum(scan.may_match(p, r["output"]) for p in SCANNED) for r in reference_stories()]
    assert sorted(left)[len(left) // 2] < len(SCANNED) / 3


@where_installed
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"가[^.\n]{0,60}나", "가" + "다" * 50 + "나"),
        (r"(?<![가-힣])늑대(?!는)", "늑대가"),
        (r"[\ufffd\u200b]+", "\u200b"),
        (r"\d\s\w", "٣\u3000é"),
        (r"^끝\.$", "처음.\n끝.\n다시."),
        (r"([가-힣]{2})\1", "둥실둥실"),
        ("[" + "".join(map(chr, range(0xAC00, 0xAC00 + 2000, 3))) + "]다", chr(0xAC00 + 600) + "다"),
    ],
)
def test_python_and_the_scanner_read_a_pattern_alike(pattern: str, text: str) -> None:
    known = (re.compile(pattern, re.MULTILINE), re.compile("없는 말"))
    assert known[0].search(text)
    scan.use(scan.compiled(known), known)
    assert scan.may_match(known[0], text) and not scan.may_match(known[1], text)
    assert scan.search(known[0], text) and [*scan.finditer(known[0], text)] and not scan.search(known[1], text)
    assert scan.may_match(re.compile("never seen before"), text)


def test_without_hyperscan_every_pattern_may_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hyperscan", None)
    assert scan.compiled(SCANNED) is None
    scan.use(None, SCANNED)
    assert all(scan.may_match(p, "") for p in SCANNED)
