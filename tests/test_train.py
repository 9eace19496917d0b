"""Training an arm: what is trained, saved, logged, stopped and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab.config import TrainConfig
from lab.models import open_model
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_json, read_rows
from lab.run import Run, new_run
from lab.stages import train as stage
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


@pytest.fixture
def run_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with 20 kept pairs (16 train, 4 test) and 4 rejected ones."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "home"))
    made = new_run("mini")
    human = stage.human_pairs(24, 5)
    pairs = [replace(p, split="test" if i % 6 == 0 else "train", teacher="t") for i, p in enumerate(human)]
    append_rows(made.pairs_file, [p.row() for p in pairs])
    append_rows(made.verdicts_file, [Verdict(p.id, i < 20, judge=1 + i / 6).row() for i, p in enumerate(pairs)])
    return made


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
    assert stage.precision(device, capability) == {"bf16": bf16, "fp16": fp16, "use_cpu": use_cpu, "dtype": dtype}


def test_effective_batch_is_what_was_asked_for() -> None:
    for batch in (1, 7, 16, 96, 130):
        for parameters in (2_000_000, 500_000_000):
            assert batch % stage.rows_at_a_time(batch, parameters) == 0
    assert stage.rows_at_a_time(16, 500_000_000) == 4
    assert stage.rows_at_a_time(16, 2_000_000) == 16


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
    assert [r["step"] for r in log if "eval_loss" in r][:2] == [4, 8]


def test_the_saved_arm_opens_by_its_name_and_differs_from_its_base(run_: Run, student: str) -> None:
    stage.run(run_, config(student), Progress(run_, "train", []))
    arm, base = open_model(f"run:{run_.id}/distilled"), open_model(student)
    items = [(base.chat_ids("토끼 이야기"), base.answer_ids("옛날에 토끼가 살았어요."))]
    assert sum(arm.score(items)[0]) > sum(base.score(items)[0])


def test_only_answer_tokens_are_learned(run_: Run, student: str) -> None:
    """The first logged loss is the mean over the answer's tokens alone, computed here with plain torch."""
    stage.run(run_, config(student, batch_size=64, epochs=1.0, lora_dropout=0.0), Progress(run_, "train", []))
    first = next(read_rows(run_.stage_folder("train", "distilled") / "log.jsonl"))["loss"]
    base = open_model(student)
    end = base.tokenizer("\n", add_special_tokens=False).input_ids
    pairs = [p for p in run_.kept_pairs() if p.split == "train"]
    scores = base.score([(base.chat_ids(p.instruction), [*base.answer_ids(p.output), *end]) for p in pairs])
    assert first == pytest.approx(-sum(map(sum, scores)) / sum(map(len, scores)), rel=0.01)


def test_full_fine_tuning_saves_a_whole_model(run_: Run, student: str) -> None:
    facts = stage.run(run_, config(student, method="full", arm="whole", epochs=1.0), Progress(run_, "train", []))
    assert facts["trainable"] == facts["parameters"]
    assert open_model(f"run:{run_.id}/whole").revision != open_model(student).revision


def test_stopped_and_resumed_equals_uninterrupted(run_: Run, student: str) -> None:
    straight = stage.run(run_, config(student, arm="straight"), Progress(run_, "train", []))
    broken = config(student, arm="broken")
    with pytest.raises(Stopped):
        stage.run(run_, broken, StopAt(run_, "train", []))
    folder = run_.stage_folder("train", "broken")
    assert (folder / "checkpoint-3").exists() and run_.done("train", "broken") is None
    resumed = stage.run(run_, broken, Progress(run_, "train", []))
    assert resumed["resumed_at"] == 3 and resumed["steps"] == straight["steps"]

    def losses(arm: str) -> list[tuple[int, float]]:
        return [(r["step"], r["loss"]) for r in read_rows(run_.stage_folder("train", arm) / "log.jsonl") if "loss" in r]

    assert [s for s, _ in losses("broken")] == [s for s, _ in losses("straight")]
    assert [x for _, x in losses("broken")] == pytest.approx([x for _, x in losses("straight")], rel=1e-4)
    a, b = (
        load_file(run_.stage_folder("train", x) / "adapter" / "adapter_model.safetensors")
        for x in ("straight", "broken")
    )
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)


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


@pytest.mark.parametrize("method", ["scratch", "soft"])
def test_methods_to_come_say_so(run_: Run, student: str, method: str) -> None:
    with pytest.raises(Problem, match="not yet available"):
        stage.run(run_, config(student, method=method), Progress(run_, "train", []))


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


def test_rows_are_conversations() -> None:
    row = stage.conversation(Pair("1", "써 줘", "옛날에"))
    assert json.dumps(row, ensure_ascii=False) == (
        '{"prompt": [{"role": "user", "content": "써 줘"}], "completion": [{"role": "assistant", "content": "옛날에"}]}'
    )
