"""Endpoints for programs: what the buttons do, by name. ``gradio_client.Client(URL).view_api()`` lists them.

On a shared Space they act for who asks, as the page does: a signed-in session or a guest's cookie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from lab import checklist as checks
from lab import jobs
from lab.config import PRESETS, STAGES, checked
from lab.problems import Problem
from lab.records import read_json
from lab.run import Run, find_run
from lab.run import runs as all_runs
from lab.ui import chat, form, header, shared

TOGETHER: dict[str, Any] = {"concurrency_id": "chat", "concurrency_limit": 1}


def build() -> None:
    """Offer the endpoints."""
    for function in (runs, new_run, start, stop, status, report, checklist):
        gr.api(function, api_name=function.__name__, concurrency_limit=8)
    gr.api(tell, api_name="tell", **TOGETHER)


def _run(run: str) -> Run:
    return find_run(run, shared.owner())


def runs() -> list[dict[str, Any]]:
    """Your runs, newest first: id, title, and the state of every stage."""
    return [_standing(run) for run in all_runs(shared.owner())]


def _standing(run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "title": run.meta().get("title", run.id),
        "stages": {stage: run.state(stage) for stage in STAGES},
        "job": jobs.look(run).state,
    }


def new_run(preset: str = "mini", title: str = "") -> dict[str, Any]:
    """Make a run from a preset (mini, qwen, scratch-30m, api)."""
    if preset not in PRESETS:
        raise Problem(f"There is no preset {preset!r}.", f"프리셋 {preset!r} 은(는) 없습니다.")
    return {"run": header.created(preset, title).id}


def start(run: str, stage: str = "run", options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Start generate, filter, train, compare, or all four (run) in the background; options are those of the form."""
    at, given = _run(run), dict(options or {})
    if stage == "run":
        header.start_whole(at, int(given.get("pairs") or at.config("generate").pairs), "en")
        return _standing(at)
    if stage not in ("generate", "filter", "train", "compare"):
        raise Problem(f"There is no stage {stage!r} to start.", f"시작할 수 없는 단계입니다: {stage!r}")
    known = {k: v for k, v in given.items() if k in STAGES[stage].__dataclass_fields__}
    if unknown := sorted(given.keys() - known.keys()):
        raise Problem(f"Stage {stage} has no option {unknown[0]!r}.", f"{stage} 단계에 없는 옵션: {unknown[0]!r}")
    base = at.config(stage, str(given.get("arm") or "distilled")) if stage == "train" else at.config(stage)
    config = checked(base, **known)
    shared.admit(at)
    shared.allow(config)
    shared.allow_run(at, stage)
    jobs.start(at, [stage, at.id, *form.flags(config, base), "--json"])
    return _standing(at)


def stop(run: str) -> dict[str, Any]:
    """Ask the run's job to stop; what was done is kept."""
    at = _run(run)
    jobs.stop(at)
    return _standing(at)


def status(run: str) -> dict[str, Any]:
    """The state of every stage, and how far the job is."""
    at = _run(run)
    job = jobs.look(at)
    return _standing(at) | {"stage": job.stage, "done": job.done, "total": job.total, "place": job.place}


def report(run: str) -> dict[str, Any]:
    """compare/report.json; empty before comparing."""
    return read_json(_run(run).report_file, {})


def checklist(run: str) -> dict[str, Any]:
    """The eight checks before publishing."""
    return checks.as_json(_run(run))


def tell(run: str, prompt: str, temperature: float = 0.8, seed: int = 0) -> Iterator[list[dict[str, Any]]]:
    """The teacher and the newest student tell a story; streams name, spec, revision and text of each."""
    from lab.chat import talk

    at = _run(run)
    known = chat.speakers(at)
    names = chat.usual(list(known))
    asked = [{"role": "user", "content": prompt[: chat.LONGEST]}]
    shared.slow_down()
    specs, base_url = [known[n] for n in names], at.config("generate").base_url
    chat.allow(at, specs)
    for said in talk(specs, [asked] * len(names), temperature, seed, base_url=base_url):
        yield [
            {
                "name": n,
                "spec": s.spec,
                "revision": s.trained or s.revision,
                "text": s.text,
                "tokens": s.tokens,
                "seconds": s.seconds,
                "first_token_seconds": s.first,
                "finish": s.finish,
            }
            for n, s in zip(names, said, strict=True)
        ]
