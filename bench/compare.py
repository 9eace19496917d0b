"""Seconds for a whole comparison of four models of the mini pair: ``python bench/compare.py [PROMPTS] [JUDGE]`` (200 mini).

Teacher, untrained student and two arms, trained for a moment before the clock starts; everything that compare does is
inside: likelihoods, probes, answers, copies, speed in turn, judge and duels, intervals, charts and report.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ |= {"LAB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from lab.config import CompareConfig, TrainConfig
from lab.progress import Progress
from lab.records import Verdict, append_rows, write_json
from lab.run import new_run
from lab.stages import compare, train


def main() -> None:
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    judge = sys.argv[2] if len(sys.argv) > 2 else "mini"
    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = home
        run = new_run("mini", "bench")
        pairs = [replace(p, split="test" if i % 10 == 0 else "train") for i, p in enumerate(train.human_pairs(200, 0))]
        append_rows(run.pairs_file, [p.row() for p in pairs])
        append_rows(run.verdicts_file, [Verdict(p.id, True).row() for p in pairs])
        write_json(run.stage_folder("generate") / "config.json", {"teacher": "mini:teacher"})
        for arm, share in (("distilled", 1.0), ("top50", 0.5)):
            train.run(run, TrainConfig(arm=arm, keep_top=share, epochs=0.2), Progress(run, "train", []))
        started = time.perf_counter()
        report = compare.run(run, CompareConfig(prompts=prompts, judge=judge), Progress(run, "compare", [], say=True))
        seconds = time.perf_counter() - started
    written = sum(m["mean_characters"] for m in report["models"]) * prompts
    print(f"{prompts} prompts x {len(report['models'])} models, judge {judge}: {seconds:.1f} s, {written:,.0f} characters written")  # fmt: skip


if __name__ == "__main__":
    main()
