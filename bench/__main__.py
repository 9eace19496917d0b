"""Measure everything and write bench/RESULTS.md: ``python -m bench [--quick] [PART ...]``.

Parts: generate train filter compare stages app t4; without a name all of them, 14 minutes on two quiet
cores. ``--quick`` takes the smallest sizes, to see that all of it works, and writes nothing. Every part runs the
project's own commands in processes of their own; figures are medians with the least and the most in brackets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests" / "e2e")]

from bench import machine as limits  # noqa: E402
from bench import t4  # noqa: E402

STORY_BYTES = 1200
"""Of a row of the pairs file."""
RESULTS = ROOT / "bench" / "RESULTS.md"


@dataclass(frozen=True)
class Line:
    """A row of the results: what, how, how much, against what, how near the machine's limit."""

    what: str
    command: str
    value: str
    ratio: str = ""
    limit: str = ""


@dataclass(frozen=True)
class Bench:
    """How much to measure, and the limits of this machine."""

    quick: bool
    machine: limits.Machine

    def size(self, full: int, quick: int) -> int:
        """The number to take."""
        return quick if self.quick else full


def ran(*command: str, home: str = "", keep: bool = True) -> tuple[str, float, int]:
    """(stdout, seconds, peak megabytes) of a command of this project, in a process of its own."""
    env = {**os.environ, "LAB_OFFLINE": "1", **({"LAB_HOME": home} if home else {})}
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stdout=out, text=True)
        peak = 0
        # What the kernel tells at the end holds what this process was before it became the other one.
        while process.poll() is None:
            peak = max(peak, limits.megabytes(process.pid, "VmHWM"))
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        out.seek(0)
        if keep and process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        return out.read(), seconds, peak


def generate(bench: Bench) -> list[Line]:
    """Batches against the one-by-one loop."""
    from generate import both

    pairs, loop = bench.size(256, 16), bench.size(12, 2)
    found = [both(pairs, loop) for _ in range(bench.size(3, 1))]
    ratio = [a["per_second"] / b["per_second"] for a, b in found]
    shape = _shape("teacher")
    near = []
    for ours, _ in found:
        story = ours["tokens"] / pairs
        near.append(t4.writing_seconds(shape, pairs, min(256, pairs), bench.machine, 40, story, 4) / ours["seconds"])
    how = f"python bench/generate.py {pairs} {loop}"
    return [
        Line(
            f"generate, {pairs} stories, whole process",
            how,
            limits.told([a["per_second"] for a, _ in found]) + " tokens/s",
            f"{limits.told(ratio, '.1f')} times the loop",
            f"{limits.told([100 * n for n in near], '.0f')} % of the floor while writing",
        ),
        Line("one by one", how, limits.told([b["per_second"] for _, b in found]) + " tokens/s"),
    ]


def train(bench: Bench) -> list[Line]:
    """Our training against the padded reference."""
    command = ["bench/train.py", str(bench.size(128, 16))]
    # The trainer prints a dictionary of its own.
    *sides, ratio = (line for line in ran(*command)[0].strip().splitlines() if not line.startswith("{"))
    return [Line("train against the padded reference", f"python {' '.join(command)}", "<br>".join(sides), ratio)]


def filter(bench: Bench) -> list[Line]:
    """The filter at several sizes."""
    from filter import measured

    lines, before = [], 0.0
    for count in (500, 1500) if bench.quick else (5000, 20_000, 50_000):
        facts = measured(count)
        each = 1000 * facts["seconds"] / count
        lines.append(
            Line(
                f"filter, {count:,} pairs, rules and near-duplicates",
                f"python bench/filter.py {count}",
                f"{facts['seconds']:.1f} s, {each:.2f} ms a pair, {facts['megabytes']} MB ({facts['megabytes_all']} with workers)",
                f"{each / before:.2f} times as long a pair as the last" if before else "",
                f"{each * 1e6 / 1000 / 60:.0f} min and {facts['core_seconds'] / count * 1e6 / 60:.0f} core minutes a million; "
                f"reads {STORY_BYTES / each * 1000 / bench.machine.bytes:.4%} of the bytes that memory could give: what the rules do in Python binds",
            )
        )
        before = each
    return lines


def compare(bench: Bench) -> list[Line]:
    """A whole comparison of four models."""
    prompts = str(bench.size(200, 4))
    told = [ran("bench/compare.py", prompts, "none")[0].strip().splitlines()[-1] for _ in range(bench.size(2, 1))]
    seconds = [float(line.split(": ", 1)[1].split(" s")[0]) for line in told]
    how = f"python bench/compare.py {prompts} none"
    return [Line(f"compare, {prompts} prompts x 4 models", how, limits.told(seconds, ".1f") + " s")]


def stages(bench: Bench) -> list[Line]:
    """The whole mini job stage by stage: seconds, memory, and what the student keeps of its teacher."""
    lines = []
    with tempfile.TemporaryDirectory() as home:
        run = ran("-m", "lab", "new", home=home)[0].strip()
        more = {"generate": ["--pairs", str(bench.size(200, 48))], "filter": ["--judge", "none", "--off", ""]}
        for stage in ("generate", "filter", "train", "compare"):
            command = ["-m", "lab", stage, run, *more.get(stage, []), "--json"]
            told, seconds, peak = ran(*command, home=home, keep=not bench.quick)
            shown = f"python -m lab {' '.join(command[2:]).replace(run, 'RUN')}"
            lines.append(Line(f"{stage} of the mini job", shown, f"{seconds:.1f} s, {peak:,} MB at most"))
            if not told:
                break
        else:
            for arm, kept in json.loads(told)["retention"].items():
                parts = [f"{k} {v:.0%}" for k, v in kept.items() if isinstance(v, float)]
                lines.append(Line(f"retention of {arm}", "python -m lab compare RUN", ", ".join(parts) or "not shown"))
    return lines


