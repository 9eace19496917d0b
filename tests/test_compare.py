"""The comparison: its numbers against independent computations, its honesty, its rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab import domain
from lab.config import CompareConfig, TrainConfig
from lab.metrics import BitsPerByte, DistinctN, TokenPerplexity, compute
from lab.models import open_model
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_json, read_rows, write_json
from lab.run import Run, new_run
from lab.stages import compare as stage
from lab.stages import train
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("teacher"), seed=1, layers=3)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


@pytest.fixture
def run_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str, student: str) -> Run:
    """A run with a tiny teacher, 16 kept training and 4 kept test pairs, no arm yet."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    made = new_run("mini")
    pairs = [replace(p, split="test" if i % 5 == 0 else "train") for i, p in enumerate(train.human_pairs(20, 5))]
    append_rows(made.pairs_file, [p.row() for p in pairs])
    append_rows(made.verdicts_file, [Verdict(p.id, True).row() for p in pairs])
    write_json(made.stage_folder("generate") / "config.json", {"teacher": teacher})
    write_json(made.stage_folder("train") / "config.json", {"student": student})
    return made


SMALL = CompareConfig(prompts=4, max_new_tokens=24)


def test_report_holds_teacher_base_and_arm(run_: Run, student: str) -> None:
    train.run(
        run_, TrainConfig(student=student, batch_size=4, epochs=2.0, learning_rate=1e-2), Progress(run_, "train", [])
    )
    report = stage.run(run_, SMALL, Progress(run_, "compare", []))
    assert report == read_json(run_.report_file) and run_.state("compare") == "done"
    assert [m["who"] for m in report["models"]] == ["teacher", "base", "arm"]
    _, base, arm = report["models"]
    assert arm["perplexity"] < base["perplexity"] and arm["revision"] != base["revision"]
    for model in report["models"]:
        assert (
            model["probes"]["total"]
            == len(domain.probes())
            == sum(t["total"] for t in model["probes"]["by_type"].values())
        )
        assert model["probes"]["chance"] == 0.25
        assert model["reference"]["perplexity"] > 1 and model["reference"]["bits_per_byte"] > 0
        assert model["tokens_per_second"] > 0 and model["first_token_seconds"] > 0 and model["peak_memory_bytes"] >= 0
        for name, found in model["intervals"].items():
            assert found["low"] <= found["value"] <= found["high"], name
    assert report["retention"]["distilled"]["bits_per_byte"] == pytest.approx(
        report["models"][0]["bits_per_byte"] / arm["bits_per_byte"]
    )
    answers = list(read_rows(run_.answers_file))
    assert len(answers) == 3 * 4
    assert {"who", "instruction", "character", "keywords", "text", "reasons", "tokens", "seconds"} <= answers[0].keys()
    assert [a["instruction"] for a in answers[:4]] == [a["instruction"] for a in answers[8:]]
    assert report["verdict"]["en"] and report["verdict"]["ko"]
    lines = stage.table(report).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines[:4]}) == 1
    json.dumps(report, allow_nan=False)


def test_perplexity_agrees_with_plain_torch(teacher: str) -> None:
    """One text at a time through transformers' own loss, against the batched score; within 1 %."""
    model = open_model(teacher)
    pairs = [Pair.of(r) for r in ({"id": s["id"], **s} for s in domain.reference_stories()[:5])]
    found, ranges = stage.likelihood(model, pairs)
    loss = tokens = 0.0
    for p in pairs:
        text = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": p.instruction}], tokenize=False, add_generation_prompt=True
        )
        before = model.tokenizer(text, add_special_tokens=False).input_ids
        answer = [*model.tokenizer(p.output, add_special_tokens=False).input_ids, model.tokenizer.eos_token_id]
        ids = torch.tensor([before + answer])
        labels = torch.tensor([[-100] * len(before) + answer])
        with torch.no_grad():
            loss += model.model(input_ids=ids, labels=labels).loss.item() * len(answer)
        tokens += len(answer)
    assert found["perplexity"] == pytest.approx(math.exp(loss / tokens), rel=0.01)
    size = sum(len(p.output.encode()) for p in pairs)
    assert found["bits_per_byte"] == pytest.approx(loss / math.log(2) / size, rel=0.01)
    assert ranges["perplexity"]["low"] < found["perplexity"] < ranges["perplexity"]["high"]


