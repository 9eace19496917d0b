"""Stages on rented hardware, against a loopback stand-in of Hugging Face Jobs that really runs what it is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import jobs, submit
from lab.__main__ import main
from lab.problems import Problem
from lab.records import append_rows, read_json, read_rows
from lab.run import Run, new_run
from lab.stages import publish
from lab.stages.train import human_pairs
from tests.fakejobs import FakeJobs

TOKEN = "hf_aliceSecretToken0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "LOOK", 0.2)
    monkeypatch.setattr(publish, "ATTEMPTS", 3)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobs]:
    with FakeJobs() as served:
        served.add_user(TOKEN, "alice")
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        # The only address is this machine's; the client must not think itself offline, whichever test ran before.
        monkeypatch.setenv("LAB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield served


@pytest.fixture
def run_() -> Run:
    made = new_run(title="맡긴 실험")
    append_rows(made.pairs_file, [p.row() for p in human_pairs(12, 0)])
    return made


def submitted(run_: Run, *more: str) -> int:
    return main(["submit", run_.id, "filter", "--flavor", "t4-small", "--yes", *more])


def container(*lines: str) -> Callable[[list[str]], list[str]]:
    """A job that says something and ends, in place of the stage."""
    return lambda command: ["bash", "-c", "\n".join(lines)]


def starts(hub: FakeJobs) -> int:
    return len([r for r in hub.requests if r[:2] == ("POST", "/api/jobs/alice")])


def everything_written(hub: FakeJobs, run_: Run) -> bytes:
    files = b"".join(p.read_bytes() for p in run_.folder.rglob("*") if p.is_file())
    repos = b"".join(hub.content(b) for r in hub.repos.values() for c in r.commits.values() for b in c.tree.values())
    shown = json.dumps([[j.spec["command"], j.spec["environment"], j.lines] for j in hub.jobs.values()])
    return files + repos + shown.encode()


def test_a_stage_goes_out_and_its_results_come_home(hub: FakeJobs, run_: Run, capsys: pytest.CaptureFixture) -> None:
    hub.fail("POST", r"/commit/main$", status=500).fail("GET", r"/logs$", drop="download", after=400, skip=1)
    hub.fail("GET", r"/api/jobs/alice/", status=503, skip=2)
    hub.fail("HEAD", r"/result-", status=500, times=-1)
    ask = ["--judge", "none", "--max-chars", "590", "--json"]
    assert submitted(run_, *ask) == 1  # done there, but the results cannot be fetched
    assert run_.state("filter") == "empty" and run_.submit_file.exists()
    hub.faults.clear()
    capsys.readouterr()
    assert submitted(run_, *ask) == 0

    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert facts["state"] == "COMPLETED" and facts["repo"] == f"alice/fairytale-{run_.id}"
    assert starts(hub) == 1 and "is taken up again" in told.err

    assert run_.state("filter") == "done"  # not stale: what it was made from is what is here
    assert run_.done("filter")["pairs"] == 12 and len(list(run_.verdicts())) == 12
    assert run_.config("filter").max_chars == 590
    events = [r["event"] for r in read_rows(run_.log_file)]
    assert events.count("begin") == 1 and events[-1] == "submit"  # the other side's events, each once
    job = jobs.look(run_)
    assert (job.state, job.command, job.stage, job.done, job.total) == ("done", "submit", "filter", 12, 12)
    assert not run_.submit_file.exists()

    assert hub.repo("dataset", facts["repo"]).private
    assert TOKEN.encode() not in everything_written(hub, run_)
    assert [j.spec["secrets"] for j in hub.jobs.values()] == [{"HF_TOKEN": TOKEN}]


def test_without_a_yes_the_price_is_told_and_nothing_is_sent(
    hub: FakeJobs, run_: Run, capsys: pytest.CaptureFixture
) -> None:
    assert main(["submit", run_.id, "filter", "--flavor", "t4-small"]) == 1
    assert "$0.40 an hour, at most $0.80" in capsys.readouterr().err
    assert not hub.jobs and not hub.repos


def test_a_wrong_flavor_lists_all_with_their_prices(hub: FakeJobs, run_: Run, capsys: pytest.CaptureFixture) -> None:
    assert main(["submit", run_.id, "filter", "--flavor", "t5", "--yes"]) == 1
    assert "cpu-basic ($0.01), t4-small ($0.40)" in capsys.readouterr().err


def test_a_flag_that_the_stage_does_not_know_is_wrong_usage(hub: FakeJobs, run_: Run) -> None:
    with pytest.raises(SystemExit, match="2"):
        submitted(run_, "--epochs", "3")
    assert not hub.repos


def test_a_start_whose_answer_is_lost_is_not_paid_twice(hub: FakeJobs, run_: Run) -> None:
    hub.container = container("echo here; exit 1")
    hub.fail("POST", r"/api/jobs/alice$", drop="response")
    assert submitted(run_) == 1
    assert len(hub.jobs) == 1


@pytest.mark.parametrize(("status", "word"), [(402, "billing"), (403, "may not"), (429, "wait")])
def test_a_refused_start_is_explained_and_stands_in_nobodys_way(
    hub: FakeJobs, run_: Run, status: int, word: str, capsys: pytest.CaptureFixture
) -> None:
    hub.fail("POST", r"/api/jobs/alice$", status=status, times=-1)
    assert submitted(run_) == 1
    assert word in capsys.readouterr().err
    assert not hub.jobs
    hub.faults.clear()
    hub.container = container("exit 1")
    main(["submit", run_.id, "generate", "--flavor", "t4-small", "--yes"])
    assert len(hub.jobs) == 1


def test_a_job_that_fails_says_why_and_where_its_log_is(
    hub: FakeJobs, run_: Run, capsys: pytest.CaptureFixture
) -> None:
    hub.container = container('echo \'@lab {"job": {"stage": "filter", "done": 5, "total": 12}}\'', "exit 3")
    assert submitted(run_) == 1
    told = capsys.readouterr().err
    assert "ended as ERROR: Job failed with exit code: 3" in told and "/jobs/alice/" in told
    job = jobs.look(run_)
    assert (job.state, job.done, job.total) == ("failed", 5, 12)
    assert run_.state("filter") == "empty" and not run_.submit_file.exists()


def test_lines_that_only_look_like_progress_are_shown_and_harm_nothing(
    hub: FakeJobs, run_: Run, capsys: pytest.CaptureFixture
) -> None:
    hub.container = container(
        "echo '@lab {torn'", "echo '@lab {\"row\": 1}'", 'echo \'@lab {"job": {"pid": 1}}\'', "exit 1"
    )
    assert submitted(run_) == 1
    assert "@lab {torn" in capsys.readouterr().err
    assert read_json(run_.job_file)["pid"] != 1


def test_a_stop_cancels_the_job(hub: FakeJobs, run_: Run) -> None:
    run_.stop_file.parent.mkdir(exist_ok=True)
    hub.container = container("echo begun; sleep 60")
    while_running(hub, lambda: jobs.stop(run_))
    assert submitted(run_) == 130
    assert [j.stage for j in hub.jobs.values()] == ["CANCELED"]
    assert jobs.look(run_).state == "stopped" and not run_.submit_file.exists()


def test_a_job_lost_from_sight_is_taken_up_again_and_not_started_twice(hub: FakeJobs, run_: Run) -> None:
    hub.container = container("echo 1; sleep 2; echo 2; exit 1")
    hub.fail("GET", r"^/api/jobs/alice/[0-9a-f]+$", status=404, times=-1)  # as if it were gone: this side gives up
    assert submitted(run_) == 1
    assert run_.submit_file.exists()
    hub.faults.clear()
    assert main(["submit", run_.id, "train", "--flavor", "t4-small", "--yes"]) == 1  # another stage has to wait
    assert submitted(run_) == 1
    assert starts(hub) == 1 and not run_.submit_file.exists()


def test_a_public_repository_is_refused(hub: FakeJobs, run_: Run, capsys: pytest.CaptureFixture) -> None:
    hub.create_repo("dataset", "alice/open")
    assert submitted(run_, "--repo", "alice/open") == 1
    assert "public" in capsys.readouterr().err and not hub.jobs
    assert list(hub.files("dataset", "alice/open")) == [".gitattributes"]


def test_a_result_that_is_no_run_changes_nothing_here(hub: FakeJobs, run_: Run, tmp_path: Path) -> None:
    put = (
        "import os, re, sys; from huggingface_hub import HfApi; s = sys.argv[1];"
        "a, r = re.search(r'lab.submit (\\S+) (\\S+)', s).groups();"
        "HfApi().upload_file(path_or_fileobj=b'PK no zip', path_in_repo=r, repo_id=a, repo_type='dataset')"
    )
    hub.container = lambda command: [sys.executable, "-c", put, command[2]]
    before = sorted(p.name for p in run_.folder.iterdir())
    assert submitted(run_) == 1
    assert {p.name for p in run_.folder.iterdir()} - {"job.json", "log.jsonl", ".submit.json"} == set(before)


@pytest.mark.parametrize("teacher", ["api:gpt-4o", "run:20200101-000000-abcdef/distilled", "."])
def test_a_model_that_is_only_here_is_refused(hub: FakeJobs, run_: Run, teacher: str) -> None:
    assert main(["submit", run_.id, "generate", "--flavor", "t4-small", "--yes", "--teacher", teacher]) == 1
    assert not hub.jobs and not hub.repos


def test_offline_and_without_a_token_nothing_is_asked(
    run_: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert submitted(run_) == 1
    assert "LAB_OFFLINE" in capsys.readouterr().err


def test_the_code_is_packed_the_same_way_every_time_and_without_leftovers() -> None:
    import io
    import zipfile

    packed = submit.code_zip()
    assert submit.code_zip() == packed
    names = zipfile.ZipFile(io.BytesIO(packed)).namelist()
    assert {"requirements.txt", "lab/__main__.py", "lab/stages/filter.py"} <= set(names)
    assert not [n for n in names if "__pycache__" in n or n.split("/")[0] not in ("lab", "data", "requirements.txt")]


def while_running(hub: FakeJobs, act: Callable[[], None]) -> None:
    """Do ``act`` as soon as a job has said something."""
    import threading
    import time

    def wait() -> None:
        while not any(j.lines for j in hub.jobs.values()):
            time.sleep(0.05)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_prices_are_an_hour_whatever_the_unit() -> None:
    class Api:
        def list_jobs_hardware(self):
            from huggingface_hub._jobs_api import JobHardwareInfo

            unit = {"unitCostMicroUSD": 0, "cpu": "", "ram": "", "prettyName": "X"}
            return [
                JobHardwareInfo(name="a", unitCostUSD=0.5, unitLabel="hour", **unit),
                JobHardwareInfo(name="b", unitCostUSD=0.01, unitLabel="minute", **unit),
            ]

    assert submit.price(Api(), "a", None)["dollars"] == 0.5
    assert submit.price(Api(), "b", None)["dollars"] == pytest.approx(0.6)
    with pytest.raises(Problem, match="no flavor"):
        submit.price(Api(), "c", None)
