"""The model of the T4 on paper, and how figures are written: arithmetic against independent counts."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, Qwen2Config

from bench import machine, t4
from bench.machine import Machine


@pytest.mark.parametrize(
    ("shape", "known"), [(t4.QWEN_1_5B, 1_543_714_304), (t4.QWEN_0_5B, 494_032_768)], ids=["1.5B", "0.5B"]
)
def test_shapes_have_the_parameters_of_the_real_architecture(shape: t4.Shape, known: int) -> None:
    import torch

    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape == t4.Shape.of(config)
    assert shape.parameters == model.num_parameters() == known  # the number on the model's page, too
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert shape.matrices == matrices


def test_an_untied_output_matrix_is_counted_once_more() -> None:
    tied, free = (t4.Shape(100, 8, 16, 2, 2, 1, 4, tied) for tied in (True, False))
    assert free.parameters - tied.parameters == 800 and free.matrices == tied.matrices


def test_a_step_of_one_row_reads_all_weights_and_is_bound_by_memory() -> None:
    weights, cache, _ = t4.decoding(t4.QWEN_1_5B, 1, 190)
    assert weights.bytes == pytest.approx(3.09e9, rel=0.01) and weights.flops == pytest.approx(3.09e9, rel=0.01)
    assert cache.bytes == 190 * 28 * 2 * 2 * 128 * 2  # tokens, layers, keys and values, heads, their size, fp16
    assert weights.bound(machine.T4) == "memory"
    assert weights.seconds(machine.T4) == pytest.approx(3.09e9 / 320e9, rel=0.01)


def test_arithmetic_takes_over_where_rows_outweigh_bytes() -> None:
    """The ridge of the T4 lies at 65e12 / 320e9 = 203 operations a byte: two a weight and row, two bytes a weight."""
    assert t4.decoding(t4.QWEN_1_5B, 200, 190)[0].bound(machine.T4) == "memory"
    assert t4.decoding(t4.QWEN_1_5B, 210, 190)[0].bound(machine.T4) == "arithmetic"


def test_lora_costs_four_operations_a_weight_and_token() -> None:
    step = t4.training(t4.QWEN_0_5B, 1000, 320)
    assert step[0].flops == pytest.approx(4 * 0.494e9 * 1000, rel=0.01)
    assert t4.summed(step, machine.T4) > step[0].seconds(machine.T4)


def test_minutes_grow_with_pairs_and_shrink_with_batches_and_better_machines() -> None:
    def minutes(pairs: int, batch: int, machine_: Machine = machine.T4) -> float:
        return t4.writing_seconds(t4.QWEN_1_5B, pairs, batch, machine_)

    assert minutes(5000, 64) == pytest.approx(2 * minutes(2500, 64))
    assert minutes(5000, 64) < minutes(5000, 16) < minutes(5000, 1)
    assert minutes(5000, 64, Machine(640e9, 130e12)) == pytest.approx(minutes(5000, 64) / 2)


def test_the_table_names_what_binds_and_fits_on_a_t4() -> None:
    rows = t4.rows()
    assert all(r["memory"] < 15e9 for r in rows)
    assert {r["bound"] for r in rows} == {"weights (memory)", "matrices (arithmetic)"}
    assert t4.table(rows).count("\n") == len(rows) + 1


def test_figures_show_median_and_spread() -> None:
    assert machine.told([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"
    assert machine.told([1234.5]) == "1,234"


def test_the_description_names_no_machine() -> None:
    import platform

    facts = machine.described()
    assert {"processor", "cores", "memory", "torch"} <= set(facts)
    assert platform.node() not in " ".join(facts.values())
