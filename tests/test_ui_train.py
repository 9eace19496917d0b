"""The Train tab: the table of arms, the live numbers, the answers of every evaluation, what an arm can become."""

from __future__ import annotations

import os
import zipfile
from html import escape
from pathlib import Path

import pytest

from lab.problems import Problem
from lab.records import Verdict, append_rows, write_json
from lab.run import Run, new_run
from lab.stages.train import human_pairs
from lab.ui import train, train_charts
from lab.ui.texts import say


@pytest.fixture
def run() -> Run:
    """A run with pairs and verdicts, so that an arm can be up to date."""
    made = new_run("mini")
    pairs = human_pairs(9, 1)
    append_rows(made.pairs_file, [p.row() for p in pairs])
    append_rows(made.verdicts_file, [Verdict(p.id, True).row() for p in pairs])
    return made


def arm(
    run: Run, name: str, losses: list[float], unseen: list[float] = (), done: bool = True, **config: object
) -> Path:
    """An arm as the trainer leaves it: a row for every step, an evaluation after every second one."""
    run.begin("train", run.config("train", name, arm=name, **config), name)
    folder = run.stage_folder("train", name)
    for step, loss in enumerate(losses, 1):
        row = {"step": step, "loss": loss, "learning_rate": 1e-4, "grad_norm": 0.5, "memory": 2**30 * 3, "seconds": 0.5}
        append_rows(folder / "log.jsonl", [row | {"tokens": 100 * step}])
        if step % 2 == 0 and step // 2 <= len(unseen):
            append_rows(folder / "log.jsonl", [{"step": step, "eval_loss": unseen[step // 2 - 1], "seconds": 0.1}])
    write_json(folder / "inputs.json", {"hash": "this training"})
    if done:
        facts = {"steps": len(losses), "eval_loss": unseen[-1] if unseen else None, "pairs": 7, "seconds": 2.0}
        run.finish("train", facts | {"parameters": 2_000_000, "trainable": 40_000}, name)
    return folder


def test_an_empty_run_says_what_to_do(run: Run) -> None:
    arms, beside, table = train.ledger(run, "en")
    assert table.count(say("empty_train", "en")) == 1
    assert arms["visible"] is False and beside["visible"] is False
    assert train.live(run, "en")[0] == "" and train.told_at(run, "en")[1] == ""
    assert train.after(run, "en")[0]["visible"] is False
    assert train.ledger(None, "ko")[2] and train.live(None, "ko")[0] == ""


def test_every_arm_has_a_row_and_the_best_on_unseen_stories_stands_out(run: Run) -> None:
    arm(run, "top-30", [3.0, 2.0, 1.5, 1.0], [2.5, 2.25], keep_top=0.3, method="lora")
    arm(run, "human", [3.0, 2.0], [2.75], data="human", method="full")
    arms, _, table = train.ledger(run, "en")
    assert [choice for _, choice in arms["choices"]] == [train.NEWEST, "top-30", "human"] and arms["visible"]
    for cell in ("top-30", "30%", "LoRA", "<b>2.250</b>", "2.750", "2.00%", "by people", "full"):
        assert cell in table
    assert "<b>2.750</b>" not in table
    assert table.count(say("state_done", "en")) == 2
    append_rows(run.verdicts_file, [Verdict(next(run.pairs()).id, False).row()])
    assert train.ledger(run, "en")[2].count(say("state_stale", "en")) == 2


def test_notes_of_a_training_stand_below_its_row_in_the_readers_language(run: Run) -> None:
    folder = arm(run, "distilled", [3.0], done=False)
    notes = [{"en": "Batch <halved>", "ko": "배치를 줄였습니다"}, "plain words"]
    append_rows(folder / "log.jsonl", [{"step": 1, "note": note} for note in notes])
    table = train.ledger(run, "en")[2]
    assert "Batch &lt;halved&gt;" in table and "plain words" in table and say("state_partial", "en") in table
    assert "배치를 줄였습니다" in train.ledger(run, "ko")[2]


def test_the_newest_arm_is_shown_until_a_person_chooses_another(run: Run) -> None:
    first = arm(run, "first", [3.0])
    arm(run, "second", [2.0])
    os.utime(first / "config.json", (1, 1))
    assert "<h3>second</h3>" in train.live(run, "en", train.NEWEST)[0]
    assert "<h3>first</h3>" in train.live(run, "en", "first")[0]
    # The choice of another run, which this one has no arm for.
    assert "<h3>second</h3>" in train.live(run, "en", "gone")[0]
    assert (
        train.ledger(run, "en", "gone")[0]["value"] == train.NEWEST
        and "value" not in train.ledger(run, "en", "first")[0]
    )


def test_live_numbers_are_those_of_the_log_and_of_the_job(run: Run) -> None:
    arm(run, "distilled", [3.0, 2.0, 1.5], [2.5], done=False)
    counts, *plots = train.live(run, "en")
    for said in ("1.500", "2.500", "0.0001", "0.50", "200", "3.0 GB"):
        assert f"<b>{said}</b>" in counts
    assert say("time_left", "en") not in counts and all(plot["visible"] for plot in plots)
    job = {"command": "train", "stage": "train", "state": "running", "pid": os.getpid(), "argv": []}
    write_json(run.job_file, job | {"done": 3, "total": 40, "seconds_left": 300.0})
    counts = train.live(run, "en")[0]
    assert "<b>3 / 40</b>" in counts and "<b>5 min</b>" in counts
    assert say("short_running", "en") in train.ledger(run, "en")[2]


def test_a_log_without_gradients_and_memory_shows_what_it_has(run: Run) -> None:
    folder = run.stage_folder("train", "distilled")
    run.begin("train", run.config("train", "distilled"), "distilled")
    append_rows(folder / "log.jsonl", [{"step": 1, "loss": 2.0, "grad_norm": None}])
    counts, curve, rate, norm, speed, memory = train.live(run, "en")
    assert "2.000" in counts and curve["visible"]
    assert not any(plot["visible"] for plot in (rate, norm, speed, memory))


def test_other_arms_lie_over_the_chosen_ones_losses(run: Run) -> None:
    for name in ("a", "b", "c"):
        arm(run, name, [3.0, 2.0], [2.5] if name != "b" else [])
    names = lambda beside: [t.name for t in train.live(run, "en", "a", beside)[1]["value"].data]  # noqa: E731
    both = [say("loss", "en"), say("eval_loss", "en")]
    assert names([]) == [*both, say("arm_loss", "en", arm="b"), say("arm_unseen", "en", arm="c")]
    assert names(["c"]) == [*both, say("arm_unseen", "en", arm="c")]
    assert names(["of another run"]) == names([])
    drawn = train.live(run, "en", "a", [])[1]["value"].data
    assert len({(t.line.color, t.line.dash) for t in drawn}) == len(drawn)


def test_long_trainings_are_thinned_but_end_where_they_end() -> None:
    rows = [{"step": s, "loss": 1 / s} for s in range(1, 5001)]
    found = train_charts.points(rows, "loss")
    assert len(found) <= train_charts.MOST and found[-1] == (5000, 1 / 5000)
    assert found == sorted(found)


def test_tokens_per_second_are_those_of_the_last_steps() -> None:
    slow = [{"step": s, "tokens": 10 * s, "seconds": 1.0} for s in range(1, 21)]
    fast = [{"step": 20 + s, "tokens": 200 + 1000 * s, "seconds": 0.5} for s in range(1, 21)]
    found = train_charts.speeds([*slow, *fast])
    assert found[0] == (1, 10) and found[19] == (20, 10) and found[-1] == (40, 2000)


def test_the_slider_goes_from_the_first_evaluation_to_the_newest(run: Run) -> None:
    folder = arm(run, "distilled", [3.0, 2.0, 1.0, 0.5, 0.4, 0.3], [2.5, 2.25, 2.125], done=False)
    for step, text in ((2, "말"), (4, "토끼가 <살았"), (6, "토끼가 살았어요.")):
        append_rows(folder / "answers.jsonl", [{"step": step, "instruction": "토끼 동화", "text": text}])
    slider, shown = train.told_at(run, "en", "", 100)
    assert slider["visible"] and "토끼가 살았어요." in shown and "step 6" in shown and "2.125" in shown
    assert "토끼가 &lt;살았" in train.told_at(run, "en", "", 50)[1]
    first = train.told_at(run, "en", "", 0)[1]
    assert ">말</div>" in first and "evaluation 1 of 3" in first and "2.500" in first
    append_rows(folder / "answers.jsonl", [{"step": 8, "instruction": "토끼 동화", "text": "끝"}])
    assert ">끝</div>" in train.told_at(run, "en", "", 100)[1]  # the right end follows the training


def test_a_step_answered_twice_and_a_silent_student(run: Run) -> None:
    folder = arm(run, "distilled", [3.0], done=False)
    rows = [{"step": 1, "instruction": "가", "text": "옛 대답"}, {"step": 1, "instruction": "가", "text": ""}]
    append_rows(folder / "answers.jsonl", rows)
    slider, shown = train.told_at(run, "ko")
    assert slider["visible"] is False and "옛 대답" not in shown and say("said_nothing", "ko") in shown


def test_what_an_arm_became_is_listed_packed_and_forgotten_with_its_training(run: Run) -> None:
    folder = arm(run, "distilled", [3.0])
    (folder / "adapter").mkdir()
    drawer, there, merge, take = train.after(run, "en")
    assert drawer["visible"] and f"lab export {run.id} --arm distilled" in there
    assert merge["visible"] and not take["visible"] and train.pack(run, "distilled") == []
    for path, text in ((folder / "merged" / "config.json", "{}"), (folder / "gguf" / "distilled-f16.gguf", "GGUF")):
        path.parent.mkdir()
        path.write_text(text)
    write_json(folder / "export.json", {"merged": "this training", "f16": "this training", "../x": "this training"})
    _, there, _, take = train.after(run, "en")
    assert take["visible"] and "llama-server -m distilled-f16.gguf" in there and say("use_merged", "en") in there
    zipped, gguf = train.pack(run, "distilled")
    assert zipfile.ZipFile(zipped).namelist() == ["distilled/config.json"] and gguf.read_text() == "GGUF"
    write_json(folder / "inputs.json", {"hash": "a newer training"})
    assert not train.after(run, "en")[3]["visible"] and train.pack(run, "distilled") == []


def test_an_arm_trained_as_a_whole_has_no_merge_button(run: Run) -> None:
    (arm(run, "distilled", [3.0], method="full") / "model").mkdir()
    assert train.after(run, "en")[2]["visible"] is False


FOUND = {
    "bytes": 3 * 2**30,
    "free_bytes": 2 * 2**30,
    "seconds": 600.0,
    "measured": False,
    "steps": 1234,
    "trainable_share": 0.0123,
    "rows": 4,
    "accumulation": 4,
    "device": "cuda",
    "precision": "float16",
    "warning": {"en": "Will <hardly> fit.", "ko": "모자랄 것 같습니다."},
}


def test_the_estimate_shows_memory_time_and_a_warning() -> None:
    shown = train.estimated(FOUND, "en")
    for said in ("3.0 GB / 2.0 GB", "10 min", "1,234", "1.2%", "4 × 4", "cuda · float16", "Will &lt;hardly&gt; fit."):
        assert said in shown
    assert say("reckoned_time", "en") in shown and "모자랄" in train.estimated(FOUND, "ko")
    fits = train.estimated(FOUND | {"warning": None, "measured": True}, "en")
    assert "alert" not in fits and escape(say("measured_time", "en")) in fits


def test_a_question_to_the_command_line_gives_its_object_or_its_message(run: Run) -> None:
    assert train.asked(["status", run.id], "en")["run"] == run.id
    with pytest.raises(Problem, match="찾을 수 없습니다"):
        train.asked(["status", "20260101-000000-abcdef"], "ko")
