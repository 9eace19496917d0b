"""What this machine is and what it can do at most: bytes and multiplications a second, measured, not read off a label."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "gradio", "rensa", "hyperscan", "numpy")


@dataclass(frozen=True)
class Machine:
    """Bytes and floating-point operations a second."""

    bytes: float
    flops: float


T4 = Machine(320e9, 65e12)
"""NVIDIA's data sheet: GDDR6 at 320 GB/s, 65 TFLOP/s in fp16 with tensor cores."""


def described() -> dict[str, str]:
    """Model of the processor, cores, memory, system and versions; nothing that names the machine."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {"processor": cpu, "cores": str(os.cpu_count()), "memory": f"{memory:.0f} GB"}
    facts |= {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    return facts | {name: version(name) for name in LIBRARIES}


def busy() -> float:
    """The share of all cores that others use in half a second of rest: above 0.1 the figures are not worth much."""

    def times() -> list[int]:
        return [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]

    before = times()
    time.sleep(0.5)
    spent = [b - a for a, b in zip(before, times(), strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def best(work: Any, times: int = 5) -> float:
    """The shortest of some durations: a limit is what the machine reaches when nothing disturbs it."""
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def here() -> Machine:
    """This processor with all cores: a + b -> c over 1.5 GB for the bytes, fp32 products of 2,048 for the operations."""
    import torch

    a, b = torch.rand(2**27), torch.rand(2**27)
    c = torch.empty_like(a)
    moved = 3 * a.numel() * a.element_size() / best(lambda: torch.add(a, b, out=c))
    side = 2048
    x, y = torch.rand(side, side), torch.rand(side, side)
    multiplied = 2 * side**3 / best(lambda: x @ y)
    return Machine(moved, multiplied)


def told(values: list[float], form: str = ",.0f") -> str:
    """Median and spread: "120 (110 to 131)"; a single value stands alone."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def megabytes(pid: int, field: str) -> int:
    """A size of a process as /proc/PID/status names it (VmHWM, RssAnon); 0 where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith(field)), 0)
