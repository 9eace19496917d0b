"""The command line: ``python -m lab COMMAND``. Its flags are made from the knobs of lab.config."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lab import config, jobs
from lab.problems import Problem, Stopped
from lab.run import Run, find_run, new_run, runs


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="python -m lab", description="Distil a teacher model into a small student.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, run: str | None = "required", stage: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        if run:
            command.add_argument("run", nargs="?" if run == "optional" else None, metavar="RUN", help="id of the run")
        if stage:
            config.add_arguments(command, stage)
        command.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        return command

    new = add("new", "make a run, print its id", run=None)
    new.add_argument("--preset", default="mini", choices=list(config.PRESETS))
    new.add_argument("--title", default="")
    whole = add("run", "generate, filter, train, compare in one go", run="optional")
    whole.add_argument("--preset", default="mini", choices=list(config.PRESETS))
    whole.add_argument("--pairs", type=int)
    add("generate", "the teacher writes pairs; resumes where it stopped", stage="generate")
    add("preview", "five stories now, and minutes, money and kept pairs of the whole", stage="generate")
    add("check", "whether the teacher can write Korean tales", stage="generate")
    add("import", "bring your own pairs in place of generate").add_argument("file", type=Path, metavar="FILE.jsonl")
    add("filter", "a verdict for every pair", stage="filter")
    review = add("review", "human review outside the app")
    way = review.add_mutually_exclusive_group(required=True)
    way.add_argument("--export", type=Path, metavar="FILE.csv")
    way.add_argument("--import", type=Path, metavar="FILE.csv", dest="take")
    review.add_argument("--count", type=int, default=100)
    add("train", "train one arm of the student", stage="train")
    add("compare", "measure teacher, untrained student and every arm", stage="compare")
    add("publish", "cards, licence, upload", stage="publish")
    licence = add("license", "the licence chain and its verdict", run=None)
    licence.add_argument("--teacher", required=True)
    licence.add_argument("--student", required=True)
    licence.add_argument("--data", action="append", default=[], metavar="LICENCE")
    add("checklist", "the eight checks before publishing: ok, warn or todo with the measured value")
    add("status", "where a run stands")
    add("list", "all runs", run=None)
    return top


def _stage(run: Run, stage: str, options: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """Run one stage with what the flags changed."""
    arm = options.get("arm") or config.preset_config("train", "mini").arm if stage == "train" else ""
    settings = run.config(stage, arm, **options)
    module = importlib.import_module(f"lab.stages.{stage}")
    with jobs.at_work(run, stage, argv, say=True) as progress:
        _listen(progress)
        return module.run(run, settings, progress)


def _whole(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Generate, filter, train, compare; finished stages whose inputs have not changed are not repeated."""
    run = find_run(args.run) if args.run else new_run(args.preset)
    print(f"run {run.id}", file=sys.stderr)
    with jobs.at_work(run, "run", argv, say=True) as progress:
        _listen(progress)
        for stage in ("generate", "filter", "train", "compare"):
            module = importlib.import_module(f"lab.stages.{stage}")
            settings = run.config(stage, "distilled" if stage == "train" else "")
            if stage == "generate":
                settings = config.checked(settings, pairs=args.pairs)
                held = (run.done("generate") or {}).get("pairs", 0)
                if run.state(stage) == "done" and held >= settings.pairs:
                    continue
            elif run.state(stage) == "done":
                continue
            module.run(run, settings, progress)
    return {"run": run.id, "report": json.loads(run.report_file.read_text("utf-8"))}


def _listen(progress: Any) -> None:
    """Ctrl-C and a polite kill become a request that the stage honours between two batches."""

    def request(number: int, frame: Any) -> None:
        if progress.interrupted:
            raise KeyboardInterrupt
        progress.interrupted = True
        print("Stopping after this batch; once more stops at once.", file=sys.stderr)

    signal.signal(signal.SIGINT, request)
    signal.signal(signal.SIGTERM, request)


def _status(run: Run) -> dict[str, Any]:
    states = {stage: run.state(stage) for stage in config.STAGES}
    return {"run": run.id, "title": run.meta().get("title", run.id), "stages": states, "job": jobs.look(run).state}


def execute(args: argparse.Namespace, argv: list[str]) -> tuple[dict[str, Any], str]:
    """Do what the command says; returns (the JSON object, the text for people)."""
    if args.command == "new":
        run = new_run(args.preset, args.title)
        return {"run": run.id}, run.id
    if args.command == "list":
        found = [_status(run) for run in runs()]
        lines = [f"{s['run']}  {' '.join(f'{k}:{v}' for k, v in s['stages'].items())}  {s['title']}" for s in found]
        return {"runs": found}, "\n".join(lines) or "No runs yet. `python -m lab run` makes one."
    if args.command == "license":
        from lab import licenses

        found = licenses.chain(args.teacher, args.student, tuple(args.data), card=licenses.hub_card)
        return found, licenses.explain(found, "en")
    if args.command == "run":
        from lab.stages.compare import table

        result = _whole(args, argv)
        hint = f"python app.py opens the app; choose run {result['run']}"
        return result, f"{table(result['report'])}\n\n{hint}"
    run = find_run(args.run)
    if args.command == "status":
        status = _status(run)
        return status, "\n".join(f"{k:9} {v}" for k, v in status["stages"].items())
    if args.command == "checklist":
        from lab import checklist

        return checklist.as_json(run), checklist.table(run)
    if args.command == "import":
        from lab.stages.generate import import_pairs

        facts = import_pairs(run, args.file)
        return facts, f"{facts['pairs']} pairs imported into {run.id}"
    if args.command == "review":
        return _review(run, args)
    if args.command in ("preview", "check"):
        return _look_ahead(run, args, argv)
    options = {k: v for k, v in vars(args).items() if k in config.STAGES[args.command].__dataclass_fields__}
    facts = _stage(run, args.command, options, argv)
    if args.command == "compare":
        from lab.stages.compare import table

        return facts, table(facts)
    return facts, "\n".join(f"{k}: {v}" for k, v in facts.items() if k != "by_phrasing")


def _look_ahead(run: Run, args: argparse.Namespace, argv: list[str]) -> tuple[dict[str, Any], str]:
    from lab.preview import COMMANDS

    look, tell = COMMANDS[args.command]
    options = {k: v for k, v in vars(args).items() if k in config.STAGES["generate"].__dataclass_fields__}
    with jobs.at_work(run, args.command, argv, say=True) as progress:
        _listen(progress)
        found = look(run, run.config("generate", **options), progress)
    return found, tell(found)


def _review(run: Run, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from lab import review

    if args.export:
        rows = review.export_csv(run, args.export, args.count)
        return {"run": run.id, "rows": rows}, f"{rows} stories written to {args.export}"
    rows = review.import_csv(run, args.take, "csv")
    return {"run": run.id, "rows": rows}, f"{rows} reviews imported into {run.id}; filter again to apply them"


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a problem explained on stderr, 2 wrong usage, 130 stopped."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    language = "ko" if os.environ.get("LAB_LANGUAGE", os.environ.get("LANG", "")).startswith("ko") else "en"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LAB_OFFLINE") == "1":
        os.environ["HF_HUB_OFFLINE"] = "1"
    started = time.time()
    # Libraries print to stdout as they please; with --json it belongs to the one object.
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        result, text = execute(args, argv)
    except Problem as problem:
        print(problem.text(language), file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt):
        print("Stopped. What was done is saved; the same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        sys.stdout = stdout
    print(json.dumps(result, ensure_ascii=False) if args.json else text)
    print(f"{time.time() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
