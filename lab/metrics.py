"""Metrics as ``evaluate.Metric`` modules, instantiated directly: nothing is asked of the Hub.

They take what ``LocalModel.score`` gives: the log-probabilities (natural logarithm) of the answer's tokens, its
end token included. Everything is weighted by token or by byte, so a long story counts more than a short one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

_TEXT = "Hard distillation of Korean fairytales."


class TokenPerplexity(evaluate.Metric):
    """exp of the mean negative log-probability of a token, over all tokens of all texts."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))})
        return evaluate.MetricInfo(
            description=_TEXT,
            citation="",
            features=features,
            inputs_description="log-probabilities of each text's tokens",
        )

    def _compute(self, predictions: Sequence[Sequence[float]]) -> dict[str, float]:
        return {"perplexity": math.exp(-sum(map(sum, predictions)) / sum(map(len, predictions)))}


class BitsPerByte(evaluate.Metric):
    """Bits that the model needs for a UTF-8 byte of text: comparable between vocabularies, as perplexity is not."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("string")}
        )
        return evaluate.MetricInfo(
            description=_TEXT,
            citation="",
            features=features,
            inputs_description="log-probabilities and the text itself",
        )

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[str]) -> dict[str, float]:
        return {"bits_per_byte": -sum(map(sum, predictions)) / math.log(2) / sum(len(t.encode()) for t in references)}


class DistinctN(evaluate.Metric):
    """Different word n-grams over all word n-grams of all texts (Li et al. 2016), for n of 1 and 2."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=_TEXT, citation="", features=features, inputs_description="texts")

    def _compute(self, predictions: Sequence[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for n in (1, 2):
            grams = [tuple(w[i : i + n]) for w in map(str.split, predictions) for i in range(len(w) - n + 1)]
            found[f"distinct_{n}"] = len(set(grams)) / max(1, len(grams))
        return found


def compute(metric: type[evaluate.Metric], **inputs: Any) -> dict[str, float]:
    """The metric's values, kept in memory: nothing is written to the cache of evaluate."""
    return metric(keep_in_memory=True).compute(**inputs)
