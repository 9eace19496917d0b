"""submit: one stage of a run on rented hardware, through Hugging Face Jobs.

Run and code travel in a private dataset repository; there the very same command works on the copy, tells its progress
in its log, and puts the run back into the repository; here the results take the stage's place. The run's job panel
shows it all, its stop cancels it, and the same command takes a job up again that was lost from sight. The account's
token goes along as a secret of the job and is written nowhere.

``python -m lab.submit REPO RESULT RUN STAGE FLAGS`` is the other end: it runs there, around the stage.
"""

from __future__ import annotations

import io
import json
import os
import queue
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab import archive
from lab.config import StageConfig
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import append_rows, read_json, write_json
from lab.run import Run
from lab.stages.publish import client, patiently, signed_in

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("generate", "filter", "train", "compare")
IMAGE = "ghcr.io/astral-sh/uv:python3.11-bookworm"
"""Python 3.11 as here, and uv, which installs requirements.txt; torch's wheel brings its CUDA along."""
MARK = "@lab "
"""Begins a line of the job's log that is meant for this side."""
SHOWN = ("stage", "done", "total", "under_way", "seconds_left", "facts", "note")
"""What of the other side's job.json this side's panel shows."""
LOOK = 3.0
"""Seconds between two questions how the job stands; each is a request to the Hub."""
MOST_HOURS = 168
PUSH = 600.0
"""Seconds of work that a job that is killed can lose at most."""
LOCAL = ("teacher", "student", "judge", "reference", "human_file")
"""Options that may name a model or a file of this machine."""
_STARTED_BY = "lab-submit"


def run(
    run_: Run,
    stage: str,
    config: StageConfig,
    flags: list[str],
    flavor: str,
    hours: float,
    progress: Progress,
    agree: Callable[[str], bool],
    repo: str = "",
    image: str = IMAGE,
    token: str | None = None,
) -> dict[str, Any]:
    """Rent ``flavor`` for at most ``hours``, let it do the stage, bring the results home.

    ``agree`` is asked with the price before anything is uploaded or started. Facts: run, stage, flavor, job, url, repo,
    state, seconds, dollars. Raises Stopped after a cancel, Problem when the job failed; in both cases what it had saved
    is home. A job of this run that is under way is taken up again instead, whatever ``flavor`` says.
    """
    progress.write(stage=stage)
    api, token = _signed_in(token)
    if not 0 < hours <= MOST_HOURS:
        raise Problem(
            f"Option hours: {hours:g} is outside 0 to {MOST_HOURS}.",
            f"옵션 hours: {hours:g} 값이 범위(0~{MOST_HOURS})를 벗어났습니다.",
        )
    name = patiently("sign in", progress, api.whoami)["name"]
    known = read_json(run_.submit_file)
    job = _find(api, run_, known, progress) if known else None
    if job and known["stage"] != stage:
        raise Problem(
            f"Run {run_.id} still has a {known['stage']} job out there. `python -m lab submit {run_.id} {known['stage']} --flavor {known['flavor']}` brings it home first.",
            f"실험 {run_.id} 에는 아직 돌아오지 않은 원격 작업이 있습니다({known['stage']}). 먼저 `python -m lab submit {run_.id} {known['stage']} --flavor {known['flavor']}` 로 결과를 가져와 주세요.",
        )
    if job is None:
        _must_be_reachable(run_, stage, config)
        hour = price(api, flavor, progress)
        if not agree(_offer(run_, stage, flavor, hour, hours)):
            raise Stopped
        repo = repo or f"{name}/fairytale-{run_.id}"
        known = {
            "stage": stage,
            "flavor": flavor,
            "repo": repo,
            "namespace": name,
            "label": secrets.token_hex(8),
            "per_hour": hour["dollars"],
            "heard": 0,
            "shown": {},
        }
        job = _start(api, run_, known, flags, hours, image, token, progress)
    else:
        progress.note(
            f"A {stage} job of this run is under way; it is taken up again.",
            f"이 실험의 원격 작업({stage})이 이미 진행 중이어서 이어서 지켜봅니다.",
        )
        progress.write(**known["shown"])
    known |= {"job": job.id}
    write_json(run_.submit_file, known)
    progress.note(
        f"On {known['flavor']} at Hugging Face, {_money(known['per_hour'])} an hour: {job.url}",
        f"허깅페이스 {known['flavor']} 에서 진행 중, 시간당 {_money(known['per_hour'])}: {job.url}",
    )
    last = ""
    for line in _follow(api, run_, known, progress):
        last = _hear(line, known, progress) or last
    ended = _inspect(api, run_, known)
    came = _bring_home(api, run_, known)
    run_.submit_file.unlink(missing_ok=True)
    spent = (ended.durations.running_secs if ended.durations else None) or 0
    facts = {
        "run": run_.id,
        "stage": stage,
        "flavor": known["flavor"],
        "job": job.id,
        "url": job.url,
        "repo": known["repo"],
        "state": str(getattr(ended.status.stage, "value", ended.status.stage)),
        "seconds": spent,
        "dollars": round(spent / 3600 * known["per_hour"], 4),
    }
    progress.log(event="submit", **facts)
    if facts["state"] == "CANCELED" and progress.stopping:
        raise Stopped
    if facts["state"] != "COMPLETED" or not came:
        why = ended.status.message or last or "no word in its log"
        kept, kept_ko = ("What it had saved is home. ", "저장해 둔 것은 가져왔습니다. ") if came else ("", "")
        raise Problem(
            f"The job at Hugging Face ended as {facts['state']}: {why[-500:]}. {kept}Its whole log: {job.url}",
            f"허깅페이스 작업이 끝나지 못했습니다({facts['state']}): {why[-500:]}. {kept_ko}전체 기록: {job.url}",
        )
    return facts


