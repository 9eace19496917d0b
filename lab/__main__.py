"""The command line: ``python -m lab COMMAND``. Its flags are made from the knobs of lab.config."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lab import config, jobs
from lab.problems import Problem, Stopped
from lab.run import Run, find_run, new_run, runs

SHARES = {"top-30": 0.3, "top-50": 0.5, "top-80": 0.8}
"""The classic exercise: fewer but better pairs, or more of them?"""

HUSHED = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",  # of processes beside this one
}
"""How each library is told to be quiet, unless it was told otherwise before."""


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="python -m lab", description="Distil a teacher model into a small student.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, run: str | None = "required", stage: str = "") -> argparse.ArgumentParser:
        # argparse formats help with %, but not descriptions of a parser.
        command = commands.add_parser(name, help=help_text.replace("%", "%%"), description=help_text)
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
    add("estimate", "memory and minutes of a training, before it begins", stage="train")
    add("exercise", "train the arms top-30, top-50 and top-80 on the best 30, 50 and 80 %, and compare", stage="train")
    export = add("export", "a trained arm as a full model (merged) or as a GGUF file for llama.cpp")
    export.add_argument("--arm", default="distilled")
    export.add_argument("--format", default="merged", choices=("merged", "f16", "q8_0", "f32"))
    add("compare", "measure teacher, untrained student and every arm", stage="compare")
    add("publish", "cards, licence, upload", stage="publish")
    submit = add("submit", "one stage on rented hardware (Hugging Face Jobs); flags of the stage may follow")
    submit.allow_abbrev = False
    submit.add_argument("stage", choices=["generate", "filter", "train", "compare"])
    submit.add_argument(
        "--flavor", required=True, metavar="FLAVOR", help="t4-small, a10g-small, ...; a wrong one lists all with prices"
    )
    submit.add_argument("--hours", type=float, default=2.0, help="the job is ended after so many (default 2)")
    submit.add_argument(
        "--repo", default="", metavar="NS/NAME", help="private dataset repository that carries run and results"
    )
    submit.add_argument("--image", default="", help="Docker image with uv and Python 3.11 or newer")
    submit.add_argument("--yes", action="store_true", help="agree to the price without being asked")
    licence = add("license", "the licence chain and its verdict", run=None)
    licence.add_argument("--teacher", required=True)
    licence.add_argument("--student", required=True)
    licence.add_argument("--data", action="append", default=[], metavar="LICENCE")
    licence.add_argument("--judge", default="", metavar="SPEC")
    add("checklist", "the eight checks before publishing: ok, warn or todo with the measured value")
    add("status", "where a run stands")
    add("list", "all runs", run=None)
    return top


def _settings(run: Run, stage: str, options: dict[str, Any]) -> config.StageConfig:
    """The stage's configuration with what the flags changed."""
    arm = options.get("arm") or config.preset_config("train", "mini").arm if stage == "train" else ""
    return run.config(stage, arm, **options)


