"""Training an arm: what is trained, saved, logged, stopped and gone on with."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from lab import __main__ as cli
from lab import domain, fit, jobs, mini, scratch, training
from lab.config import CompareConfig, TrainConfig, checked, preset_config
from lab.models import Sampling, open_model
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_json, read_rows
from lab.run import Run, new_run
from lab.stages import compare
from lab.stages import train as stage
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers during the training are cut short: an untrained student never stops by itself."""
    monkeypatch.setattr(training, "WATCHED_TOKENS", 12)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


def run_of(pairs: list[Pair], kept: int) -> Run:
    """A run that holds these pairs, the first ``kept`` of them kept and ever better judged."""
    made = new_run("mini")
    append_rows(made.pairs_file, [p.row() for p in pairs])
    append_rows(made.verdicts_file, [Verdict(p.id, i < kept, judge=1 + i / 6).row() for i, p in enumerate(pairs)])
    return made


@pytest.fixture
def run_(lab_home: Path) -> Run:
    """A run with 20 kept pairs (16 train, 4 test) and 4 rejected ones; the stories are cut short to be quick."""
    human = [replace(p, output=p.output[:100], teacher="t") for p in stage.human_pairs(24, 5)]
    return run_of([replace(p, split="test" if i % 6 == 0 else "train") for i, p in enumerate(human)], 20)


@pytest.fixture
def astray(lab_home: Path) -> Run:
    """A run whose training stories lead away from its test stories: what is learned makes the held-out loss worse."""
    train = [Pair(f"a{i}", "토끼", "토끼 토끼 토끼 토끼 토끼 토끼 토끼") for i in range(16)]
    other = " ".join(dict.fromkeys(w for words in domain.words().values() for w in words[:8]))[:200]
    test = [Pair(f"b{i}", "바다", f"{other} {i}", split="test") for i in range(4)]
    return run_of(train + test, 20)