def price(api: Any, flavor: str, progress: Progress | None) -> dict[str, Any]:
    """What the Hub asks for a flavor: {"name", "dollars" an hour}; Problem with all flavors if there is none of this name."""
    units = {"second": 3600.0, "minute": 60.0, "hour": 1.0}
    offers = patiently("ask for prices", progress, api.list_jobs_hardware)
    hours = {
        o.name: {
            "name": o.pretty_name + (f", {o.accelerator.vram}" if o.accelerator else ""),
            "dollars": o.unit_cost_usd * units[o.unit_label],
        }
        for o in offers
        if o.unit_label in units
    }
    if flavor not in hours:
        listed = ", ".join(f"{n} ({_money(h['dollars'])})" for n, h in sorted(hours.items(), key=_dollars))
        raise Problem(
            f"There is no flavor {flavor!r}. Flavors and their price an hour: {listed}.",
            f"{flavor!r} 사양은 없습니다. 고를 수 있는 사양과 시간당 값: {listed}",
        )
    return hours[flavor]


def _dollars(offer: tuple[str, dict[str, Any]]) -> float:
    return offer[1]["dollars"]


def _money(dollars: float) -> str:
    return f"${dollars:.2f}"


def _offer(run_: Run, stage: str, flavor: str, hour: dict[str, Any], hours: float) -> str:
    return (
        f"{stage} of run {run_.id} on {flavor} ({hour['name']}): {_money(hour['dollars'])} an hour, "
        f"at most {_money(hour['dollars'] * hours)} for the limit of {hours:g} h. "
        "Run and code go to a private dataset repository of yours."
    )


def _signed_in(token: str | None) -> tuple[Any, str]:
    offline = Problem(
        "LAB_OFFLINE=1 forbids the network. Unset it to submit.",
        "LAB_OFFLINE=1 이면 원격 작업을 맡길 수 없습니다. 이 설정을 꺼 주세요.",
    )
    signed_out = Problem(
        "Renting hardware needs a Hugging Face token with write access and the right to run jobs. Sign in with `hf auth login`.",
        "원격 작업에는 쓰기와 작업 실행 권한이 있는 허깅페이스 토큰이 필요합니다. `hf auth login` 으로 로그인해 주세요.",
    )
    return signed_in(token, os.environ.get("HF_ENDPOINT") or None, offline, signed_out)


