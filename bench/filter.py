"""Seconds for all rules and the near-duplicate search: ``python bench/filter.py [ROWS ...]`` (default 5000 10000 50000).

Rows are filled templates, each with a few words of another one, as a teacher's stories share phrases.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.config import FilterConfig
from lab.domain import templates
from lab.judge import filled
from lab.records import Verdict
from lab.stages.filter import Table, cut, measure


def main() -> None:
    rng = random.Random(0)
    before = 0.0
    for count in [int(a) for a in sys.argv[1:]] or [5000, 10_000, 50_000]:
        pairs = []
        for i in range(count):
            pair, other = filled(rng, rng.choice(templates())), filled(rng, rng.choice(templates()))
            half = other.output[: len(other.output) // 2]
            pairs.append(
                replace(
                    pair, id=str(i), output=half[: half.rfind(".") + 1] + " " + pair.output[len(pair.output) // 2 :]
                )
            )
        start = time.perf_counter()
        scores = measure(pairs)
        seconds = time.perf_counter() - start
        table = Table.of(Verdict(p.id, False, (), s, 3.0) for p, s in zip(pairs, scores, strict=True))
        start = time.perf_counter()
        result = cut(table, FilterConfig())
        again = time.perf_counter() - start
        ratio = f", {seconds / before:.1f} times the last" if before else ""
        print(
            f"{count} pairs: {seconds:.1f} s ({1000 * seconds / count:.2f} ms a pair{ratio}); cut again {again * 1000:.0f} ms; {result.counts()}",
            flush=True,
        )
        before = seconds


if __name__ == "__main__":
    main()
