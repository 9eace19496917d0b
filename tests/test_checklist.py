"""The eight checks: todo without a measurement, warn beside the target, ok within it."""

import json

import pytest

from lab import checklist
from lab.__main__ import main
from lab.config import preset_config
from lab.records import Pair, Verdict, append_rows, write_json
from lab.run import new_run
from lab.stages.filter import set_manual

NAMES = ["size_ratio", "teacher_domain", "pairs", "pass_rate", "human_review", "student_quality", "three_axes", "licence_chain"]  # fmt: skip


def model(who, name, **values):
    good = {"parameters": 10e6, "size_bytes": 40e6, "tokens_per_second": 100.0, "rule_pass_rate": 0.8, "perplexity": 5.0, "tokenizer": "t",
            "probes": {"pass": 60, "total": 100, "chance": 0.25}, "intervals": {"probes": {"low": 0.5, "high": 0.7}}}  # fmt: skip
    return {"who": who, "name": name, **good, **values}


def reported(run, *models):
    """A run with verdicts, an arm and this report."""
    append_rows(run.pairs_file, [Pair(str(i), "부탁", "이야기", teacher="mini:teacher").row() for i in range(10)])
    run.begin("filter", preset_config("filter", "mini"))
    append_rows(run.verdicts_file, [Verdict(str(i), i < 6).row() for i in range(10)])
    run.finish("filter", {})
    run.begin("train", preset_config("train", "mini"), "distilled")
    run.finish("train", {}, "distilled")
    run.begin("compare", preset_config("compare", "mini"))
    write_json(run.report_file, {"models": list(models)})
    run.finish("compare", {})


def found(run):
    return {i.name: i for i in checklist.check(run)}


def test_a_new_run_has_eight_items_and_nothing_measured_but_the_models():
    items = checklist.check(new_run())
    assert [i.name for i in items] == NAMES
    assert {i.name: i.state for i in items if i.state != "todo"} == {"size_ratio": "ok", "licence_chain": "ok"}


def test_the_size_ratio_is_counted_from_the_weights_themselves():
    from lab.models import open_model

    teacher, student = open_model("mini:teacher"), open_model("mini:student")
    assert checklist.parameters("mini:teacher") == teacher.parameters
    value = found(new_run())["size_ratio"].value
    assert value.startswith(f"{teacher.parameters / student.parameters:.1f} ")


@pytest.mark.parametrize(
    ("spec", "count"),
    [("Qwen/Qwen2.5-1.5B-Instruct", 1_500_000_000), ("scratch:30m", 30_000_000), ("api:gpt-oss-20b", 20_000_000_000), ("own/model", None), ("api:gpt-4o", None)],
)  # fmt: skip
def test_else_the_size_in_the_name_counts(spec, count):
    assert checklist.parameters(spec) == count


def test_a_good_report_puts_the_measured_items_in_order():
    run = new_run()
    reported(run, model("teacher", "t"), model("base", "b", parameters=2e6, perplexity=9.0), model("arm", "distilled", parameters=2e6))  # fmt: skip
    items = found(run)
    for name in ("size_ratio", "teacher_domain", "pass_rate", "student_quality", "three_axes", "licence_chain"):
        assert items[name].state == "ok", items[name]
    assert items["size_ratio"].value.startswith("5.0")
    assert "9.00 -> 5.00" in items["student_quality"].value
    assert items["pass_rate"].value.startswith("60%")
    assert items["pairs"].state == "warn" and items["human_review"].state == "todo"


@pytest.mark.parametrize(
    ("item", "models"),
    [
        ("size_ratio", [model("teacher", "t"), model("base", "b"), model("arm", "d", parameters=5e6)]),
        ("teacher_domain", [model("teacher", "t", rule_pass_rate=0.4), model("base", "b"), model("arm", "d")]),
        ("teacher_domain", [model("teacher", "t", intervals={"probes": {"low": 0.2, "high": 0.3}}), model("arm", "d")]),
        ("student_quality", [model("base", "b", perplexity=4.0), model("arm", "d")]),
        ("student_quality", [model("base", "b", perplexity=9.0, probes={"pass": 90, "total": 100}), model("arm", "d")]),
        ("three_axes", [model("teacher", "t"), model("arm", "d")]),
        ("three_axes", [model("teacher", "t", tokens_per_second=None), model("base", "b"), model("arm", "d")]),
    ],
)
def test_what_misses_its_target_is_a_warning(item, models):
    run = new_run()
    reported(run, *models)
    assert found(run)[item].state == "warn", found(run)[item]


def test_a_report_whose_inputs_changed_is_out_of_date():
    run = new_run()
    reported(run, model("teacher", "t"), model("base", "b", perplexity=9.0), model("arm", "d"))
    assert found(run)["three_axes"].state == "ok"
    append_rows(run.verdicts_file, [Verdict("1", False).row()])
    assert found(run)["three_axes"].state == "warn" and "out of date" in found(run)["three_axes"].value
    assert found(run)["pass_rate"].state == "ok"


def test_people_are_counted_by_stories_and_an_undone_word_does_not_count():
    run = new_run()
    for i in range(checklist.REVIEWS):
        set_manual(run, str(i), True, "a")
        set_manual(run, str(i), False, "b")
    assert found(run)["human_review"].state == "ok" and found(run)["human_review"].value == "100"
    set_manual(run, "7", None, "a")
    set_manual(run, "7", None, "b")
    assert found(run)["human_review"].state == "warn" and found(run)["human_review"].value == "99"


def test_the_licence_of_the_teacher_named_in_the_rows_decides():
    run = new_run()
    append_rows(run.pairs_file, [Pair("1", "부탁", "이야기", teacher="api:gpt-4o").row()])
    assert found(run)["licence_chain"].state == "warn"


def test_the_command_prints_what_the_contract_says(capsys):
    run = new_run()
    assert main(["checklist", run.id, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert [i["name"] for i in items] == NAMES
    assert all({"name", "state", "value", "target"} <= i.keys() and i["state"] in ("ok", "warn", "todo") for i in items)
    assert main(["checklist", run.id]) == 0
    assert "size_ratio" in capsys.readouterr().out
