"""Metrics as ``evaluate.Metric`` modules, instantiated directly: nothing is asked of the Hub.

Likelihoods take what ``LocalModel.score`` gives: the log-probabilities (natural logarithm) of the answer's tokens, its
end token included, weighted by token or by byte, so that a long story counts more than a short one. Where a number is
a mean over texts, the value of each text is beside it, for the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from lab.diversity import ngrams
from lab.passages import SPAN, Passages

_TEXT = datasets.Value("string")
_NUMBERS = datasets.Sequence(datasets.Value("float64"))


class _Offline(evaluate.Metric):
    """A metric that is described by its docstring and its ``INPUTS``."""

    INPUTS: ClassVar[dict[str, Any]]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            features=datasets.Features(self.INPUTS),
            inputs_description=", ".join(self.INPUTS),
        )


class TokenPerplexity(_Offline):
    """exp of the mean negative log-probability of a token, over all tokens of all texts."""

    INPUTS: ClassVar = {"predictions": _NUMBERS}

    def _compute(self, predictions: Sequence[Sequence[float]]) -> dict[str, float]:
        return {"perplexity": math.exp(-sum(map(sum, predictions)) / sum(map(len, predictions)))}


class BitsPerByte(_Offline):
    """Bits that the model needs for a UTF-8 byte of text: comparable between vocabularies, as perplexity is not."""

    INPUTS: ClassVar = {"predictions": _NUMBERS, "references": _TEXT}

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[str]) -> dict[str, float]:
        return {"bits_per_byte": -sum(map(sum, predictions)) / math.log(2) / sum(len(t.encode()) for t in references)}


class DistinctN(_Offline):
    """Different word n-grams over all word n-grams of all texts (Li et al. 2016), for n of 1, 2 and 3.

    ``without_n`` holds, for each text, what the number would be without it: it is no mean over texts.
    """

    INPUTS: ClassVar = {"predictions": _TEXT}

    def _compute(self, predictions: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for n, grams in ngrams(predictions):
            own = [np.unique(g) for g in grams]
            held, texts = np.unique(np.concatenate(own), return_counts=True)
            total, different = sum(map(len, grams)), len(held)
            found[f"distinct_{n}"] = different / total if total else 0.0
            found[f"without_{n}"] = [
                (different - int((texts[np.searchsorted(held, mine)] == 1).sum())) / (total - len(g))
                if total > len(g)
                else 0.0
                for mine, g in zip(own, grams, strict=True)
            ]
        return found


class ChrF(_Offline):
    """Mean over texts of chrF (Popovic 2015, by sacrebleu), 0 to 100: character n-grams need no Korean segmenter."""

    INPUTS: ClassVar = {"predictions": _TEXT, "references": _TEXT}

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        from sacrebleu.metrics import CHRF

        chrf = CHRF()
        scores = [
            chrf.sentence_score(p, [r]).score if p and r else 0.0 for p, r in zip(predictions, references, strict=True)
        ]
        return {"chrf": sum(scores) / len(scores), "scores": scores}


class PassAtK(_Offline):
    """Chance that at least one of k answers to a prompt is right (Chen et al. 2021, unbiased), mean over prompts."""

    INPUTS: ClassVar = {"predictions": _NUMBERS}

    def _compute(self, predictions: Sequence[Sequence[float]], k: int) -> dict[str, Any]:
        scores = []
        for right in predictions:
            n, c = len(right), int(sum(right))
            scores.append(1 - math.comb(n - c, k) / math.comb(n, k))
        return {f"pass_at_{k}": sum(scores) / len(scores), "scores": scores}


class Copied(_Offline):
    """Copies from the training texts: longest shared passage of all texts and of each, share with 30 characters of one."""

    INPUTS: ClassVar = {"predictions": _TEXT}

    def _compute(self, predictions: Sequence[str], corpus: Passages) -> dict[str, Any]:
        lengths = [corpus.longest(p) for p in predictions]
        return {
            "longest_copy": max(lengths),
            "copied_rate": sum(n >= SPAN for n in lengths) / len(lengths),
            "lengths": lengths,
        }


def compute(metric: type[evaluate.Metric], **inputs: Any) -> dict[str, Any]:
    """The metric's values, kept in memory: nothing is written to the cache of evaluate."""
    return metric(keep_in_memory=True).compute(**inputs)


def combined(*metrics: type[evaluate.Metric], **inputs: Any) -> dict[str, Any]:
    """Several metrics of the same inputs at once."""
    return evaluate.combine([m(keep_in_memory=True) for m in metrics]).compute(**inputs)
