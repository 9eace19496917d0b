"""The command line, as a script uses it: exit status, one JSON object on stdout, messages on stderr."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab import domain
from lab.__main__ import main
from lab.records import Verdict, append_rows, write_json
from lab.run import new_run
from lab.stages.train import human_pairs
from tests.tiny import tiny_model


def lab(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m lab ARGS``."""
    return subprocess.run([sys.executable, "-m", "lab", *args], capture_output=True, text=True, env=os.environ.copy())


def told(*args: str) -> dict[str, Any]:
    """The object of ``python -m lab ARGS --json``, whose stderr holds nothing that libraries say to who programs with them."""
    done = lab(*args, "--json")
    assert not re.search(r"Warning|warn\(|\[transformers\]|it/s|examples/s|\|█", done.stderr), done.stderr
    return json.loads(done.stdout)


def own_pairs(path: Path, count: int) -> Path:
    """A file of good stories filled from the templates, as somebody would bring them."""
    rng = random.Random(0)
    rows = []
    for template, prompt in zip(rng.sample(domain.templates(), count), domain.prompts(count, 9), strict=True):
        words = (rng.choice(template["k1"]), rng.choice(template["k2"]))
        friend = rng.choice([c for c in domain.characters() if c != prompt.character])
        slots = {
            "A": prompt.character,
            "a": domain.short_name(prompt.character),
            "B": friend,
            "b": domain.short_name(friend),
            "k1": words[0],
            "k2": words[1],
        }
        row = {
            "instruction": f"{prompt.character} 동화를 써 주세요. 낱말: {words[0]}, {words[1]}",
            "output": domain.fill(template["text"], slots),
            "character": prompt.character,
            "keywords": list(words),
        }
        rows.append(json.dumps(row, ensure_ascii=False))
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def test_help_lists_the_commands_without_loading_the_ml_stack() -> None:
    code = "import sys; from lab.__main__ import parser; parser(); print([m for m in ('torch', 'transformers', 'gradio') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    for command in (
        "new",
        "run",
        "generate",
        "import",
        "filter",
        "review",
        "train",
        "compare",
        "publish",
        "license",
        "status",
        "list",
    ):
        assert command in lab("--help").stdout


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["status", "nope"], 1, "no run"),
        (["generate"], 2, "usage"),
        (["filter", "20260101-000000-abcdef"], 1, "no run"),
        (["new", "--preset", "giant"], 2, "invalid choice"),
    ],
)
def test_wrong_input_gives_one_message_and_the_right_status(args: list[str], status: int, message: str) -> None:
    found = lab(*args)
    assert found.returncode == status
    assert message in found.stderr and "Traceback" not in found.stderr and not found.stdout


def test_an_openai_teacher_does_not_make_an_apache_student() -> None:
    found = json.loads(
        lab("license", "--teacher", "api:gpt-4o", "--student", "Qwen/Qwen2.5-0.5B-Instruct", "--json").stdout
    )
    assert found["verdict"] == "blocked" and found["conditions"]
    clean = json.loads(
        lab(
            "license", "--teacher", "Qwen/Qwen2.5-1.5B-Instruct", "--student", "Qwen/Qwen2.5-0.5B-Instruct", "--json"
        ).stdout
    )
    assert (clean["verdict"], clean["licence"]) == ("ok", "apache-2.0")


@pytest.mark.slow
def test_own_pairs_go_all_the_way_to_the_folders_that_would_be_uploaded(tmp_path: Path, lab_home: Path) -> None:
    run = told("new", "--title", "내 동화")["run"]
    assert told("import", run, str(own_pairs(tmp_path / "own.jsonl", 60)))["pairs"] == 60
    kept = told("filter", run, "--judge", "none")
    assert kept["pairs"] == 60 and kept["kept"] >= 50
    trained = told("train", run, "--epochs", "1", "--learning-rate", "0.001")
    assert trained["steps"] > 0 and trained["train_loss"] > 0
    report = told("compare", run, "--prompts", "4", "--max-new-tokens", "40")
    assert [m["name"] for m in report["models"]] == ["mini:student", "distilled"]
    published = told("publish", run, "--dry-run", "--data-licence", "cc0-1.0")
    folder = lab_home / "local" / run / "publish"
    assert (
        published["verdict"]
        and (folder / "dataset" / "README.md").exists()
        and (folder / "model" / "README.md").exists()
    )
    states = told("status", run)["stages"]
    assert states["compare"] == "done"


@pytest.mark.slow
def test_the_exercise_trains_three_arms_on_the_best_pairs_and_compares_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, student = new_run("mini"), tiny_model(tmp_path / "student")
    pairs = [replace(p, teacher="t", split="test" if i % 7 == 0 else "train") for i, p in enumerate(human_pairs(42, 5))]
    append_rows(run.pairs_file, [p.row() for p in pairs])
    append_rows(run.verdicts_file, [Verdict(p.id, True, judge=1 + i % 5).row() for i, p in enumerate(pairs)])
    write_json(run.stage_folder("generate") / "config.json", {"teacher": tiny_model(tmp_path / "teacher", 1)})
    write_json(run.stage_folder("compare") / "config.json", {"prompts": 4, "max_new_tokens": 16, "judge": "none"})
    flags = ["--student", student, "--epochs", "1", "--batch-size", "4", "--evaluations", "1"]
    assert main(["exercise", run.id, *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [a["arm"] for a in found["arms"]] == ["top-30", "top-50", "top-80"] == run.finished_arms()
    assert [a["pairs"] for a in found["arms"]] == [round(36 * share) for share in (0.3, 0.5, 0.8)]
    assert {m["name"] for m in found["report"]["models"]} >= {"top-30", "top-50", "top-80"}
    assert [run.config("train", a).keep_top for a in run.arms()] == [0.3, 0.5, 0.8]


def test_a_reader_that_has_read_enough_brings_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([sys.executable, "-m", "lab", "list"], stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
