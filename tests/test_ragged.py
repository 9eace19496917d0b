"""Rows of different length in one batch: the same numbers as without groups, in fewer columns."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.integrations import sdpa_attention

from lab import ragged
from lab.models import LocalModel, Sampling, open_model

LENGTHS = [90, 88, 85, *range(60, 20, -2), *[12] * 30, *range(11, 4, -1)]


@pytest.fixture(scope="module")
def model() -> LocalModel:
    opened = open_model("mini:student")
    assert isinstance(opened, LocalModel)
    return opened


def prompts(model: LocalModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask, positions of left-padded prompts, longest first, as ``stream`` makes them."""
    width = max(LENGTHS)
    ids = torch.randint(10, 4000, (len(LENGTHS), width), generator=torch.Generator().manual_seed(0))
    mask = torch.stack([(torch.arange(width) >= width - n).long() for n in LENGTHS])
    return ids * mask, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def test_neighbours_of_similar_length_form_a_group() -> None:
    padding = [max(LENGTHS) - n for n in LENGTHS]
    assert ragged.groups_of(padding) == [(0, 32, 0), (32, 60, 78)]
    assert ragged.groups_of([0] * 100) == [(0, 100, 0)], "one group where nothing is padding"
    assert ragged.groups_of([3]) == [(0, 1, 3)]


@torch.inference_mode()
def test_prompts_in_groups_and_the_step_after_them_give_the_numbers_of_reading_them_at_once(model: LocalModel) -> None:
    ids, mask, positions = prompts(model)
    groups = ragged.groups_of([max(LENGTHS) - n for n in LENGTHS])
    assert len(groups) > 1 and ragged.takes_groups(model.model)
    logits, cache = ragged.read_prompts(model.model, ids, mask, positions, groups)
    plain, whole = ragged.read_prompts(model.model, ids, mask, positions, [(0, len(ids), 0)])
    assert torch.allclose(logits, plain, atol=2e-4)
    keep = torch.tensor([0, 3, 30, 40, 41, len(LENGTHS) - 1])
    for left in (keep, torch.arange(len(keep))):  # all rows, then some of them
        token = torch.full((len(ids), 1), 42)
        mask = torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
        positions = positions[:, -1:] + 1
        step = {"input_ids": token, "attention_mask": mask, "position_ids": positions}
        grouped = model.model(**step, past_key_values=cache, use_cache=True, groups=groups).logits
        assert torch.allclose(grouped, model.model(**step, past_key_values=whole, use_cache=True).logits, atol=2e-4)
        for held in (cache, whole):
            held.batch_select_indices(left)
        ids, mask, positions = ids[left], mask[left], positions[left]
        groups = [(0, 3, 0), (3, 6, 50)]


def test_columns_that_are_padding_in_a_whole_group_are_not_looked_at(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    plain = sdpa_attention.sdpa_attention_forward

    def watched(module, query, key, *rest, **options):
        seen.append((len(query), key.shape[2]))
        return plain(module, query, key, *rest, **options)

    monkeypatch.setattr(ragged, "sdpa_attention_forward", watched)
    ids, mask, _ = prompts(model)
    rows = [row[row_mask.bool()].tolist() for row, row_mask in zip(ids, mask, strict=True)]
    steps = model.stream(rows, Sampling(0.0, max_new_tokens=3), [0] * len(rows))
    next(steps)
    layers = model.model.config.num_hidden_layers
    assert seen == [(32, 90)] * layers + [(len(rows) - 32, 12)] * layers, "prompts"
    seen.clear()
    next(steps)
    assert seen[:2] == [(32, 91), (len(rows) - 32, 13)], "the step after them"
    steps.close()


def test_a_model_with_windows_is_read_at_once() -> None:
    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=8, max_window_layers=1,
        attn_implementation=ragged.IN_GROUPS,
    )  # fmt: skip
    assert not ragged.takes_groups(Qwen2ForCausalLM(config))
    config = Qwen2Config(**config.to_dict() | {"use_sliding_window": False, "layer_types": None})
    config._attn_implementation = ragged.IN_GROUPS
    assert ragged.takes_groups(Qwen2ForCausalLM(config))


def test_a_growing_cache_holds_what_the_librarys_own_does(model: LocalModel) -> None:
    """Across several blocks of room, and after rows have left."""
    from transformers import DynamicCache

    torch.manual_seed(0)
    ours, theirs = ragged._Rows(), DynamicCache(config=model.model.config).layers[0]
    for width in (70, 1, 1, 64, 1):
        key, value = torch.randn(4, 2, width, 8), torch.randn(4, 2, width, 8)
        for mine, other in zip(ours.update(key, value), theirs.update(key, value), strict=True):
            assert torch.equal(mine, other)
    keep = torch.tensor([2, 0])
    ours.batch_select_indices(keep)
    theirs.batch_select_indices(keep)
    assert torch.equal(ours.keys, theirs.keys) and ours.get_seq_length() == theirs.get_seq_length() == 137
