"""Domain, records, configuration, runs and jobs."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lab import config, domain, jobs
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, append_rows, content_id, read_rows, repair, write_json
from lab.run import Run, find_run, new_run
from lab.ui.job import panel


@pytest.mark.parametrize(
    ("word", "pair", "form"),
    [
        ("길", "으로/로", "로"),
        ("강", "으로/로", "으로"),
        ("토토", "은/는", "는"),
        ("곰", "은/는", "은"),
        ("구슬", "을/를", "을"),
    ],
)
def test_particles_follow_the_last_syllable(word: str, pair: str, form: str) -> None:
    assert domain.particle(word, *pair.split("/")) == form


def test_prompts_are_seeded_different_and_grow_by_appending() -> None:
    few, many = domain.prompts(50, 7), domain.prompts(400, 7)
    assert many[:50] == few
    assert len({p.instruction for p in many}) == 400
    assert domain.prompts(50, 8) != few


def test_prompts_cover_the_grid_evenly() -> None:
    counts = Counter(p.character for p in domain.prompts(800, 0))
    assert len(counts) == 160
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(domain.phrasings()) >= 20


def test_every_prompt_names_its_character_and_words() -> None:
    for prompt in domain.prompts(300, 1):
        assert prompt.character in prompt.instruction
        assert all(word in prompt.instruction for word in prompt.keywords)


def test_a_group_never_stands_in_both_splits() -> None:
    assert domain.split_of("토끼 토토", ["비", "당근"]) == domain.split_of("토끼 토토", ("당근", "비"))
    share = sum(p.split == "test" for p in domain.prompts(2000, 0)) / 2000
    assert 0.06 < share < 0.14


def test_own_characters_and_words_replace_the_built_in_ones() -> None:
    grid = domain.Grid.of("용 불꽃\n", "별, 달\n")
    assert {(p.character, p.keywords) for p in domain.prompts(5, 0, grid)} == {("용 불꽃", ("별", "달"))}


def test_a_torn_last_line_is_skipped_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    append_rows(path, [{"id": "1"}, {"id": "2"}])
    with path.open("a") as file:
        file.write('{"id": "3", "out')
    assert [r["id"] for r in read_rows(path)] == ["1", "2"]
    repair(path)
    append_rows(path, [{"id": "4"}])
    assert [r["id"] for r in read_rows(path)] == ["1", "2", "4"]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"id": "1"}\nnonsense\n{"id": "2"}\n')
    with pytest.raises(Problem, match="line 2"):
        list(read_rows(path))


def test_rows_keep_korean_and_ids_depend_on_everything(tmp_path: Path) -> None:
    pair = Pair("x", "동화 써 줘", "옛날 옛날에", "토끼 토토", ("비", "별"))
    append_rows(tmp_path / "p.jsonl", [pair.row()])
    assert "옛날" in (tmp_path / "p.jsonl").read_text("utf-8")
    assert Pair.of(next(read_rows(tmp_path / "p.jsonl"))) == pair
    assert content_id("a", 1) != content_id("a", 2)


@pytest.mark.parametrize("stage", config.STAGES)
def test_every_knob_has_both_labels_and_a_flag_that_comes_back(stage: str) -> None:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser, stage)
    for name, f in config.STAGES[stage].__dataclass_fields__.items():
        assert f.metadata["en"] and f.metadata["ko"], name
    for preset in config.PRESETS:
        settings = config.preset_config(stage, preset)
        given = {k: v for k, v in vars(parser.parse_args(config.as_flags(settings))).items() if v is not None}
        assert config.checked(config.STAGES[stage](), **given) == settings


@pytest.mark.parametrize(
    ("name", "value"), [("pairs", 0), ("temperature", 9), ("pairs", "many"), ("temperature", float("nan"))]
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(Problem, match=name):
        config.checked(config.GenerateConfig(), **{name: value})


@pytest.mark.parametrize("run_id", ["../x", "", "nope", "a/b", "20260101-000000-zzzzzz"])
def test_unknown_and_forged_run_ids_are_refused(run_id: str) -> None:
    with pytest.raises(Problem, match="no run"):
        find_run(run_id)


def test_a_run_belongs_to_its_owner() -> None:
    run = new_run(owner="u-somebody")
    assert find_run(run.id, "u-somebody") == run
    with pytest.raises(Problem):
        find_run(run.id, "u-other")


def test_arm_names_cannot_leave_the_folder() -> None:
    with pytest.raises(Problem, match="Arm name"):
        new_run().stage_folder("train", "../../x")


def test_a_stage_is_stale_when_its_inputs_change() -> None:
    run = new_run()
    assert run.state("filter") == "empty"
    append_rows(run.pairs_file, [Pair("1", "a", "b").row()])
    run.begin("filter", config.FilterConfig())
    assert run.state("filter") == "partial"
    run.finish("filter", {"pairs": 1})
    assert run.state("filter") == "done"
    append_rows(run.pairs_file, [Pair("2", "a", "c").row()])
    assert run.state("filter") == "stale"


def test_a_folder_that_cannot_be_written_gives_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("LAB_HOME", str(blocked))
    with pytest.raises(Problem, match="Cannot write"):
        new_run()


def _wait(run: Run, *states: str) -> jobs.Job:
    for _ in range(600):
        job = jobs.look(run)
        if job.state in states:
            return job
        time.sleep(0.1)
    raise AssertionError(jobs.look(run))


def test_a_worker_reports_its_problem_in_both_languages() -> None:
    run = new_run()
    jobs.start(run, ["filter", run.id])
    job = _wait(run, "failed")
    assert job.error and job.error["en"] and job.error["ko"]


def test_a_worker_that_ends_before_its_parent_has_written_keeps_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run()
    spawn = subprocess.Popen

    def slow(args: list[str], **options: object) -> subprocess.Popen:
        worker = spawn([sys.executable, "-c", FAILS_AT_ONCE, *args[3:]], **options)
        time.sleep(2)  # a busy machine: the worker could have ended by now
        return worker

    monkeypatch.setattr(jobs.subprocess, "Popen", slow)
    jobs.start(run, ["filter", run.id])
    assert _wait(run, "failed", "died").state == "failed"


FAILS_AT_ONCE = """
import sys
from lab import jobs
from lab.problems import Problem
from lab.run import find_run
with jobs.at_work(find_run(sys.argv[2]), "filter", sys.argv[1:], say=False):
    raise Problem("nothing", "없음")
