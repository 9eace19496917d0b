"""Pictures of every tab in every state, language, theme and width, to be looked at by people.

``python tests/e2e/screenshots.py OUT`` makes them all (some 400; an hour on two busy cores); ``--states done --tabs chat``
and so on make a few. ``OUT/home`` keeps the runs for the next time. The finished run is the shipped example, or with
``--make`` a small one made now; the others are that run cut off at a stage, with a real failure where one is shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402
from serving import CHROMIUM, CHROMIUM_FLAGS, served  # noqa: E402

from lab import archive, domain, example, judge  # noqa: E402
from lab.__main__ import main as lab  # noqa: E402
from lab.config import STAGES  # noqa: E402
from lab.records import Pair, append_rows, write_json  # noqa: E402
from lab.run import LOCAL_OWNER, Run, new_run, runs  # noqa: E402
from lab.stages.filter import set_manual  # noqa: E402
from lab.ui.texts import TEXTS  # noqa: E402

TABS = (*STAGES, "chat")
STATES = ("first", "empty", "waiting", "running", "done", "error", "died", "stale")
DRAWERS = ("#checklist", "#manage", "#new-run")
WIDTHS = {"wide": 1280, "phone": 390}
PATIENCE = 120_000
"""Milliseconds; pictures are for looking at, not for timing."""


def stories(count: int) -> Path:
    """Own pairs as a file: the project's templates, filled."""
    rng, path = random.Random(1), Path(os.environ["LAB_HOME"]) / "own.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            p = judge.filled(rng, rng.choice(domain.templates()))
            row = {
                "instruction": p.instruction,
                "output": p.output,
                "character": p.character,
                "keywords": list(p.keywords),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def finished(make: bool) -> Run:
    """A run with every stage done: the shipped one, else one made now."""
    if not make:
        return example.take(LOCAL_OWNER, "done")
    run = new_run(title="done")
    for command in (
        ["import", run.id, str(stories(80))],
        ["filter", run.id, "--judge", "none"],
        ["train", run.id, "--epochs", "1", "--batch-size", "8"],
        ["compare", run.id, "--prompts", "4", "--max-new-tokens", "120"],
        ["publish", run.id, "--dry-run", "--data-licence", "cc0-1.0"],
    ):
        if lab(command):
            sys.exit(f"could not make the finished run: {command}")
    return run


def cut_off(done: Run, title: str, stage: str, share: float) -> Run:
    """A copy of the finished run in which ``stage`` has come to ``share`` of its rows and nothing came after it."""
    run = archive.duplicate(done, title)
    later = list(STAGES)[list(STAGES).index(stage) :]
    for name in later[1:]:
        shutil.rmtree(run.folder / name, ignore_errors=True)
    for path in (run.folder / stage).rglob("*"):
        if path.suffix == ".jsonl" and share:
            rows = path.read_text("utf-8").splitlines(keepends=True)
            path.write_text("".join(rows[: round(len(rows) * share)]), "utf-8")
        elif path.is_file() and path.name != "config.json":
            path.unlink()
    return run


FAILS = {
    "generate": ["--teacher", "nobody/no-such-model"],
    "filter": ["--judge", "nobody/no-such-model"],
    "train": ["--student", "nobody/no-such-model", "--arm", "other"],
    "compare": ["--reference", "no-such-file.jsonl"],
    "publish": ["--no-dry-run"],
}
"""What each stage cannot do: the pictures of errors are of real ones."""


def make_runs(make: bool) -> dict[str, str]:
    """A run in each state; id by title, which is the state, and the tab where each has its own."""
    known = {r.meta()["title"]: r.id for r in runs()}
    if set(titles()) <= known.keys():
        return known
    done = Run(LOCAL_OWNER, known["done"]) if "done" in known else finished(make)
    found = [done]
    for title in set(titles()) - known.keys() - {"done"}:
        state, _, stage = title.partition("-")
        if state == "stale":
            run = archive.duplicate(done, title)
            set_manual(run, next(run.pairs()).id, False, "reviewer")
            append_rows(run.pairs_file, [Pair("late", "부탁", "늦게 온 이야기예요.").row()])
        elif state == "empty":
            run = new_run(title=title)
        elif state == "error":
            run = cut_off(done, title, stage, 0.4)
            lab([stage, run.id, *FAILS[stage]])
        else:
            run = cut_off(done, title, stage or "generate", 0 if state == "waiting" else 0.4)
        found.append(run)
    return known | {r.meta()["title"]: r.id for r in found}


def titles() -> list[str]:
    """Of all runs that are needed."""
    return [
        "done",
        "empty",
        "stale",
        "waiting",
        "died",
        *(f"{s}-{stage}" for s in ("running", "error") for stage in STAGES),
    ]


def title_of(state: str, tab: str) -> str:
    """Which run shows this state in this tab."""
    known = titles()
    return next((t for t in (f"{state}-{tab}", f"{state}-generate", state) if t in known), "")


GOING = {
    "waiting": {"state": "waiting", "place": 2},
    "running": {"state": "running", "done": 37, "total": 200, "seconds_left": 140.0},
    "died": {"state": "running", "done": 37, "total": 200},
}
"""What job.json holds of a job that waits, works, or was cut off."""


def pretend(run: Run, state: str, stage: str) -> None:
    """A job in this state, with this process for its worker (for one that died: with none)."""
    facts = {"stage": stage, "command": stage, "argv": [stage, run.id]} | GOING[state]
    write_json(run.job_file, facts | {"pid": os.getpid() if state != "died" else 2**22 + 1})
    run.worker_log.write_text("Killed\n" if state == "died" else "", "utf-8")


def settle(page: Page) -> None:
    """Wait until nothing grows any more. The page polls for ever, so the network never is idle."""
    before, still, end = "", 0, time.time() + 30
    while still < 3 and time.time() < end:
        page.wait_for_timeout(300)
        now = page.evaluate("`${document.body.scrollHeight} ${document.body.innerHTML.length}`")
        before, still = now, still + 1 if now == before else 0


def tell(page: Page) -> None:
    """Hold a blind conversation up to the vote."""
    page.locator("#blind input").check()
    page.locator("#prompt textarea").fill("토끼 하루가 나오는 동화를 써 줘. '당근'과 '비'를 넣어 줘.")
    page.locator("#send").click()
    expect(page.locator("#vote-a")).to_be_enabled(timeout=PATIENCE)


def opened(page: Page, url: str, run: str, words: dict[str, str]) -> None:
    """The page with this run, as it looks after the first look."""
    page.goto(f"{url}/?run={run}")
    expect(page.get_by_role("heading", name=words["title"])).to_be_visible(timeout=PATIENCE)
    if run:
        expect(page.locator("#checklist")).to_contain_text("8", timeout=PATIENCE)
    else:
        expect(page.locator("#greeting")).to_be_visible(timeout=PATIENCE)
    settle(page)


def take(page: Page, url: str, made: dict[str, str], out: Path, name: str, words: dict[str, str], state: str, tabs: list[str]) -> None:  # fmt: skip
    """The tabs of one state."""
    shown = None
    for tab in tabs:
        run = made.get(title_of(state, tab), "")
        if run != shown:
            opened(page, url, run, words)
            for drawer in DRAWERS if state in ("done", "first") and shown is None else ():
                if not page.locator(drawer).is_visible():  # a visitor without a run has nothing to check
                    continue
                page.locator(f"{drawer} button").first.click()
                settle(page)
                page.screenshot(path=out / f"{name}-{drawer[1:]}.png", full_page=True)
                page.locator(f"{drawer} button").first.click()
            shown = run
        page.locator(f"#tab-{tab}-button").click()
        settle(page)  # charts draw after the tab has opened
        page.screenshot(path=out / f"{name}-{tab}.png", full_page=True)
        if tab == "chat" and state == "done":
            tell(page)
            page.screenshot(path=out / f"{name}-{tab}-blind.png", full_page=True)
            page.locator("#vote-b").click()
            expect(page.locator("#note-a .who")).to_be_visible(timeout=PATIENCE)  # the names are told
            page.screenshot(path=out / f"{name}-{tab}-voted.png", full_page=True)


def main() -> None:
    """Make the runs, start the app, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--make", action="store_true", help="make the finished run instead of taking the shipped one")
    for option, values in (("states", STATES), ("tabs", TABS), ("languages", ("ko", "en")), ("themes", ("light", "dark")), ("widths", tuple(WIDTHS))):  # fmt: skip
        parser.add_argument(f"--{option}", nargs="+", choices=values, default=list(values))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    home = args.out.resolve() / "home"
    home.mkdir(exist_ok=True)
    os.environ |= {"LAB_HOME": str(home), "LAB_OFFLINE": "1"}
    made = make_runs(args.make) if set(args.states) - {"first"} else {}
    for title, run in made.items():
        state, _, stage = title.partition("-")
        if state in GOING:
            pretend(Run(LOCAL_OWNER, run), state, stage or "generate")
    (home / "none").mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        for shelf, states in ((home / "none", {"first"}), (home, set(STATES) - {"first"})):
            wanted = [s for s in args.states if s in states]
            if not wanted:
                continue
            with served(shelf) as url:
                for state, language, theme, width in itertools.product(
                    wanted, args.languages, args.themes, args.widths
                ):
                    page = browser.new_context(
                        locale={"ko": "ko-KR", "en": "en-US"}[language],
                        color_scheme=theme,
                        viewport={"width": WIDTHS[width], "height": 900},
                    ).new_page()
                    page.set_default_timeout(PATIENCE)
                    started = time.time()
                    take(page, url, made, args.out, f"{state}-{language}-{theme}-{width}", TEXTS[language], state, args.tabs)  # fmt: skip
                    print(f"{state} {language} {theme} {width}: {time.time() - started:.0f} s", flush=True)
                    page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