def _must_be_reachable(run_: Run, stage: str, config: StageConfig) -> None:
    """Problem if the stage reads a model or a file that is only here."""
    configs = [config]
    if stage == "compare":
        configs += [run_.config("generate"), *(run_.config("train", arm) for arm in run_.arms())]
    for spec in [str(getattr(c, n, "")) for c in configs for n in LOCAL]:
        elsewhere = spec.startswith("run:") and not spec.startswith(f"run:{run_.id}/")
        if spec.startswith("api:") or elsewhere or (spec and ":" not in spec and Path(spec).exists()):
            raise Problem(
                f"{spec} cannot be reached from a rented machine. Use a Hub id, a mini: model or an arm of this run; a stage that talks to an endpoint needs no rented machine.",
                f"원격 기계에서 쓸 수 없는 모델이나 파일입니다: {spec}. 허브 아이디, mini: 모델, 이 실험의 갈래를 써 주세요. 엔드포인트를 쓰는 단계는 여기서 실행하면 됩니다.",
            )


def code_zip() -> bytes:
    """lab/, data/ and requirements.txt as a zip whose bytes depend on the files alone, so that it is uploaded once."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:  # stored: nearly all of it is weights
        for path in [
            ROOT / "requirements.txt",
            *sorted((ROOT / "lab").rglob("*.py")),
            *sorted((ROOT / "data").rglob("*")),
        ]:
            inside = path.relative_to(ROOT)
            if path.is_file() and not any(part.startswith((".", "__")) for part in inside.parts[:-1]):
                zipped.writestr(zipfile.ZipInfo(inside.as_posix()), path.read_bytes())
    return packed.getvalue()


def _start(
    api: Any,
    run_: Run,
    known: dict[str, Any],
    flags: list[str],
    hours: float,
    image: str,
    token: str,
    progress: Progress,
) -> Any:
    """Upload run and code, start the job; the label finds it again if the answer to the start is lost."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo = known["repo"]
    patiently(
        f"create {repo}", progress, lambda: api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
    )
    if not patiently(f"look at {repo}", progress, lambda: api.repo_info(repo, repo_type="dataset")).private:
        raise Problem(
            f"{repo} is public. Make it private or give another --repo.",
            f"{repo} 저장소가 공개 상태입니다. 비공개로 바꾸거나 --repo 로 다른 이름을 주세요.",
        )
    there = patiently(f"list {repo}", progress, lambda: list(api.list_repo_files(repo, repo_type="dataset")))
    with tempfile.TemporaryDirectory() as folder:
        packed = archive.pack(run_, Path(folder))
        operations: list[Any] = [CommitOperationAdd("run.zip", str(packed)), CommitOperationAdd("code.zip", code_zip())]
        operations += [CommitOperationDelete(p) for p in there if p.startswith("result-")]
        message = f"{known['stage']} of run {run_.id}"
        commit = patiently(
            f"upload {repo}",
            progress,
            lambda: api.create_commit(repo, operations, commit_message=message, repo_type="dataset"),
        )
    write_json(run_.submit_file, known)  # before the start: from here on a job of this label may exist

    def begin() -> Any:
        return api.run_job(
            image=image,
            command=["bash", "-c", _script(run_, known, flags, commit.oid)],
            secrets={"HF_TOKEN": token},
            flavor=known["flavor"],
            timeout=round(hours * 3600),
            labels={_STARTED_BY: known["label"]},
            namespace=known["namespace"],
        )

    # Starting costs money, so a start whose answer was lost is looked for before it is tried again.
    return patiently("start the job", progress, lambda: next(_by_label(api, known), None) or begin())


def _script(run_: Run, known: dict[str, Any], flags: list[str], commit: str) -> str:
    """What the machine does: fetch, unpack, install, work."""
    fetch = (
        "from huggingface_hub import hf_hub_download as get\n"
        f"for name in 'run.zip', 'code.zip': get({known['repo']!r}, name, repo_type='dataset', revision={commit!r}, local_dir='.')"
    )
    work = shlex.join([known["repo"], _result(known), run_.id, known["stage"], *flags])
    return "\n".join(
        [
            "set -e",
            f"uv pip install --system --quiet huggingface_hub=={version('huggingface_hub')}",
            f"python -c {shlex.quote(fetch)}",
            "python -m zipfile -e code.zip .",
            f"python -m zipfile -e run.zip runs/local/{run_.id}",
            "uv pip install --system --quiet -r requirements.txt",
            f"LAB_HOME=$PWD/runs PYTHONUNBUFFERED=1 exec python -m lab.submit {work}",
        ]
    )


