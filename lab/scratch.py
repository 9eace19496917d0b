"""The story model from scratch: a vocabulary of its own, learned on the run's pairs, and untrained weights.

The vocabulary is cut as Qwen's is, because AutoTokenizer rebuilds a Qwen2Tokenizer whatever a folder says: what is
learned here is what is loaded again, id by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lab import mini
from lab.records import Pair


@dataclass(frozen=True)
class Shape:
    """Vocabulary at most, width, layers, heads, width of the feed-forward part."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int

    def configuration(self, vocabulary: int, eos: int, pad: int) -> Qwen2Config:
        """The Qwen2 configuration with as many entries as the vocabulary really has."""
        return mini.configuration(self.hidden, self.layers, self.heads, self.feed_forward, vocabulary, eos, pad)


SHAPES = {
    "scratch:30m": Shape(8192, 512, 8, 8, 1408),
    "scratch:mini": Shape(2048, 192, 4, 3, 512),
}
"""30 million weights for a few thousand stories, 2 million for a few hundred on two CPU cores."""


def shape_for(student: str) -> str:
    """The shape that stands in for ``student`` when it is trained from scratch: the name itself, or the one of its league."""
    if student in SHAPES:
        return student
    return "scratch:mini" if student == "mini:student" else "scratch:30m"


def build(spec: str, pairs: Sequence[Pair], seed: int, folder: Path) -> None:
    """Write the untrained model of SPEC with a tokenizer learned on ``pairs`` to ``folder``.

    Its first weights are wired for copying, as the mini pair's are: a story has to name whom it was asked for.
    """
    shape = SHAPES[spec]
    tokenizer = mini.learn_tokenizer([text for p in pairs for text in (p.instruction, p.output)], shape.vocabulary)
    torch.manual_seed(seed)
    config = shape.configuration(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = Qwen2ForCausalLM(config)
    mini.wire_for_copying(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
