"""Whole-process tokens per second of generate against the one-by-one loop: ``python bench/generate.py [PAIRS] [LOOP_PAIRS]``.

The loop is the reference way: ``model.generate`` on one prompt after another, same teacher, prompts, dtype and
sampling settings. Both sides are timed from the start of their process to its end (imports and loading included) and
count the tokens that they wrote. The loop gets fewer pairs, as it needs most of the time; both print their start-up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import domain
from lab.config import GenerateConfig
from lab.run import new_run

ROOT = Path(__file__).resolve().parent.parent
CONFIG = GenerateConfig()


def one_by_one(count: int) -> None:
    """The reference loop; prints tokens and the seconds of writing alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lab.models import resolve

    folder = resolve(CONFIG.teacher)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(CONFIG.seed)
    tokens, started = 0, time.perf_counter()
    for prompt in domain.prompts(count, CONFIG.seed):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.instruction}], add_generation_prompt=True, return_tensors="pt"
        )
        out = model.generate(
            **ids,
            do_sample=True,
            temperature=CONFIG.temperature,
            top_p=CONFIG.top_p,
            top_k=0,
            max_new_tokens=CONFIG.max_new_tokens,
        )
        tokens += out.shape[1] - ids["input_ids"].shape[1]
    print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - started}))


def timed(name: str, count: int, command: list[str], home: str) -> dict[str, Any]:
    """Run the command and print its line."""
    started = time.perf_counter()
    told = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "LAB_HOME": home, "LAB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - started
    facts = json.loads(told.stdout)
    facts["per_second"] = facts["tokens"] / seconds
    writing = facts["seconds"]
    start_up = seconds - writing
    print(
        f"{name}: {count} stories, {facts['tokens']} tokens in {seconds:.1f} s ({start_up:.1f} s of it not writing): "
        f"{facts['per_second']:.0f} tokens/s, {facts['tokens'] / writing:.0f} while writing",
        file=sys.stderr,
        flush=True,
    )
    return facts


def both(pairs: int, loop: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our side and the loop, each in processes of their own."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["LAB_HOME"] = home
        run = new_run()
        ours = timed("generate  ", pairs, ["-m", "lab", "generate", run.id, "--pairs", str(pairs), "--json"], home)
        return ours, timed("one by one", loop, ["bench/generate.py", "--one-by-one", str(loop)], home)


def main() -> None:
    """Print both sides and the ratio."""
    if sys.argv[1:2] == ["--one-by-one"]:
        one_by_one(int(sys.argv[2]))
        return
    pairs, loop = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 1024), (2, 64)))
    ours, theirs = both(pairs, loop)
    print(f"ratio: {ours['per_second'] / theirs['per_second']:.1f} (whole process)")


if __name__ == "__main__":
    main()
