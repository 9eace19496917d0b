"""Generate writes each row once, resumes, refuses to mix settings; imported pairs are checked line by line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lab import domain
from lab.config import GenerateConfig
from lab.models import LocalModel, Sampling, open_model
from lab.problems import Problem
from lab.progress import Progress
from lab.run import find_run, new_run
from lab.stages import generate

SHORT = GenerateConfig(pairs=6, max_new_tokens=24, batch_size=4)


@pytest.fixture(scope="module")
def teacher() -> LocalModel:
    """The embedded teacher."""
    model = open_model("mini:teacher")
    assert isinstance(model, LocalModel)
    return model


def _generate(run, settings: GenerateConfig) -> dict:
    return generate.run(run, settings, Progress(run, "generate", []))


def test_a_seed_gives_the_same_stories_and_growing_keeps_what_is_there() -> None:
    one, other = new_run(), new_run()
    _generate(one, SHORT)
    first = [(p.id, p.output) for p in one.pairs()]
    assert _generate(one, GenerateConfig(pairs=9, max_new_tokens=24, batch_size=4))["pairs"] == 9
    _generate(other, GenerateConfig(pairs=6, max_new_tokens=24, batch_size=4))
    assert [(p.id, p.output) for p in other.pairs()] == first
    assert [(p.id, p.output) for p in one.pairs()][:6] == first
    assert max(Counter(p.id for p in one.pairs()).values()) == 1


def test_another_setting_is_never_mixed_in() -> None:
    run = new_run()
    _generate(run, SHORT)
    before = run.pairs_file.read_bytes()
    with pytest.raises(Problem, match="another setting"):
        _generate(run, GenerateConfig(pairs=6, max_new_tokens=24, seed=5))
    assert run.pairs_file.read_bytes() == before and run.state("generate") == "done"


def test_a_killed_generation_goes_on_without_loss_or_doubles() -> None:
    run = new_run()
    command = [
        sys.executable,
        "-m",
        "lab",
        "generate",
        run.id,
        "--pairs",
        "40",
        "--max-new-tokens",
        "30",
        "--batch-size",
        "2",
    ]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
    for _ in range(600):
        if run.pairs_file.exists() and run.pairs_file.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with run.pairs_file.open("ab") as file:
        file.write(b'{"id": "torn')
    kept = [p.id for p in run.pairs()]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=os.environ.copy(), check=True)
    assert json.loads(done.stdout)["pairs"] == 40
    ids = [p.id for p in run.pairs()]
    assert len(set(ids)) == len(ids) == 40 and ids[: len(kept)] == kept


def test_a_teacher_that_is_not_there_is_named() -> None:
    run = new_run()
    with pytest.raises(Problem, match="no-such"):
        _generate(run, GenerateConfig(pairs=1, teacher="somebody/no-such-model"))
    assert not run.pairs_file.exists()


def test_batching_changes_nothing(teacher: LocalModel) -> None:
    asked = [p.instruction for p in domain.prompts(7, 3)]
    greedy = Sampling(temperature=0.0, max_new_tokens=40)
    together = dict(teacher.write(asked, greedy, [0] * 7, batch_size=7))
    alone = {i: next(teacher.write([a], greedy, [0], batch_size=1))[1] for i, a in enumerate(asked)}
    assert {i: a.text for i, a in together.items()} == {i: a.text for i, a in alone.items()}
    assert {i: (a.tokens, a.finish) for i, a in together.items()} == {i: (a.tokens, a.finish) for i, a in alone.items()}


def test_greedy_decoding_equals_the_librarys_own(teacher: LocalModel) -> None:
    import torch

    ids = teacher.chat_ids(domain.prompts(1, 4)[0].instruction)
    out = teacher.model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids) :].tolist()
    ours = [token for step in teacher.stream([ids], Sampling(0.0, 1.0, 30), [0]) for _, token in step]
    assert ours == out


def test_scores_equal_a_plain_forward_pass(teacher: LocalModel) -> None:
    import torch

    items = [
        (teacher.chat_ids(s["instruction"]), teacher.answer_ids(s["output"])) for s in domain.reference_stories()[:3]
    ]
    for (prompt, answer), scored in zip(items, teacher.score(items), strict=True):
        logits = teacher.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        plain = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert scored == pytest.approx(plain.tolist(), abs=1e-3)


def test_the_tokenizer_reloads_to_exactly_its_own_ids(teacher: LocalModel) -> None:
    from tokenizers import Tokenizer

    text = '토끼 토토는 "우아!" 하고 도토리 12개를 세었어요. ☃ 끝'
    raw = Tokenizer.from_file(str(domain.DATA / "mini" / "teacher" / "tokenizer.json"))
    assert teacher.tokenizer(text).input_ids == raw.encode(text).ids
    assert teacher.tokenizer.decode(teacher.tokenizer(text).input_ids) == text
    assert len(teacher.tokenizer) == teacher.model.config.vocab_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pair"),
        ("{broken\n", "line 1"),
        ('{"instruction": "a"}\n', "output"),
        ('{"instruction": "a", "output": " "}\n', "line 1"),
    ],
)
def test_a_bad_import_is_explained_and_leaves_the_run_as_it_was(tmp_path: Path, text: str, message: str) -> None:
    run, path = new_run(), tmp_path / "own.jsonl"
    path.write_text(text)
    with pytest.raises(Problem, match=message):
        generate.import_pairs(run, path)
    assert run.state("generate") == "empty"


def test_own_pairs_take_the_teachers_place(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in domain.reference_stories()[:5]))
    run = new_run()
    assert generate.import_pairs(run, path)["pairs"] == 5
    assert find_run(run.id).state("generate") == "done"
    assert all(p.teacher == "import" for p in run.pairs())
