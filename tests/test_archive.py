"""A whole run copied, deleted, brought back, packed and unpacked; a zip from anywhere is not believed."""

import io
import json
import zipfile

import pytest

from lab import archive
from lab.problems import Problem
from lab.records import Pair, Verdict, append_rows, write_json
from lab.run import find_run, home, new_run, runs


@pytest.fixture
def run():
    """A run with a pair, a verdict, weights, a checkpoint, a job."""
    made = new_run(title="토끼 실험")
    append_rows(made.pairs_file, [Pair("1", "부탁", "토끼가 왔어요.").row()])
    append_rows(made.verdicts_file, [Verdict("1", True).row()])
    arm = made.stage_folder("train", "distilled")
    write_json(arm / "config.json", {"epochs": 1.0})
    for name in ("adapter/adapter_model.safetensors", "adapter/training_args.bin", "checkpoint-3/state.json"):
        (arm / name).parent.mkdir(parents=True, exist_ok=True)
        (arm / name).write_bytes(b"x" * 100)
    write_json(made.job_file, {"state": "running", "pid": 1})
    return made


def zipped(tmp_path, files, name="own.zip"):
    """A zip of these files; ``run.json`` is a good one unless given."""
    meta = {"format": 1, "title": "가져온 실험", "preset": "mini", "seed": 0}
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for place, content in ({"run.json": json.dumps(meta)} | files).items():
            if content is not None:
                made.writestr(place, content)
    return path


def test_a_copy_has_its_own_id_and_no_job(run):
    copy = archive.duplicate(run, "사본")
    assert copy.id != run.id and find_run(copy.id).meta()["title"] == "사본"
    assert [p.output for p in copy.pairs()] == ["토끼가 왔어요."]
    assert not copy.job_file.exists() and run.job_file.exists()


def test_a_deleted_run_is_gone_until_it_is_brought_back(run):
    archive.delete(run)
    assert runs() == [] and archive.deleted("local") == run
    assert archive.undelete("local") == run
    assert runs() == [run]
    with pytest.raises(Problem, match="no deleted run"):
        archive.undelete("local")


def test_only_the_newest_deleted_runs_are_kept():
    made = [new_run() for _ in range(archive.KEPT_DELETED + 2)]
    for one in made:
        archive.delete(one)
    assert len(list((home() / "local" / ".trash").iterdir())) == archive.KEPT_DELETED
    assert archive.deleted("local") == made[-1]


def test_a_packed_run_comes_back_the_same_under_a_new_id(run, tmp_path):
    path = archive.pack(run, tmp_path)
    assert path.name == "토끼-실험.zip"
    names = zipfile.ZipFile(path).namelist()
    assert "train/distilled/adapter/adapter_model.safetensors" in names
    assert not [n for n in names if "checkpoint" in n or n.endswith(".bin") or n == "job.json"]
    back = archive.unpack(path, "local")
    assert back.id != run.id and back.meta()["title"] == "토끼 실험"
    assert [p.row() for p in back.pairs()] == [p.row() for p in run.pairs()]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"../../evil.json": "{}"}, "no file of a run"),
        ({"/etc/evil.json": "{}"}, "no file of a run"),
        ({"generate/../../evil.json": "{}"}, "no file of a run"),
        ({"generate/.hidden.json": "{}"}, "no file of a run"),
        ({"elsewhere/pairs.jsonl": "{}"}, "no file of a run"),
        ({"job.json": '{"pid": 1}'}, "no file of a run"),
        ({"train/x/model/pytorch_model.bin": "pickle"}, "may hold code"),
        ({"train/x/adapter/adapter_model.PKL": "pickle"}, "may hold code"),
        ({"train/x/model/modeling_evil.py": "import os"}, "may hold code"),
        ({"run.json": None}, "no run.json"),
        ({"run.json": '{"format": 99, "preset": "mini"}'}, "not of this version"),
        ({"run.json": '{"format": 1, "preset": "../../x"}'}, "not of this version"),
        ({"run.json": "[]"}, "not of this version"),
        ({"generate/pairs.jsonl": '{"id": 1}\n'}, "cannot be read"),
        ({"generate/pairs.jsonl": "nonsense\n"}, "broken JSON"),
        ({"generate/config.json": '{"pairs": -5}'}, "outside"),
        ({"compare/report.json": "0" * 3_000_000}, "unpacks to"),
    ],
)
def test_a_zip_that_is_not_a_run_is_refused_and_leaves_nothing(tmp_path, files, why):
    with pytest.raises(Problem, match=why):
        archive.unpack(zipped(tmp_path, files), "local")
    assert runs() == []
    assert [p for p in tmp_path.rglob("evil*")] == []
    assert [p for p in (home() / "local").glob("*")] == []


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("generate/pairs.jsonl")
    link.external_attr = 0o120777 << 16
    with pytest.raises(Problem, match="no file of a run"):
        archive.unpack(zipped(tmp_path, {link: "/etc/passwd"}), "local")


def test_a_zip_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    path = zipped(tmp_path, {"compare/answers.jsonl": "".join(f'{{"n": {i}}}\n' for i in range(20_000))})
    raw = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(raw)) as known:
        true = known.getinfo("compare/answers.jsonl").file_size
    path.write_bytes(raw.replace(true.to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(Problem):
        archive.unpack(path, "local", most_bytes=50_000)
    assert runs() == []


def test_a_zip_above_a_guests_limit_and_a_file_that_is_no_zip_are_refused(run, tmp_path):
    path = archive.pack(run, tmp_path)
    with pytest.raises(Problem, match="unpacks to"):
        archive.unpack(path, "g-1", most_bytes=50)
    (tmp_path / "no.zip").write_bytes(b"no zip at all")
    with pytest.raises(Problem, match="cannot be read"):
        archive.unpack(tmp_path / "no.zip", "g-1")