def config(student: str, **knobs: object) -> TrainConfig:
    return TrainConfig(
        student=student, **{"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-2, "evaluations": 2} | knobs
    )


class StopAt(Progress):
    """Somebody presses stop at a step."""

    at = 3

    def step(self, done: int, stop: bool = True, **facts: object) -> None:
        super().step(done, stop, **facts)
        if done == self.at:
            self.interrupted = True


@pytest.mark.parametrize(
    ("device", "capability", "bf16", "fp16", "use_cpu", "dtype"),
    [
        ("cuda", (7, 5), False, True, False, "float16"),
        ("cuda", (8, 0), True, False, False, "bfloat16"),
        ("cuda", (9, 0), True, False, False, "bfloat16"),
        ("cpu", None, False, False, True, "float32"),
    ],
)
def test_precision_follows_the_compute_capability(device, capability, bf16, fp16, use_cpu, dtype) -> None:
    assert fit.precision(device, capability) == fit.Precision(bf16, fp16, use_cpu, getattr(torch, dtype))


QWEN = fit.Size(494_032_768, 24, 896, 4864, 128, 151_936)
"""Qwen2.5-0.5B."""
CARD = 16_000_000_000


def test_a_t4_takes_four_rows_of_512_tokens_of_a_half_billion_student() -> None:
    assert fit.trainable(QWEN, TrainConfig()) == 2_162_688
    assert fit.memory(QWEN, TrainConfig(), 4 * 512, torch.float16) < 14e9


@pytest.mark.parametrize("batch", [1, 7, 16, 96, 130])
@pytest.mark.parametrize("free", [10**8, CARD, 10**12])
def test_the_effective_batch_is_what_was_asked_for(batch: int, free: int) -> None:
    plan = fit.plan(QWEN, TrainConfig(batch_size=batch), 512, torch.float16, free)
    assert plan.rows * plan.accumulation == batch and plan.rows <= fit.MOST_ROWS
    assert plan.fits is (plan.bytes <= free) is (plan.warning("cuda") is None)


def test_activations_are_recomputed_only_where_memory_is_short() -> None:
    roomy, short, none = (
        fit.plan(QWEN, TrainConfig(), 1024, torch.float16, free) for free in (CARD, 5_000_000_000, 10**9)
    )
    assert not roomy.recompute and roomy.rows >= 4
    assert short.recompute and short.fits and short.rows >= 4
    assert none.recompute and none.rows == 1 and not none.fits


def test_what_takes_more_memory() -> None:
    def needed(**knobs: object) -> int:
        return fit.memory(QWEN, TrainConfig(**knobs), 2048, torch.float16)

    assert needed(four_bit=True) < needed() < needed(method="full")
    assert fit.memory(QWEN, TrainConfig(), 2048, torch.float16, teacher=QWEN) > needed() + 2 * QWEN.parameters


def test_processes_share_the_effective_batch() -> None:
    assert fit.plan(QWEN, TrainConfig(), 512, torch.float16, CARD, processes=2).rows == 8
    with pytest.raises(Problem, match="multiple of 3"):
        fit.plan(QWEN, TrainConfig(), 512, torch.float16, CARD, processes=3)


def test_the_story_model_has_thirty_million_weights() -> None:
    assert fit.look_up("scratch:30m").parameters == pytest.approx(30e6, rel=0.01)
    assert fit.look_up("scratch:mini").parameters < 3e6


def test_rows_of_similar_length_meet_in_an_order_that_seed_and_epoch_decide() -> None:
    lengths = [(7 * i) % 101 for i in range(250)]

    def order(seed: int, epoch: int) -> list[int]:
        sampler = training.Grouped(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = order(0, 0)
    assert sorted(first) == list(range(250)) and first == order(0, 0)
    assert first != order(0, 1) and first != order(1, 0)
    batches = [[lengths[i] for i in first[k : k + 8]] for k in range(0, 248, 8)]
    padding = sum(max(b) * len(b) - sum(b) for b in batches) / sum(lengths)
    assert padding < 0.1
    assert [max(b) for b in batches] != sorted((max(b) for b in batches), reverse=True)


def test_lora_moves_the_adapter_and_leaves_the_base(run_: Run, student: str) -> None:
    before = load_file(Path(student) / "model.safetensors")
    facts = stage.run(run_, config(student), Progress(run_, "train", []))
    after = load_file(Path(student) / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)
    folder = run_.stage_folder("train", "distilled")
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    moved = [v for k, v in adapter.items() if "lora_B" in k]
    assert len(moved) == 8 and all(v.abs().max() > 0 and v.dtype == torch.float32 for v in moved)
    assert read_json(folder / "adapter" / "adapter_config.json")["base_model_name_or_path"] == student
    assert facts["trainable"] == sum(v.numel() for v in adapter.values()) < facts["parameters"]
    assert not (folder / "adapter" / "README.md").exists()
    assert run_.state("train") == "done" and run_.done("train", "distilled")["steps"] == facts["steps"] == 8
    log = list(read_rows(folder / "log.jsonl"))
    steps = [r for r in log if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 9))
    assert {"learning_rate", "grad_norm", "tokens", "seconds"} <= steps[0].keys()
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(r["memory"] > 10**7 for r in steps)
    assert [r["step"] for r in log if "eval_loss" in r] == [4, 8]
    assert facts["eval_loss"] == min(r["eval_loss"] for r in log if "eval_loss" in r)
    assert facts["batch"] == "4 x 1 x 1" and facts["tokens"] == steps[-1]["tokens"]


def test_the_best_checkpoint_is_kept_and_overfitting_told(astray: Run, student: str) -> None:
    facts = stage.run(astray, config(student, method="full", epochs=3.0, evaluations=6), Progress(astray, "train", []))
    folder = astray.stage_folder("train", "distilled")
    held_out = {r["step"]: r["eval_loss"] for r in read_rows(folder / "log.jsonl") if "eval_loss" in r}
    assert facts["best_step"] == min(held_out, key=held_out.get) < facts["steps"] == 12
    assert facts["eval_loss"] == min(held_out.values())
    kept, best = (
        load_file(folder / place / "model.safetensors") for place in ("model", f"checkpoint-{facts['best_step']}")
    )
    assert all(torch.equal(kept[k], best[k]) for k in kept)
    assert any("Overfitting" in w["en"] for w in facts["warnings"])
    assert any("Overfitting" in r["note"]["en"] for r in read_rows(folder / "log.jsonl") if "note" in r)


def test_early_stopping_ends_when_the_held_out_loss_stays(astray: Run, student: str) -> None:
    patient = config(student, method="full", epochs=4.0, evaluations=16, early_stopping=True)
    facts = stage.run(astray, patient, Progress(astray, "train", []))
    assert facts["best_step"] + training.PATIENCE == facts["steps"] < 16
    broken, stopper = replace(patient, arm="broken"), StopAt(astray, "train", [])
    stopper.at = facts["steps"] - 1
    with pytest.raises(Stopped):
        stage.run(astray, broken, stopper)
    assert stage.run(astray, broken, Progress(astray, "train", []))["steps"] == facts["steps"]


def test_requests_that_leave_no_room_for_an_answer_are_explained(run_: Run, student: str) -> None:
    with pytest.raises(Problem, match="No request is shorter than 8 tokens"):
        stage.run(run_, config(student, max_length=8), Progress(run_, "train", []))


def test_three_requests_are_answered_at_every_evaluation_and_again_by_the_saved_arm(
    run_: Run, student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student that is opened later is the one that was in memory: token by token the same answers."""
    facts = stage.run(run_, config(student), Progress(run_, "train", []))
    rows = list(read_rows(run_.stage_folder("train", "distilled") / "answers.jsonl"))
    assert [r["step"] for r in rows] == [4, 4, 4, 8, 8, 8]
    asked = {p.instruction for p in run_.kept_pairs() if p.split == "test"}
    assert {r["instruction"] for r in rows} <= asked
    then = {r["instruction"]: r["text"] for r in rows if r["step"] == facts["best_step"]}
    arm = open_model(f"run:{run_.id}/distilled")
    sampling = Sampling(0.0, 1.0, training.WATCHED_TOKENS)
    now = {q: next(arm.write([q], sampling, [0]))[1].text for q in then}
    assert now == then and all(now.values())


def test_the_saved_arm_opens_by_its_name_and_differs_from_its_base(run_: Run, student: str) -> None:
    stage.run(run_, config(student), Progress(run_, "train", []))
    arm, base = open_model(f"run:{run_.id}/distilled"), open_model(student)
    items = [(base.chat_ids("토끼 이야기"), base.answer_ids("옛날에 토끼가 살았어요."))]
    assert sum(arm.score(items)[0]) > sum(base.score(items)[0])


def test_only_answer_tokens_are_learned(run_: Run, student: str) -> None:
    """The first logged loss is the mean over the answer's tokens and its end token, computed here with plain torch."""
    stage.run(run_, config(student, batch_size=64, epochs=1.0, lora_dropout=0.0), Progress(run_, "train", []))
    first = next(read_rows(run_.stage_folder("train", "distilled") / "log.jsonl"))["loss"]
    base = open_model(student)
    pairs = [p for p in run_.kept_pairs() if p.split == "train"]
    scores = base.score([(base.chat_ids(p.instruction), base.answer_ids(p.output)) for p in pairs])
    assert first == pytest.approx(-sum(map(sum, scores)) / sum(map(len, scores)), rel=1e-4)


def test_full_fine_tuning_saves_a_whole_model(run_: Run, student: str) -> None:
    facts = stage.run(run_, config(student, method="full", arm="whole", epochs=1.0), Progress(run_, "train", []))
    assert facts["trainable"] == facts["parameters"]
    assert open_model(f"run:{run_.id}/whole").revision != open_model(student).revision


def losses(run_: Run, arm: str) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_rows(run_.stage_folder("train", arm) / "log.jsonl") if "loss" in r]


def adapter(run_: Run, arm: str) -> dict[str, torch.Tensor]:
    return load_file(run_.stage_folder("train", arm) / "adapter" / "adapter_model.safetensors")


def test_stopped_and_resumed_equals_uninterrupted(run_: Run, student: str) -> None:
    """In the middle of the second epoch, with dropout and length grouping: every loss and every weight to the bit."""
    straight = stage.run(run_, config(student, arm="straight"), Progress(run_, "train", []))
    broken = config(student, arm="broken")
    stopper = StopAt(run_, "train", [])
    stopper.at = 6
    with pytest.raises(Stopped):
        stage.run(run_, broken, stopper)
    folder = run_.stage_folder("train", "broken")
    assert (folder / "checkpoint-6").exists() and run_.done("train", "broken") is None
    resumed = stage.run(run_, broken, Progress(run_, "train", []))
    assert resumed["resumed_at"] == 6 and resumed["steps"] == straight["steps"]
    assert losses(run_, "broken") == losses(run_, "straight")
    assert resumed["eval_loss"] == straight["eval_loss"] and resumed["tokens"] == straight["tokens"]
    a, b = adapter(run_, "straight"), adapter(run_, "broken")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_training_goes_on_without_loss_or_doubles(run_: Run, student: str) -> None:
    """SIGKILL between two checkpoints: steps after the last one are taken again and stand in the log once."""
    knobs = {"epochs": 6.0, "evaluations": 3}
    straight = stage.run(run_, config(student, arm="straight", **knobs), Progress(run_, "train", []))
    broken = config(student, arm="broken", **knobs)
    folder = run_.stage_folder("train", "broken")
    line = straight["command"].replace("--arm straight", "--arm broken")
    worker = subprocess.Popen([sys.executable, *shlex.split(line)[1:]], stderr=subprocess.DEVNULL)
    while not (folder / "checkpoint-8" / "trainer_state.json").exists():
        assert worker.poll() is None
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    assert jobs.look(run_).state == "died" and run_.done("train", "broken") is None
    resumed = stage.run(run_, broken, Progress(run_, "train", []))
    assert resumed["resumed_at"] in (8, 16) and resumed["steps"] == straight["steps"] == 24
    assert losses(run_, "broken") == losses(run_, "straight")
    a, b = adapter(run_, "straight"), adapter(run_, "broken")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_out_of_memory_halves_the_rows_and_goes_on(run_: Run, student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out once, in the third step. Without dropout the losses are those of a training that never met it."""
    stage.run(run_, config(student, arm="straight", lora_dropout=0.0), Progress(run_, "train", []))
    taken = []
    real = training.HardTrainer.training_step

    def cramped(self, *args: object, **kwargs: object) -> torch.Tensor:
        taken.append(self.state.global_step)
        if len(taken) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(training.HardTrainer, "training_step", cramped, raising=False)
    facts = stage.run(run_, config(student, arm="cramped", lora_dropout=0.0), Progress(run_, "train", []))
    assert facts["batch"] == "2 x 2 x 1" and facts["steps"] == 8
    assert taken == [0, 1, 2, *(s for s in range(2, 8) for _ in range(2))]
    assert [s for s, _ in losses(run_, "cramped")] == list(range(1, 9))
    assert [x for _, x in losses(run_, "cramped")] == pytest.approx([x for _, x in losses(run_, "straight")], rel=1e-3)
    notes = [r for r in read_rows(run_.stage_folder("train", "cramped") / "log.jsonl") if "note" in r]
    assert [n["step"] for n in notes] == [2] and "halved to 2 rows" in notes[0]["note"]["en"]


def test_a_single_row_that_does_not_fit_is_a_problem(run_: Run, student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training.HardTrainer, "training_step", full, raising=False)
    with pytest.raises(Problem, match="micro-batch of 1 rows"):
        stage.run(run_, config(student, batch_size=2), Progress(run_, "train", []))


def test_another_configuration_starts_afresh(run_: Run, student: str) -> None:
    with pytest.raises(Stopped):
        stage.run(run_, config(student), StopAt(run_, "train", []))
    facts = stage.run(run_, config(student, epochs=1.0), Progress(run_, "train", []))
    assert facts["resumed_at"] == 0 and facts["steps"] == 4
    assert not (run_.stage_folder("train", "distilled") / "checkpoint-3").exists()


def test_a_finished_arm_is_not_trained_twice(run_: Run, student: str) -> None:
    first = stage.run(run_, config(student, epochs=1.0), Progress(run_, "train", []))
    again = stage.run(run_, config(student, epochs=1.0), Progress(run_, "train", []))
    assert again["seconds"] == first["seconds"] and run_.done("train", "distilled")["steps"] == first["steps"]
    with pytest.raises(Problem, match="adapter itself"):
        stage.run(run_, config(f"run:{run_.id}/distilled", arm="second"), Progress(run_, "train", []))


def test_data_of_an_arm(run_: Run, student: str) -> None:
    kept, test = stage.training_pairs(run_, TrainConfig())
    assert (len(kept), len(test)) == (16, 4)
    everything, _ = stage.training_pairs(run_, TrainConfig(data="unfiltered"))
    assert len(everything) == 20
    human, same_test = stage.training_pairs(run_, TrainConfig(data="human"))
    assert len(human) == len(kept) and same_test == test and {p.teacher for p in human} == {"human"}
    half, _ = stage.training_pairs(run_, TrainConfig(keep_top=0.5))
    assert half == kept[8:]


def test_human_stories_hold_what_they_were_asked_for() -> None:
    for pair in stage.human_pairs(50, 1):
        assert "{" not in pair.output + pair.instruction
        assert pair.keywords[0] in pair.output and pair.keywords[1] in pair.output
        assert pair.character in pair.instruction and pair.split == "train"


def test_too_few_pairs_are_explained(run_: Run, student: str) -> None:
    with pytest.raises(Problem, match="Only 2 pairs"):
        stage.run(run_, config(student, keep_top=0.1), Progress(run_, "train", []))
    assert not run_.stage_folder("train", "distilled").exists()


def test_from_scratch_the_student_has_a_vocabulary_of_its_own(run_: Run) -> None:
    facts = stage.run(
        run_, config("mini:student", method="scratch", arm="own", epochs=1.0), Progress(run_, "train", [])
    )
    assert facts["student"] == "scratch:mini" == run_.config("train", "own").student
    opened = open_model(f"run:{run_.id}/own")
    assert opened.parameters == facts["parameters"] == facts["trainable"] < fit.look_up("scratch:mini").parameters + 1
    assert len(opened.tokenizer) == opened.model.config.vocab_size <= 2048
    pairs = [p for p in run_.kept_pairs() if p.split == "train"]
    learned = mini.learn_tokenizer([t for p in pairs for t in (p.instruction, p.output)], 2048)
    for text in (pairs[0].output, '토끼가 3번 "와!" 하고 웃었어요 🦊.', "<|im_start|>user\n뷁<|im_end|>"):
        assert opened.tokenizer(text).input_ids == learned(text).input_ids
        assert opened.tokenizer.decode(opened.tokenizer(text).input_ids) == text
    assert opened.answer_ids("끝")[-1] == opened.model.generation_config.eos_token_id == opened.end_ids[0]
    assert [e.who for e in compare.entries(run_, CompareConfig(arms="own"))] == ["teacher", "arm"]
    assert not (run_.stage_folder("train", "own") / "start").exists()


def test_a_model_from_scratch_resumes_too(run_: Run) -> None:
    own = config("scratch:mini", method="scratch", arm="own", epochs=1.0)
    straight = stage.run(run_, replace(own, arm="straight"), Progress(run_, "train", []))
    with pytest.raises(Stopped):
        stage.run(run_, own, StopAt(run_, "train", []))
    resumed = stage.run(run_, own, Progress(run_, "train", []))
    assert resumed["resumed_at"] == 3 and resumed["eval_loss"] == straight["eval_loss"]
    assert losses(run_, "own") == losses(run_, "straight")


def test_soft_learns_the_teachers_distribution(run_: Run, student: str, tmp_path: Path) -> None:
    """The first loss is the mean divergence from teacher to student over answer tokens, computed here with plain torch."""
    teacher = tiny_model(tmp_path / "teacher", seed=3, layers=3)
    soft = config(student, method="soft", teacher=teacher, batch_size=16, epochs=4.0, lora_dropout=0.0)
    facts = stage.run(run_, soft, Progress(run_, "train", []))
    found = losses(run_, "distilled")
    expected, tokens = 0.0, 0
    models = [open_model(teacher), open_model(student)]
    for pair in (p for p in run_.kept_pairs() if p.split == "train"):
        prompt, answer = models[0].chat_ids(pair.instruction), models[0].answer_ids(pair.output)
        with torch.no_grad():
            t, s = (
                m.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                for m in models
            )
        expected, tokens = expected + (t.exp() * (t - s)).sum().item(), tokens + len(answer)
    assert found[0][1] == pytest.approx(expected / tokens, rel=1e-3)
    assert found[-1][1] < found[0][1]
    assert facts["tokens"] > 0 and facts["trainable"] < facts["parameters"]
    assert (run_.stage_folder("train", "distilled") / "adapter").exists()


def test_soft_refuses_what_shares_no_vocabulary(run_: Run, student: str, tmp_path: Path) -> None:
    scratch.build("scratch:mini", list(run_.pairs()), 0, tmp_path / "other")
    for teacher, why in (
        (str(tmp_path / "other"), "one vocabulary"),
        ("api:gpt-oss-20b", "needs the teacher's weights"),
    ):
        with pytest.raises(Problem, match=why):
            stage.run(run_, config(student, method="soft", teacher=teacher), Progress(run_, "train", []))


def test_a_4_bit_base_needs_a_gpu(run_: Run, student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Problem, match="needs a CUDA GPU"):
        stage.run(run_, config(student, four_bit=True), Progress(run_, "train", []))
    with pytest.raises(Problem, match="cannot be packed"):
        stage.run(run_, config(student, four_bit=True, method="full"), Progress(run_, "train", []))


def test_an_adapter_learns_on_a_4_bit_base(run_: Run, student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes packs on a CPU too, slowly: enough to see that the adapter alone is trained, in fp32."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(training, "may_pack", lambda: True)
    facts = stage.run(run_, config(student, four_bit=True, epochs=1.0), Progress(run_, "train", []))
    weights = adapter(run_, "distilled")
    assert facts["trainable"] == sum(v.numel() for v in weights.values())
    assert all(v.dtype is torch.float32 for v in weights.values())
    assert all(v.abs().max() > 0 for k, v in weights.items() if "lora_B" in k)


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"student": "api:gpt-oss-20b"}, "behind an endpoint"),
        ({"student": "scratch:30m"}, "no weights to start from"),
        ({"data": "human", "human_file": "nowhere.jsonl"}, "Cannot read"),
    ],
)
def test_what_cannot_be_trained_is_explained(run_: Run, knobs: dict[str, str], why: str) -> None:
    with pytest.raises(Problem, match=why):
        stage.run(run_, TrainConfig(**knobs), Progress(run_, "train", []))


def test_a_persons_own_stories(run_: Run, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    append_rows(own, [{"instruction": f"{i}번 이야기", "output": f"{i}번 토끼가 살았어요."} for i in range(30)])
    train, _ = stage.training_pairs(run_, TrainConfig(data="human", human_file=str(own)))
    assert len(train) == 16 and {p.teacher for p in train} == {"human"} and all("번 토끼" in p.output for p in train)
    gone = TrainConfig(data="human", human_file=str(tmp_path / "gone.jsonl"), arm="people")
    kept = run_.stage_folder("train", "people") / "human.jsonl"
    kept.parent.mkdir(parents=True)
    shutil.copyfile(own, kept)
    assert stage.training_pairs(run_, gone)[0] == train
    append_rows(own, [{"instruction": "이야기가 없어요"}])
    with pytest.raises(Problem, match="line 31"):
        stage.training_pairs(run_, TrainConfig(data="human", human_file=str(own)))


def test_pairs_that_give_the_test_away_are_left_out() -> None:
    test = [Pair("t", "써 줘", "옛날에 토끼가 살았어요.", "토끼 토토", ("사과", "연못"))]
    same_story = Pair("1", "다른 말", "옛날에  토끼가 살았어요.")
    same_group = Pair("2", "써 줘", "다른 이야기", "토끼 토토", ("연못", "사과"))
    fresh = Pair("3", "써 줘", "다른 이야기", "토끼 토토", ("사과", "나무"))
    assert stage.apart([same_story, same_group, fresh], test) == [fresh]


def test_a_leak_is_left_out_and_told(run_: Run, student: str) -> None:
    kept = run_.kept_pairs()
    test = next(p for p in kept if p.split == "test")
    leak = replace(test, id="leak", split="train")
    append_rows(run_.pairs_file, [leak.row()])
    append_rows(run_.verdicts_file, [Verdict("leak", True, judge=4).row()])
    facts = stage.run(run_, config(student, epochs=1.0), Progress(run_, "train", []))
    assert (facts["pairs"], facts["left_out"]) == (16, 1)
    notes = [r["note"]["en"] for r in read_rows(run_.stage_folder("train", "distilled") / "log.jsonl") if "note" in r]
    assert any("1 training pairs" in n for n in notes)


def with_template(folder: Path, template: str | None) -> str:
    """A tiny student with another chat template."""
    spec = tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(spec)
    tokenizer.chat_template = template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return spec


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "has no chat template"),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", "never learn to stop"),
    ],
)
def test_a_student_that_could_not_learn_to_stop_is_refused(
    run_: Run, tmp_path: Path, template: str | None, why: str
) -> None:
    with pytest.raises(Problem, match=why):
        stage.run(run_, config(with_template(tmp_path / "s", template)), Progress(run_, "train", []))


def test_pairs_that_are_cut_are_told(run_: Run, student: str) -> None:
    facts = stage.run(run_, config(student, max_length=64, epochs=1.0), Progress(run_, "train", []))
    assert any("of 16 pairs were cut at 64 tokens" in w["en"] for w in facts["warnings"])


def test_a_training_without_one_optimizer_step_is_a_fault(
    run_: Run, student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when every step overflows in fp16: the losses look alive, the weights never move."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(Problem, match="No weight has changed after 4 steps"):
        stage.run(run_, config(student, epochs=1.0), Progress(run_, "train", []))
    assert run_.done("train", "distilled") is None


def test_an_unusual_share_of_trained_weights_is_told_for_a_large_student_only() -> None:
    usual = fit.trainable(QWEN, TrainConfig()) / QWEN.parameters
    low, high = training.USUAL_SHARE
    assert low < usual < high
    assert training.share_warning(TrainConfig(), QWEN.parameters, usual) is None
    assert "LoRA rank 256" in training.share_warning(TrainConfig(lora_r=256), QWEN.parameters, 0.07)[0]
    assert training.share_warning(TrainConfig(), 2_000_000, 0.1) is None


def test_the_command_of_done_json_trains_the_same_again(run_: Run, student: str) -> None:
    made = config(student, arm="다시", epochs=1.0, lora_targets="q_proj, v_proj")
    facts = stage.run(run_, made, Progress(run_, "train", []))
    python, module, lab, *rest = shlex.split(facts["command"])
    given = vars(cli.parser().parse_args(rest))
    options = {k: v for k, v in given.items() if k in TrainConfig.__dataclass_fields__}
    assert [python, module, lab, given["run"]] == ["python", "-m", "lab", run_.id]
    assert checked(preset_config("train", "mini"), **options) == made


def test_an_estimate_before_the_start(run_: Run, student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(student)
    before = stage.estimate(run_, made)
    assert before["fits"] and before["warning"] is None and not before["measured"]
    facts = stage.run(run_, made, Progress(run_, "train", []))
    for same in ("steps", "pairs", "trainable", "parameters"):
        assert before[same] == facts[same]
    assert before["tokens"] == pytest.approx(facts["tokens"], rel=0.1)
    after = stage.estimate(run_, made)
    # Given to a tenth of a second, which is much of a training as short as this one.
    assert after["measured"] and after["seconds"] == pytest.approx(facts["seconds"], rel=0.1, abs=0.06)
    monkeypatch.setattr(fit, "free_memory", lambda device: 10**6)
    short = stage.estimate(run_, made)
    assert not short["fits"] and "hardly fit" in short["warning"]["en"]


SPREAD = """
# accelerate spreads weights over GPUs alone; told that these two processes are such, it does so here.
import sys
from accelerate import state
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
made = state.PartialState.__init__

def init(self, *args, **kwargs):
    made(self, *args, **kwargs)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

state.PartialState.__init__ = init
from lab import training
from lab.__main__ import main
step = training.HardTrainer.training_step

def spread(self, *args, **kwargs):
    assert all(isinstance(p, DTensor) for p in self.model.parameters())
    return step(self, *args, **kwargs)

training.HardTrainer.training_step = spread
sys.exit(main(sys.argv[1:]))
"""


def launched(file: Path, program: list[str], run_: Run, student: str, method: str) -> dict[str, Any]:
    """What the training of arm "two" by two processes of accelerate launch prints."""
    knobs = ["--student", student, "--method", method, "--epochs", "2", "--batch-size", "4", "--learning-rate", "0.01"]
    knobs += ["--lora-dropout", "0", "--evaluations", "2", "--json"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [*launcher, "--main_process_port", "0", *program, "train", run_.id, "--arm", "two", *knobs],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


LAUNCH = Path(__file__).resolve().parent.parent / "launch"


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(run_: Run, student: str) -> None:
    """accelerate launch with two CPU processes: the same losses, one set of files, one JSON object."""
    one = stage.run(run_, config(student, arm="one", lora_dropout=0.0), Progress(run_, "train", []))
    two = launched(LAUNCH / "cpu.yaml", ["-m", "lab"], run_, student, "lora")
    assert two["batch"] == "2 x 1 x 2" and two["steps"] == one["steps"]
    assert [s for s, _ in losses(run_, "two")] == list(range(1, 9))
    assert [x for _, x in losses(run_, "two")] == pytest.approx([x for _, x in losses(run_, "one")], rel=1e-3)
    assert two["tokens"] == one["tokens"]
    a, b = adapter(run_, "one"), adapter(run_, "two")
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a)


@pytest.mark.slow
def test_weights_spread_over_two_processes_learn_what_one_learns(run_: Run, student: str, tmp_path: Path) -> None:
    """The FSDP file, on two CPU processes: every weight lies in pieces, the losses and the saved model are the same."""
    file, program = tmp_path / "fsdp.yaml", tmp_path / "spread.py"
    file.write_text((LAUNCH / "fsdp.yaml").read_text("utf-8") + "use_cpu: true\n", "utf-8")
    program.write_text(SPREAD, "utf-8")
    one = stage.run(run_, config(student, arm="one", method="full"), Progress(run_, "train", []))
    two = launched(file, [str(program)], run_, student, "full")
    assert two["batch"] == "2 x 1 x 2" and two["steps"] == one["steps"]
    assert [x for _, x in losses(run_, "two")] == pytest.approx([x for _, x in losses(run_, "one")], rel=1e-3)
    a, b = (open_model(f"run:{run_.id}/{arm}").model.state_dict() for arm in ("one", "two"))
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a)


def test_a_loss_that_breaks_down_is_explained(run_: Run, tmp_path: Path) -> None:
    """A student with a broken weight gives NaN from the first step on."""
    from safetensors.torch import save_file

    spec = tiny_model(tmp_path / "broken")
    weights = load_file(Path(spec) / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, Path(spec) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Problem, match="loss became nan"):
        stage.run(run_, config(spec), Progress(run_, "train", []))
    assert run_.done("train", "distilled") is None
