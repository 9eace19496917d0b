"""Rows of different length in one batch without paying for their padding: a cache with room, prompts and attention in groups.

Prompts are padded on the left, so that all rows write into the same column. Half of the columns may be padding then. Rows of
similar length form a group: each group's prompts are read by themselves, and attention leaves out the columns that are
padding in the whole group.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, DynamicLayer, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IN_GROUPS = "sdpa_in_groups"
"""The library's name for the attention below."""
GROUP = 32
"""Rows of a group: with fewer, calls cost more than columns; with more, lengths differ more."""

Group = tuple[int, int, int]
"""First row, row after the last, columns that are padding in all of its rows."""


def groups_of(padding: Sequence[int]) -> list[Group]:
    """Groups of neighbouring rows with ``padding`` columns each; one where all columns are needed anyway."""
    starts = range(0, len(padding), GROUP)
    found = [(a, min(a + GROUP, len(padding)), min(padding[a : a + GROUP])) for a in starts]
    return found if any(pad for _, _, pad in found) else [(0, len(padding), 0)]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    groups: Sequence[Group] = (),
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The library's attention for one new token a row, group by group; without groups the library's own."""
    if attention_mask is None or not groups:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = [
        sdpa_attention_forward(
            module, query[a:b], key[a:b, :, pad:], value[a:b, :, pad:], attention_mask[a:b, ..., pad:], **options
        )[0]
        for a, b, pad in groups
    ]
    return torch.cat(parts), None


AttentionInterface.register(IN_GROUPS, _attend)
AttentionMaskInterface.register(IN_GROUPS, sdpa_mask)


class _Rows(DynamicLayer):
    """Keys and values of one layer in a buffer with room to grow: a step writes its column instead of copying all before it.

    On a CPU that copying is most of the work: 1.2 GB a step for 256 rows of 300 tokens of the mini teacher.
    """

    ROOM = 64
    """Tokens that the buffer grows by."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append the new keys and values; returns all of them, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.held = [key_states[:, :, :0], value_states[:, :, :0]]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        for i, new in enumerate((key_states, value_states)):
            if end > self.held[i].shape[-2]:
                grown = self._room(new, new.shape[0], end)
                grown[:, :, :start] = self.held[i][:, :, :start]
                self.held[i] = grown
            self.held[i][:, :, start:end] = new
        return self._show(end)

    def place(self, part: _Rows, group: Group, rows: int) -> None:
        """Take over a group's prompts, behind their padding; the first group makes room for all ``rows``."""
        start, end, pad = group
        width = pad + part.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(part.keys, part.values)
            # Zeros, as masked columns count nothing only while they are finite.
            self.held = [self._room(x, rows, width).zero_() for x in part.held]
        for mine, theirs in zip(self.held, (part.keys, part.values), strict=True):
            mine[start:end, :, pad:width] = theirs
        self._show(width)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows (one may stand twice)."""
        end = self.get_seq_length()
        self.held = [x[indices] for x in self.held]
        self._show(end)

    def _room(self, like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return like.new_empty(rows, like.shape[1], (columns // self.ROOM + 1) * self.ROOM, like.shape[3])

    def _show(self, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (x[:, :, :end] for x in self.held)
        return self.keys, self.values


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache; layers that attend to everything get room to grow, others (sliding windows) stay the library's."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_Rows() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def takes_groups(model: PreTrainedModel) -> bool:
    """Whether the model hands ``groups`` on to the attention above: opened with it, and all of its layers attend to everything."""
    handed_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())
    return (
        handed_on
        and model.config._attn_implementation == IN_GROUPS
        and all(isinstance(layer, _Rows) for layer in new_cache(model).layers)
    )


def read_prompts(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, groups: Sequence[Group]
) -> tuple[torch.Tensor, DynamicCache]:
    """Logits of the token after each prompt (rows, vocabulary) and the cache of all; ids, mask, positions: (rows, width)."""
    logits, whole = [], new_cache(model)
    for a, b, pad in groups:
        part = new_cache(model) if len(groups) > 1 else whole
        shown = mask[a:b, pad:]
        out = model(
            input_ids=ids[a:b, pad:],
            attention_mask=shown if bool((shown == 0).any()) else None,
            position_ids=positions[a:b, pad:],
            past_key_values=part,
            use_cache=True,
            logits_to_keep=1,
        )
        logits.append(out.logits[:, -1])
        if part is not whole:
            for mine, theirs in zip(whole.layers, part.layers, strict=True):
                mine.place(theirs, (a, b, pad), len(ids))
    return torch.cat(logits), whole