"""


def test_a_killed_worker_shows_as_died_and_the_run_can_go_on() -> None:
    run = new_run()
    jobs.start(run, ["generate", run.id, "--pairs", "2000"])
    pid = json.loads(run.job_file.read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    _wait(run, "died")
    with jobs.at_work(run, "again", [], say=False) as progress:
        progress.begin("again", 1)
        progress.step(1)
    assert jobs.look(run).state == "done"


def test_work_under_way_moves_the_bar_and_the_time_left_and_not_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run()
    progress = Progress(run, "generate", [], say=True)
    progress.begin("generate", 100)
    progress._stage_started -= 60
    progress._written = 0.0
    progress.step(0, 50.0, tokens_per_second=12.5)
    job = jobs.look(run)
    assert (job.done, job.under_way) == (0, 50.0) and 55 < job.seconds_left < 65
    assert re.fullmatch(r"generate: 0/100 · 6\d s left · tokens_per_second 12.5\n", capsys.readouterr().err)
    assert 'style="width:50.0%"' in panel(replace(job, state="running"), "en")


def test_the_panel_names_the_models_at_work_beside_the_newest_note() -> None:
    job = jobs.Job(
        "running",
        stage="compare",
        total=9,
        facts={"judged": "mini:teacher, <own>"},
        note={"en": "Halved.", "ko": "반."},
    )
    shown = panel(job, "en")
    assert "being judged: the stories of mini:teacher, &lt;own&gt;</div>" in shown and "Halved.</div>" in shown
    assert "심사받는 이야기의 모델: mini:teacher, &lt;own&gt;" in panel(job, "ko")
    assert "mini:teacher" not in panel(replace(job, state="done"), "en")


def test_no_time_is_told_from_the_first_moments() -> None:
    progress = Progress(new_run(), "compare", [])
    progress.begin("compare", 1000)
    progress._stage_started -= 10
    progress.step(0, 0.001)
    assert progress.job["seconds_left"] is None, "four months"
    progress.step(1)
    assert 9_000 < progress.job["seconds_left"] < 11_000
    progress.begin("train", 5)
    progress._stage_started -= 10
    progress.step(0, 0.1)
    assert 400 < progress.job["seconds_left"] < 600, "a hundredth of the whole is enough"


def test_only_one_job_at_a_time_on_a_run() -> None:
    run = new_run()
    with jobs.at_work(run, "first", [], say=False), pytest.raises(Problem, match="already"):
        jobs.start(run, ["filter", run.id])


def test_a_job_that_waits_for_the_machine_knows_its_place_and_can_be_stopped() -> None:
    holder, waiter = new_run(), new_run()
    append_rows(waiter.pairs_file, [Pair("1", "a", "b").row()])
    with jobs.at_work(holder, "hold", [], say=False):
        jobs.start(waiter, ["filter", waiter.id])
        job = _wait(waiter, "waiting")
        for _ in range(100):
            job = jobs.look(waiter)
            if job.place:
                break
            time.sleep(0.1)
        assert job.place == 1
        jobs.stop(waiter)
        _wait(waiter, "stopped")


def test_a_reused_process_id_is_not_taken_for_the_worker() -> None:
    run = new_run()
    write_json(run.job_file, {"state": "running", "pid": os.getpid(), "born": "1", "command": "generate"})
    assert jobs.look(run).state == "died"