def _result(known: dict[str, Any]) -> str:
    return f"result-{known['label']}.zip"


def _by_label(api: Any, known: dict[str, Any]) -> Iterator[Any]:
    return iter(api.list_jobs(labels={_STARTED_BY: known["label"]}, namespace=known["namespace"]))


def _find(api: Any, run_: Run, known: dict[str, Any], progress: Progress) -> Any:
    """The job that a former submit started, or None if it never came to that."""
    if known.get("job"):
        return _inspect(api, run_, known)
    return patiently("look for the job", progress, lambda: next(_by_label(api, known), None))


def _inspect(api: Any, run_: Run, known: dict[str, Any]) -> Any:
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> Any:
        try:
            return api.inspect_job(job_id=known["job"], namespace=known["namespace"])
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            raise Problem(
                f"Hugging Face knows no job {known['job']} of {known['namespace']}. Is it the right account? If the job is gone for good, delete {run_.submit_file} and submit again.",
                f"허깅페이스에 작업이 없습니다({known['namespace']}/{known['job']}). 계정이 맞는지 확인하고, 작업이 지워졌다면 {run_.submit_file} 파일을 지운 뒤 다시 맡겨 주세요.",
            ) from None

    return patiently("look at the job", None, ask)


def _follow(api: Any, run_: Run, known: dict[str, Any], progress: Progress) -> Iterator[str]:
    """The job's log line by line until it has ended; a stop cancels the job. A line is not told twice."""
    from huggingface_hub._jobs_api import TERMINAL_JOB_STAGES

    lines: queue.Queue[str] = queue.Queue()
    reader: threading.Thread | None = None
    began, read, failed = 0.0, [0], [""]

    def listen(skip: int) -> None:
        # Ends by itself when the job ends or the connection is lost for good; then a new one starts.
        try:
            for number, line in enumerate(
                api.fetch_job_logs(job_id=known["job"], namespace=known["namespace"], follow=True)
            ):
                if number >= skip:
                    lines.put(line)
                    read[0] = number + 1
        except Exception as error:
            if str(error) != failed[0]:  # a job that waits for its machine has no log yet: said once
                failed[0] = str(error)
                print(f"log of the job: {error}", file=sys.stderr)

    def arrived() -> Iterator[str]:
        while True:
            try:
                line = lines.get_nowait()
            except queue.Empty:
                return
            known["heard"] += 1
            yield line

    read[0] = known["heard"]
    cancelled = False
    looked = 0.0
    ended = False
    while not ended:
        if reader is None or (not reader.is_alive() and time.monotonic() - began > LOOK):
            began = time.monotonic()
            reader = threading.Thread(target=listen, args=(read[0],), daemon=True)
            reader.start()
        if progress.stopping and not cancelled:
            patiently(
                "cancel the job",
                None,
                lambda: api.cancel_job(job_id=known["job"], namespace=known["namespace"]),
            )
            cancelled = True
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            ended = _inspect(api, run_, known).status.stage in TERMINAL_JOB_STAGES
        before = known["heard"]
        yield from arrived()
        if known["heard"] > before:
            write_json(run_.submit_file, known)
        time.sleep(min(0.5, LOOK))
    # The stage of a job may be known before its last lines, and a listener may have been cut off: read it to the end.
    reader.join(10 * LOOK)
    yield from arrived()
    whole = lambda: list(api.fetch_job_logs(job_id=known["job"], namespace=known["namespace"]))  # noqa: E731
    for line in patiently("read the log", None, whole)[known["heard"] :]:
        known["heard"] += 1
        yield line
    write_json(run_.submit_file, known)


