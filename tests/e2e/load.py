"""Thirty visitors on loopback, who come within ten seconds and stay: how long pages and looks take, whether they mix,
whether memory stays flat.

``python tests/e2e/load.py [--visitors 30] [--seconds 30] [--chats 0] [--job]`` prints one JSON object. ``--job`` works
beside it, ``--chats 200`` tells that many stories afterwards. Bounded, and asks nothing outside this machine. For the
whole measure: ``--seconds 90 --job`` (over 1,000 looks), and ``--visitors 1 --seconds 1 --chats 200`` for memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import httpx  # noqa: E402
from serving import served  # noqa: E402

from lab import jobs  # noqa: E402
from lab.records import Pair, append_rows  # noqa: E402
from lab.run import new_run  # noqa: E402

APART = 0.3
"""Seconds between two visitors who open the page: a class that follows a link within ten seconds."""
PAUSE = 1.5
"""Seconds between two looks, as the page has it."""


def memory(url: str) -> int:
    """Resident bytes of the app that listens at ``url``."""
    port = f":{int(url.rsplit(':', 1)[1]):04X}"
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines() if f"{port} 00000000" in line}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = {os.readlink(p) for p in folder.iterdir()}
        except OSError:
            continue
        if any(f"socket:[{i}]" in links for i in inodes):
            return int((folder.parent / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    raise RuntimeError(f"nobody listens at {url}")


def look_of(config: dict[str, Any]) -> tuple[int, list[int]]:
    """(number, inputs) of the function that the page's timer calls."""
    found = next(d for d in config["dependencies"] if any(event == "tick" for _, event in d["targets"]))
    return found["id"], found["inputs"]


async def visitor(
    url: str,
    config: dict[str, Any],
    number: int,
    run: str,
    title: str,
    until: float,
    pages: list[float],
    looks: list[float],
    mixed: list[str],
) -> None:
    """Open the page, then look like the page does; every answer must hold this visitor's own run."""
    await asyncio.sleep(number * APART)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        started = time.perf_counter()
        page = await client.get("/")
        page.raise_for_status()
        pages.append(time.perf_counter() - started)
        values = {c["id"]: c["props"].get("value") for c in config["components"]}
        types = {c["id"]: c for c in config["components"]}
        id_, inputs = look_of(config)
        chosen, first = inputs[0], True
        data = [run if i == chosen else None if types[i]["type"] == "state" else values.get(i) for i in inputs]
        # The page's opening fills the list of runs; a choice that is not in it would be refused.
        at_load = [d for d in config["dependencies"] if any(event == "load" for _, event in d["targets"])]
        for opening in (d for d in at_load if d["backend_fn"]):  # the others are the browser's alone
            asked = {"fn_index": opening["id"], "data": [], "session_hash": f"load-{number}"}
            (await client.post("/gradio_api/run/predict", json=asked)).raise_for_status()
        while time.perf_counter() < until:
            started = time.perf_counter()
            answer = await client.post(
                "/gradio_api/run/predict",
                json={"fn_index": id_, "data": data, "session_hash": f"load-{number}"},
            )
            answer.raise_for_status()
            looks.append(time.perf_counter() - started)
            told = set(re.findall(r"이야기-\d+-끝", answer.text))
            if told - {title} or (first and told != {title}):
                mixed.append(f"{title}: {sorted(told)}")
            first = False
            await asyncio.sleep(PAUSE)


async def load(url: str, visitors: int, seconds: float, made: list[tuple[str, str]]) -> dict[str, Any]:
    """All visitors together."""
    pages: list[float] = []
    looks: list[float] = []
    mixed: list[str] = []
    until = time.perf_counter() + seconds
    before = memory(url)
    config = httpx.get(f"{url}/config", timeout=60).json()  # the page holds it, a browser does not ask for it

    async def a_quarter() -> int:
        await asyncio.sleep(seconds / 4)
        return memory(url)

    everybody = (visitor(url, config, i, *made[i], until, pages, looks, mixed) for i in range(visitors))
    flat, *_ = await asyncio.gather(a_quarter(), *everybody)
    return {
        "visitors": visitors,
        "looks": len(looks),
        "page_ms": {"median": round(1000 * statistics.median(pages)), "most": round(1000 * max(pages))},
        "look_ms": {
            "median": round(1000 * statistics.median(looks)),
            "p95": round(1000 * (statistics.quantiles(looks, n=20)[-1] if len(looks) > 1 else looks[0])),
            "most": round(1000 * max(looks)),
        },
        "mixed": mixed[:5],
        "memory_mb": {"before": before // 2**20, "after_a_quarter": flat // 2**20, "after": memory(url) // 2**20},
    }


def chats(url: str, run: str, count: int) -> dict[str, Any]:
    """Stories told one after the other through the named endpoint; memory after a quarter of them and at the end."""
    from gradio_client import Client

    app, seconds, flat = Client(url, verbose=False), [], 0
    for i in range(count):
        if i == count // 4:
            flat = memory(url)
        started = time.perf_counter()
        app.predict(run, "토끼 하루가 나오는 동화를 써 줘.", 0.8, i, api_name="/tell")
        seconds.append(time.perf_counter() - started)
    return {
        "chats": count,
        "seconds_median": round(statistics.median(seconds), 2),
        "memory_mb": {"after_a_quarter": flat // 2**20, "after_all": memory(url) // 2**20},
    }


def main() -> None:
    """Make a run for each visitor, start the app, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--chats", type=int, default=0, help="stories to be told after the visitors")
    parser.add_argument("--job", action="store_true", help="generate stories with the embedded teacher meanwhile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LAB_HOME": folder, "LAB_OFFLINE": "1"}
        made = []
        for i in range(args.visitors):
            run = new_run(title=f"손님 {i}")
            append_rows(run.pairs_file, [Pair("1", "부탁", f"이야기-{i}-끝").row()])
            made.append((run.id, f"이야기-{i}-끝"))
        with served(Path(folder)) as url:
            working = new_run() if args.job else None
            if working:
                jobs.start(working, ["run", working.id, "--pairs", "5000"])
                time.sleep(15)  # its imports are over, it is at work
            try:
                found = asyncio.run(load(url, args.visitors, args.seconds, made))
            finally:
                if working:
                    os.killpg(json.loads(working.job_file.read_text())["pid"], signal.SIGKILL)
            if args.chats:
                found |= chats(url, made[0][0], args.chats)
            print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