def app(bench: Bench) -> list[Line]:
    """Start of the app, a chat, visitors who look, idle and beside a job, and what a job and a chat make together."""
    from gradio_client import Client
    from serving import served

    lines, starts, firsts, wholes = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(bench.size(3, 1)):
            started = time.perf_counter()
            with served(Path(folder)) as url:
                starts.append(time.perf_counter() - started)
                client = Client(url, verbose=False)
                run = client.predict(api_name="/new_run")["run"]
                for turn in range(bench.size(3, 2)):
                    asked = time.perf_counter()
                    answer = client.submit(run, "토끼 이야기를 들려주세요.", 0.8, turn, api_name="/tell")
                    next(iter(answer))
                    if turn:  # the first one loads the models
                        firsts.append(time.perf_counter() - asked)
                    answer.result()
                    if turn:
                        wholes.append(time.perf_counter() - asked)
    lines.append(Line("app, from start to first page", "python app.py", limits.told(starts, ".1f") + " s"))
    first, whole = limits.told(firsts, ".2f"), limits.told(wholes, ".1f")
    lines.append(Line("chat with two tellers", "endpoint /tell", f"first words {first} s, whole answers {whole} s"))
    for beside in ([], ["--job"]):
        how = ["tests/e2e/load.py", "--visitors", str(bench.size(10, 2)), "--seconds", str(bench.size(15, 3)), *beside]
        facts = json.loads(ran(*how)[0].splitlines()[-1])
        look, page = facts["look_ms"], facts["page_ms"]
        lines.append(
            Line(
                f"{facts['visitors']} visitors, {'beside a job' if beside else 'idle'}",
                f"python {' '.join(how)}",
                f"page {page['median']} ms (most {page['most']}), look {look['median']} ms (95 % below {look['p95']})",
                "",
                f"app {facts['memory_mb']['after']} MB",
            )
        )
    how = ["bench/sharing.py", str(bench.size(16, 2))]
    for line in ran(*how)[0].splitlines():
        what, _, rest = line.partition(": ")
        value, _, ratio = rest.rpartition(", ")
        lines.append(Line(f"job and chat on the same cores, {what}", f"python {' '.join(how)}", value, ratio))
    return lines


def paper(bench: Bench) -> list[Line]:
    """How far the model of bench/t4.py is from what is measured here."""
    found = t4.check(bench.machine, bench.size(128, 32))
    return [
        Line(
            f"mini {what}, model of the T4 applied to this machine",
            "python bench/t4.py --check",
            f"{found[what + '_seconds']:.1f} s",
            f"{found[what]:.1f} times the floor",
        )
        for what in ("writing", "training")
    ]


def _shape(who: str) -> t4.Shape:
    from transformers import AutoConfig

    return t4.Shape.of(AutoConfig.from_pretrained(ROOT / "data" / "mini" / who))


PARTS: dict[str, Callable[[Bench], list[Line]]] = {
    "generate": generate,
    "train": train,
    "filter": filter,
    "compare": compare,
    "stages": stages,
    "app": app,
    "t4": paper,
}


def rendered(facts: dict[str, str], machine: limits.Machine, busy: float, lines: list[Line], minutes: float) -> str:
    """The results as Markdown."""
    rows = [f"| {x.what} | {x.value} | {x.ratio} | {x.limit} | `{x.command}` |" for x in lines]
    return "\n".join(
        [
            "# Figures",
            "",
            f"Written by `python -m bench` on {time.strftime('%Y-%m-%d')} in {minutes:.0f} minutes. Medians, with the least and the most in brackets.",
            "",
            ", ".join(f"{k} {v}" for k, v in facts.items()) + ".",
            "",
            f"Limits of this machine, measured in the same minutes: {machine.bytes / 1e9:.1f} GB/s of memory, {machine.flops / 1e9:.0f} GFLOP/s in fp32. "
            f"Others used {busy:.0%} of the cores when it began"
            + ("." if busy < 0.1 else ", so these figures are worse than a quiet machine's."),
            "",
            "| what | measured | ratio | how near the limit | command |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "## A T4 on paper",
            "",
            "320 GB/s and 65 TFLOP/s in fp16; a floor, not a measurement (see bench/t4.py). What the same model says of this machine stands above.",
            "",
            t4.table(t4.rows()),
            "",
        ]
    )


def main() -> None:
    """Measure the parts that are named, print them, and write RESULTS.md when it was all of them."""
    os.environ |= {"LAB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "GRADIO_ANALYTICS_ENABLED": "False"}
    quick = "--quick" in sys.argv
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(PARTS)
    started, busy = time.perf_counter(), limits.busy()
    bench, lines, failed = Bench(quick, limits.here()), [], False
    for name in names:
        before = time.perf_counter()
        try:
            lines += PARTS[name](bench)
        except Exception as error:
            traceback.print_exc()  # the other parts' minutes are not lost for it
            lines.append(Line(name, f"python -m bench {name}", f"failed: {type(error).__name__}"))
            failed = True
        print(f"{name}: {time.perf_counter() - before:.0f} s", file=sys.stderr, flush=True)
    text = rendered(limits.described(), bench.machine, busy, lines, (time.perf_counter() - started) / 60)
    print(text)
    if failed:
        sys.exit(1)
    if not quick and names == list(PARTS):
        RESULTS.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