def test_metrics_by_hand() -> None:
    half = math.log(0.5)
    # One token of 1/2 and three of 1/8: weighted by token, not by text.
    scores = [[half], [3 * half, 3 * half, 3 * half]]
    assert compute(TokenPerplexity, predictions=scores)["perplexity"] == pytest.approx(2**2.5)
    assert compute(BitsPerByte, predictions=scores, references=["ab", "가b"])["bits_per_byte"] == pytest.approx(10 / 6)
    assert compute(DistinctN, predictions=["토끼 토끼 곰"]) == {"distinct_1": 2 / 3, "distinct_2": 1.0}


def test_held_out_prompts_are_of_the_test_split_and_grow_at_the_end() -> None:
    few, many = stage.held_out_prompts(5, 7), stage.held_out_prompts(40, 7)
    assert len(many) == 40 and {p.split for p in many} == {"test"}
    assert many[:5] == few


def test_copied_passages_are_leaks() -> None:
    story = domain.reference_stories()[0]["output"]
    train_text = "앞말이에요. " + story[20:90]
    known = stage.spans([train_text])
    found = stage.find_leaks(
        known, {"reference": [Pair("r", "", story)], "test": [Pair("t", "", domain.reference_stories()[1]["output"])]}
    )
    assert [(x["set"], x["id"]) for x in found] == [("reference", "r")]
    assert found[0]["span"] in train_text and 0 < found[0]["share"] < 1


def test_verdict_tells_bad_news_too() -> None:
    def model(who: str, rate: float) -> dict:
        around = {"rule_pass_rate": {"value": rate, "low": rate - 0.05, "high": rate + 0.05}}
        shared = dict.fromkeys([*stage.SMALLER, *stage.HIGHER_IS_BETTER, *stage.LOWER_IS_BETTER]) | {
            "bits_per_byte": 1.0,
            "probes": None,
        }
        return shared | {
            "who": who,
            "name": who,
            "rule_pass_rate": rate,
            "intervals": around,
            "reference": {"perplexity": None, "bits_per_byte": None},
        }

    def said(teacher: float, base: float, arm: float) -> str:
        models = [model("teacher", teacher), model("base", base), model("arm", arm)]
        return stage.verdict(models, {"arm": stage.retained(models[2], models[0])})["en"]

    assert "keeps 96% of the teacher's pass rate, which reaches the target" in said(0.8, 0.2, 0.77)
    assert "only 50%" in said(0.8, 0.2, 0.4)
    assert "gain over the untrained student is not shown" in said(0.8, 0.38, 0.4)
    assert "needs an explanation" in said(0.5, 0.2, 0.8)
    assert "no quality to keep" in said(0.0, 0.0, 0.1)


def test_an_arm_that_is_not_trained_is_named(run_: Run) -> None:
    with pytest.raises(Problem, match="'other' has not been trained"):
        stage.run(run_, replace(SMALL, arms="other"), Progress(run_, "compare", []))
    assert run_.state("compare") == "empty"


def test_own_reference_stories_and_their_faults(run_: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    append_rows(good, [{"instruction": "써 줘", "output": "옛날에 곰이 살았어요."}])
    append_rows(bad, [{"instruction": "써 줘"}])
    assert [p.output for p in stage.reference_pairs(replace(SMALL, reference=str(good)))] == ["옛날에 곰이 살았어요."]
    for path in (bad, tmp_path / "none.jsonl"):
        with pytest.raises(Problem, match="no usable reference stories"):
            stage.reference_pairs(replace(SMALL, reference=str(path)))


def test_stop_between_models_leaves_no_report(run_: Run) -> None:
    progress = Progress(run_, "compare", [])
    progress.interrupted = True
    with pytest.raises(Stopped):
        stage.run(run_, SMALL, progress)
    assert not run_.report_file.exists() and run_.state("compare") == "partial"
