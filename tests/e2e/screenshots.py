"""Pictures of every tab in every state, language, theme and width, to be looked at by people.

``python tests/e2e/screenshots.py OUT`` makes them all (some 200; minutes); ``--states done --languages ko`` and so on
make a few. The runs behind them are real and small: stories from the templates, one epoch of the embedded student.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402
from serving import CHROMIUM, CHROMIUM_FLAGS, served  # noqa: E402

from lab import archive, domain, judge  # noqa: E402
from lab.__main__ import main as lab  # noqa: E402
from lab.config import STAGES  # noqa: E402
from lab.records import append_rows, write_json  # noqa: E402
from lab.run import LOCAL_OWNER, Run, new_run, runs  # noqa: E402
from lab.stages.filter import set_manual  # noqa: E402
from lab.ui.texts import TEXTS  # noqa: E402

TABS = (*STAGES, "chat")
STATES = ("first", "empty", "waiting", "running", "done", "error", "died", "stale")
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


def finished(example: Path | None) -> Run:
    """A run with every stage done: the given zip, else made now."""
    if example:
        run = archive.unpack(example, LOCAL_OWNER)
        run.rename("done")
        return run
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


def make_runs(example: Path | None) -> dict[str, str]:
    """A run in each state; id by state. ``first`` is an app without any run."""
    known = {r.meta()["title"]: r.id for r in runs()}
    if set(STATES) - {"first"} <= known.keys():
        return known
    done = Run(LOCAL_OWNER, known["done"]) if "done" in known else finished(example)
    stale = archive.duplicate(done, "stale")
    set_manual(stale, next(stale.pairs()).id, False, "reviewer")
    error = new_run(title="error")
    lab(["generate", error.id, "--teacher", "nobody/no-such-model"])
    made = [done, stale, error, new_run(title="empty")]
    for state in GOING:
        run = new_run(title=state)
        write_json(run.stage_folder("generate") / "config.json", {"pairs": 200})
        append_rows(run.pairs_file, [p.row() for p in itertools.islice(done.pairs(), 0 if state == "waiting" else 37)])
        made.append(run)
    return {r.meta()["title"]: r.id for r in made}


GOING = {
    "waiting": {"state": "waiting", "place": 2},
    "running": {"state": "running", "done": 37, "total": 200, "seconds_left": 140.0},
    "died": {"state": "running", "done": 37, "total": 200},
}
"""What job.json holds of a job that waits, works, or was cut off."""


def pretend(run: Run, state: str) -> None:
    """A job in this state, with this process for its worker (for one that died: with none)."""
    facts = {"stage": "generate", "command": "generate", "argv": ["generate", run.id]} | GOING[state]
    write_json(run.job_file, facts | {"pid": os.getpid() if state != "died" else 2**22 + 1})
    run.worker_log.write_text("Killed\n" if state == "died" else "", "utf-8")


def tell(page: Page, words: dict[str, str]) -> None:
    """Hold a blind conversation up to the vote."""
    page.locator("#blind input").check()
    page.locator("#prompt textarea").fill("토끼 하루가 나오는 동화를 써 줘. '당근'과 '비'를 넣어 줘.")
    page.locator("#send").click()
    expect(page.locator("#vote-a")).to_be_enabled(timeout=PATIENCE)


def take(page: Page, url: str, run: str, out: Path, name: str, words: dict[str, str], state: str) -> None:
    """All tabs of one state."""
    page.goto(f"{url}/?run={run}")
    expect(page.get_by_role("heading", name=words["title"])).to_be_visible(timeout=PATIENCE)
    page.wait_for_load_state("networkidle")
    for drawer in ("#checklist", "#manage", "#new-run") if state in ("done", "first") else ():
        page.locator(f"{drawer} button").first.click()
        page.wait_for_timeout(400)
        page.screenshot(path=out / f"{name}-{drawer[1:]}.png", full_page=True)
        page.locator(f"{drawer} button").first.click()
    for tab in TABS:
        page.locator(f"#tab-{tab}-button").click()
        page.wait_for_timeout(700)  # charts draw after the tab has opened
        page.screenshot(path=out / f"{name}-{tab}.png", full_page=True)
        if tab == "chat" and state == "done":
            tell(page, words)
            page.screenshot(path=out / f"{name}-{tab}-blind.png", full_page=True)
            page.locator("#vote-b").click()
            expect(page.locator("#tally")).to_contain_text(words["tally"], timeout=PATIENCE)
            page.screenshot(path=out / f"{name}-{tab}-voted.png", full_page=True)


def main() -> None:
    """Make the runs, start the app, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--example", type=Path, help="the zip of a finished run, instead of making one")
    for option, values in (("states", STATES), ("languages", ("ko", "en")), ("themes", ("light", "dark")), ("widths", tuple(WIDTHS))):  # fmt: skip
        parser.add_argument(f"--{option}", nargs="+", choices=values, default=list(values))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    home = args.out.resolve() / "home"
    home.mkdir(exist_ok=True)
    os.environ |= {"LAB_HOME": str(home), "LAB_OFFLINE": "1"}
    made = make_runs(args.example) if set(args.states) - {"first"} else {}
    for state in GOING.keys() & made.keys():
        pretend(Run(LOCAL_OWNER, made[state]), state)
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
                    take(page, url, made.get(state, ""), args.out, f"{state}-{language}-{theme}-{width}", TEXTS[language], state)  # fmt: skip
                    print(f"{state} {language} {theme} {width}: {time.time() - started:.0f} s", flush=True)
                    page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
