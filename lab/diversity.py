"""How different a run is: how evenly it covers the grid, and how different its stories are: distinct-n, self-BLEU,
near-duplicates, and some of it by phrasing.

Memory stays near the size of the texts: n-grams are counted as numbers, not as tuples.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lab import domain
from lab.records import Prompt

SELF_BLEU = 50
"""Stories of the self-BLEU sample: the mean of 50 scores against 49 references is good to about 2 points."""


class Coverage:
    """How evenly the prompts that were answered are spread over the grid; counts on as answers arrive."""

    def __init__(self, grid: domain.Grid, prompts: Iterable[Prompt] = ()) -> None:
        self._asked = {name: Counter(dict.fromkeys(values, 0)) for name, values in grid.decks().items()}
        for prompt in prompts:
            self.count(prompt)

    def count(self, prompt: Prompt) -> None:
        """One more answer to ``prompt``."""
        for name, value in domain.attributes(prompt):
            self._asked[name][value] += 1

    def told(self) -> dict[str, dict[str, int]]:
        """For each attribute: values ``used`` ``of`` all there are, and how often the rarest and the commonest was asked for."""
        return {
            name: {
                "used": sum(n > 0 for n in asked.values()),
                "of": len(asked),
                "least": min(asked.values()),
                "most": max(asked.values()),
            }
            for name, asked in self._asked.items()
        }


def ngrams(texts: Sequence[str]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """For n of 1, 2, 3 the word n-grams of each text as numbers: the same number for the same n-gram."""
    known: dict[str, int] = {}
    rows = [np.array([known.setdefault(w, len(known)) for w in t.split()], np.uint64) for t in texts]
    # A base above every word's number keeps n-grams apart: exact up to 2.6 million different words.
    size = np.uint64(len(known) + 1)
    none = np.array([], np.uint64)
    for n in (1, 2, 3):
        yield (
            n,
            [
                sum(r[i : len(r) - n + 1 + i] * size ** np.uint64(i) for i in range(n)) if len(r) >= n else none
                for r in rows
            ],
        )


def distinct(texts: Sequence[str]) -> dict[str, float]:
    """Different word n-grams over all word n-grams (Li et al. 2016) for n of 1, 2, 3; 0 where there are none.

    It falls as texts are added, so only samples of one size compare.
    """
    found: dict[str, float] = {}
    for n, grams in ngrams(texts):
        whole = np.concatenate(grams) if grams else np.array([], np.uint64)
        found[f"distinct_{n}"] = round(len(np.unique(whole)) / len(whole), 4) if len(whole) else 0.0
    return found


def self_bleu(texts: Sequence[str], seed: int = 0) -> float | None:
    """Mean BLEU of a story against the others (Zhu et al. 2018, Texygen), on a sample of 50: 0 all differ, 100 all the same."""
    from sacrebleu.metrics import BLEU

    sample = [t for t in texts if t.strip()]
    sample = random.Random(seed).sample(sample, min(SELF_BLEU, len(sample)))
    if len(sample) < 2:
        return None
    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(t, sample[:i] + sample[i + 1 :]).score for i, t in enumerate(sample)]
    return round(sum(scores) / len(scores), 2)


def near_duplicate_share(texts: Sequence[str]) -> float:
    """Share of stories that are an earlier one with retouches, by the filter's own measure."""
    from lab.duplicates import near_duplicates, sketch

    return round(len(near_duplicates(sketch(texts), [True] * len(texts))) / len(texts), 4) if texts else 0.0


def of(texts: Sequence[str]) -> dict[str, Any]:
    """distinct_1, distinct_2, distinct_3, near_duplicates (a share), self_bleu."""
    return distinct(texts) | {"near_duplicates": near_duplicate_share(texts), "self_bleu": self_bleu(texts)}


def by_group(texts: Sequence[str], groups: Sequence[str], cut_off: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """The same for each group (an instruction phrasing): pairs, mean characters, share cut off, distinct_2."""
    places: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    return {
        group: {
            "pairs": len(at),
            "characters": round(sum(len(texts[i]) for i in at) / len(at), 1),
            "cut_off": round(sum(cut_off[i] for i in at) / len(at), 3),
            "distinct_2": distinct([texts[i] for i in at])["distinct_2"],
        }
        for group, at in sorted(places.items())
    }