def _stage(run: Run, stage: str, options: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """Run one stage with what the flags changed."""
    settings = _settings(run, stage, options)
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


def _exercise(run: Run, options: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """Train an arm on each of SHARES with otherwise the same settings, then compare all arms of the run."""
    from lab.stages import compare, train

    settings = _settings(run, "train", options)
    with jobs.at_work(run, "exercise", argv, say=True) as progress:
        _listen(progress)
        if not any(v.judge is not None for v in run.verdicts()):
            progress.note(
                "No judge has scored these pairs, so the best cannot be told from the rest: each arm takes the first pairs.",
                "심사 모델의 점수가 없어 어느 쌍이 나은지 알 수 없습니다. 갈래마다 앞에서부터 골라 씁니다.",
            )
        arms = []
        for name, share in SHARES.items():
            arms.append(train.run(run, config.checked(settings, arm=name, keep_top=share), progress))
        report = compare.run(run, run.config("compare", arms=""), progress)
    return {"arms": arms, "report": report}


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

        found = licenses.chain(args.teacher, args.student, tuple(args.data), card=licenses.hub_card, judge=args.judge)
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
    if args.command == "submit":
        facts = _submit(run, args, argv)
        return facts, "\n".join(f"{k}: {v}" for k, v in facts.items())
    if args.command == "export":
        return _export(run, args, argv)
    stage = "train" if args.command in ("exercise", "estimate") else args.command
    options = {k: v for k, v in vars(args).items() if k in config.STAGES[stage].__dataclass_fields__}
    if args.command == "exercise":
        from lab.stages.compare import table

        facts = _exercise(run, options, argv)
        return facts, table(facts["report"])
    if args.command == "estimate":
        from lab.stages.train import estimate

        facts = estimate(run, _settings(run, stage, options))
        return facts, "\n".join(f"{k}: {v}" for k, v in facts.items())
    facts = _stage(run, args.command, options, argv)
    if args.command == "compare":
        from lab.stages.compare import table

        return facts, table(facts)
    return facts, "\n".join(f"{k}: {v}" for k, v in facts.items() if k not in ("by_phrasing", "coverage"))


def _look_ahead(run: Run, args: argparse.Namespace, argv: list[str]) -> tuple[dict[str, Any], str]:
    from lab.preview import COMMANDS

    look, tell = COMMANDS[args.command]
    options = {k: v for k, v in vars(args).items() if k in config.STAGES["generate"].__dataclass_fields__}
    with jobs.at_work(run, args.command, argv, say=True) as progress:
        _listen(progress)
        found = look(run, run.config("generate", **options), progress)
    return found, tell(found)


def _submit(run: Run, args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """The stage on rented hardware; the price is told before anything is sent."""
    from lab import submit

    def agree(offer: str) -> bool:
        print(offer, file=sys.stderr)
        if not args.yes and not sys.stdin.isatty():
            raise Problem(
                f"{offer} Nothing was sent. Add --yes to agree to the price.",
                f"{offer} 아직 아무것도 보내지 않았습니다. 이 값에 동의하면 --yes 를 붙여 주세요.",
            )
        if not args.yes:
            print("Start? [y/N] ", end="", file=sys.stderr, flush=True)
        return args.yes or sys.stdin.readline().strip().lower() in ("y", "yes", "네", "예")

    given = vars(parser().parse_args([args.stage, run.id, *args.flags]))
    options = {k: v for k, v in given.items() if k in config.STAGES[args.stage].__dataclass_fields__}
    settings = _settings(run, args.stage, options)
    with jobs.at_work(run, "submit", argv, say=True, here=False) as progress:
        _listen(progress)
        return submit.run(
            run,
            args.stage,
            settings,
            args.flags,
            args.flavor,
            args.hours,
            progress,
            agree,
            repo=args.repo,
            image=args.image or submit.IMAGE,
        )


def _export(run: Run, args: argparse.Namespace, argv: list[str]) -> tuple[dict[str, Any], str]:
    from lab import export

    with jobs.at_work(run, "export", argv, say=True) as progress:
        _listen(progress)
        if args.format == "merged":
            facts = export.merge(run, args.arm, progress)
        else:
            facts = export.gguf(run, args.arm, args.format, progress)
    return facts, f"{facts['path']} ({facts['bytes'] / 1e6:,.1f} MB)"


def _review(run: Run, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from lab import review

    if args.export:
        rows = review.export_csv(run, args.export, args.count)
        return {"run": run.id, "rows": rows}, f"{rows} stories written to {args.export}"
    rows = review.import_csv(run, args.take, "csv")
    return {"run": run.id, "rows": rows}, f"{rows} reviews imported into {run.id}; filter again to apply them"


def _hush() -> None:
    """Keep what libraries say to who programs with them off the terminal, where a stage speaks for itself; whoever asks hears it."""
    for name, value in HUSHED.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a problem explained on stderr, 2 wrong usage, 130 stopped."""
    argv = sys.argv[1:] if argv is None else argv
    # What submit does not know belongs to its stage, whose own flags check it.
    args, rest = parser().parse_known_args(argv)
    if args.command == "submit":
        args.flags = rest
    elif rest:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    language = "ko" if os.environ.get("LAB_LANGUAGE", os.environ.get("LANG", "")).startswith("ko") else "en"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _hush()
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
    if os.environ.get("RANK", "0") != "0":  # a further process of accelerate launch: the first one has said it
        return 0
    print(json.dumps(result, ensure_ascii=False) if args.json else text)
    print(f"{time.time() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read the output has read enough (head); what is left goes nowhere, or the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