def _hear(line: str, known: dict[str, Any], progress: Progress) -> str:
    """Take in a line of the log: progress into job.json, events into log.jsonl; anything else is shown and returned."""
    if line.startswith(MARK):
        try:
            told = json.loads(line[len(MARK) :])
            if "row" in told:
                append_rows(progress.run.log_file, [dict(told["row"])])
            else:
                known["shown"] = {k: told["job"][k] for k in SHOWN if k in told["job"]}
                progress.write(**known["shown"])
            return ""
        except (ValueError, KeyError, TypeError):
            pass  # a torn or foreign line is shown like any other
    if progress.say and line.strip():
        print(line, file=sys.stderr, flush=True)
    return line.strip()


def _bring_home(api: Any, run_: Run, known: dict[str, Any]) -> bool:
    """Put what the job saved in the stage's place; False if it saved nothing.

    The zip is checked like one from anywhere (lab.archive), and a stage that did not finish comes home only where its
    rows can be gone on from.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    def fetch(folder: str) -> Path | None:
        try:
            return Path(api.hf_hub_download(known["repo"], _result(known), repo_type="dataset", local_dir=folder))
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError as error:  # the client's word for a Hub that cannot be reached
            raise ConnectionError(str(error)) from None

    with tempfile.TemporaryDirectory() as folder:
        packed = patiently("fetch the results", None, lambda: fetch(folder))
        if packed is None:
            return False
        came = archive.unpack(packed, ".arriving")  # on the disk of the runs, in nobody's list
    try:
        stage = known["stage"]
        for arm in came.arms() if stage == "train" else [""]:
            source, goal = came.stage_folder(stage, arm), run_.stage_folder(stage, arm)
            if came.done(stage, arm) or (stage in ("generate", "filter") and source.exists()):
                aside = goal.with_name(f".{goal.name}.{os.getpid()}")
                goal.parent.mkdir(parents=True, exist_ok=True)
                if goal.exists():
                    goal.replace(aside)
                source.replace(goal)
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(came.folder, ignore_errors=True)
    return True


# The other end -------------------------------------------------------------------------------------------------------


def there(repo: str, result: str, run_: Run, command: list[str]) -> int:
    """Run the stage, tell its progress on stdout, save the run into ``repo`` now and then and at the end."""
    api = client(None, os.environ["HF_TOKEN"])
    worker = subprocess.Popen(
        [sys.executable, "-m", "lab", *command], stdout=sys.stdout, stderr=subprocess.STDOUT, cwd=ROOT
    )
    # A cancel may leave some seconds: the stage saves what it has, and that is brought home.
    signal.signal(signal.SIGTERM, lambda number, frame: worker.terminate())
    told, rows, pushed = "", len(_lines(run_.log_file)), time.monotonic()
    while True:
        code = worker.poll()
        job = read_json(run_.job_file, {})
        if (now := json.dumps({"job": {k: job[k] for k in SHOWN if k in job}}, ensure_ascii=False)) != told:
            told = now
            print(MARK + now, flush=True)
        for line in _lines(run_.log_file)[rows:]:
            rows += 1
            print(f'{MARK}{{"row": {line}}}', flush=True)
        if code is not None:
            _push(api, repo, result, run_)
            return code
        if time.monotonic() - pushed > PUSH:
            pushed = time.monotonic()
            try:
                _push(api, repo, result, run_)
            except (Problem, OSError) as error:  # a file may go while it is packed; the next time will do
                print(f"not saved this time: {error}", flush=True)
        time.sleep(1)


def _lines(path: Path) -> list[str]:
    """The finished lines of a file."""
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def _push(api: Any, repo: str, result: str, run_: Run) -> None:
    with tempfile.TemporaryDirectory() as folder:
        packed = archive.pack(run_, Path(folder))
        patiently(
            f"save into {repo}",
            None,
            lambda: api.upload_file(
                path_or_fileobj=str(packed),
                path_in_repo=result,
                repo_id=repo,
                repo_type="dataset",
                commit_message=f"Results of run {run_.id}",
            ),
        )


if __name__ == "__main__":
    _repo, _name, _run, _stage, *_flags = sys.argv[1:]
    sys.exit(there(_repo, _name, Run("local", _run), [_stage, _run, *_flags, "--json"]))
