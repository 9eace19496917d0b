"""The finished run that a newcomer can look at."""

import pytest

from lab import archive, example
from lab.config import STAGES
from lab.records import Pair, append_rows
from lab.run import new_run, runs


def test_everybody_gets_a_copy_of_their_own(tmp_path, monkeypatch):
    made = new_run(title="example")
    append_rows(made.pairs_file, [Pair("1", "부탁", "토끼가 왔어요.").row()])
    monkeypatch.setattr(example, "FILE", archive.pack(made, tmp_path))
    one, two = example.take("g-1", "보기"), example.take("g-2", "보기")
    assert one.id != two.id and [r.id for r in runs("g-1")] == [one.id]
    assert one.meta()["title"] == "보기" and [p.output for p in one.pairs()] == ["토끼가 왔어요."]


@pytest.mark.skipif(not example.FILE.exists(), reason="the embedded pair's example has not been built")
def test_the_shipped_example_is_finished_and_up_to_date():
    run = example.take("local", "보기")
    assert {stage: run.state(stage) for stage in STAGES} == dict.fromkeys(STAGES, "done")
    assert example.FILE.stat().st_size < 10e6
