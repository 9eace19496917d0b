"""95 % intervals: of a quality number, of the difference of two models on the same items, of the share that is kept.

Items (prompts, stories, probes) are drawn anew, not tokens: what one story does not tell about the next is the doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

RESAMPLES = 1000
Z = 1.96
"""Standard errors of a 95 % interval."""
FEW = 8
"""Below this many items a difference is never called shown, whatever the resamples say."""


@dataclass(frozen=True)
class Sample:
    """A number over items: the sum of ``top`` over the sum of ``bottom``; its exponential where ``exp`` is set.

    An item that could not be measured has 0 in both. Two samples of the same items in the same order are paired.
    """

    top: np.ndarray
    bottom: np.ndarray
    exp: bool = False

    def at(self, index: np.ndarray | slice = np.s_[None, :]) -> np.ndarray:
        """The number for each row of item indices; NaN where nothing was measured."""
        bottom = self.bottom[index].sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = self.top[index].sum(1) / np.where(bottom == 0, np.nan, bottom)
            return np.exp(found) if self.exp else found

    @property
    def value(self) -> float:
        """The number over all items."""
        return float(self.at()[0])

    @property
    def count(self) -> int:
        """Items that were measured."""
        return int((self.bottom != 0).sum())


def mean(values: Any) -> Sample:
    """The mean over items; an item with None is left out."""
    found = [v is not None for v in values]
    return Sample(np.array([0.0 if v is None else float(v) for v in values]), np.array(found, float))


def of_whole(value: float, without: Sequence[float]) -> Sample:
    """A number that is no mean over items, from what it is ``without`` each item (jackknife pseudo-values).

    Their mean is the number itself, so interval, difference and share follow as for any mean. Drawing items with
    repetition would not do: whatever counts different things falls when things are drawn twice.
    """
    left = np.array(without, float)
    return mean(value + (len(left) - 1) * (left.mean() - left))


def greatest(values: Sequence[float]) -> dict[str, float]:
    """The greatest of all items and how low it might as well have come out; ``high`` is what was found.

    No resample holds more than the items do, so the interval is open upwards: other items may hold more.
    """
    found = np.array(values, float)
    drawn = found[_index(len(found))].max(1)
    return {"value": float(found.max()), "low": float(np.percentile(drawn, 2.5)), "high": float(found.max()), "n": len(found)}  # fmt: skip


def _index(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a rate, honest at few items: 5 of 5 says 57 to 100 % where a bootstrap says 100 %."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def interval(sample: Sample) -> dict[str, float]:
    """Value, low, high and the number of items: percentile bootstrap, for a rate Wilson's score interval."""
    value, n = sample.value, sample.count
    used = sample.bottom != 0
    if not sample.exp and np.isin(sample.top[used], (0, 1)).all() and (sample.bottom[used] == 1).all():
        low, high = wilson(value, n)
    else:
        low, high = _bounds(sample.at(_index(len(sample.top))))
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def _bounds(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def difference(a: Sample, b: Sample) -> dict[str, Any]:
    """``a`` minus ``b``, item by item on the same resamples; ``shown`` when the interval leaves out 0."""
    index = _index(len(a.top))
    low, high = _bounds(a.at(index) - b.at(index))
    n = min(a.count, b.count)
    return {
        "difference": a.value - b.value,
        "low": low,
        "high": high,
        "n": n,
        "shown": n >= FEW and (low > 0 or high < 0),
    }


def kept(a: Sample, b: Sample, turned: bool = False) -> dict[str, float] | None:
    """What ``a`` keeps of ``b`` (a / b; b / a where less is better), with its interval; None without a base."""
    over, under = (b, a) if turned else (a, b)
    if not under.value:
        return None
    index = _index(len(a.top))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = over.at(index) / under.at(index)
    low, high = _bounds(drawn[np.isfinite(drawn)])
    return {"value": over.value / under.value, "low": low, "high": high}
