"""Blind votes on stories told side by side: appended to votes.jsonl of the run, counted pair by pair."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from lab.intervals import wilson
from lab.records import append_rows, read_rows, repair
from lab.run import Run

CHOICES = ("a", "b", "c", "tie", "bad")
"""The first, second, third story; all equally good; all bad."""


def vote(
    run: Run, choice: str, answers: Sequence[dict[str, Any]], instruction: str, who: str, **setting: Any
) -> dict[str, Any]:
    """Append one vote; ``answers`` in the order in which they were shown, each with name, spec, revision, text."""
    row = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "who": who,
        "vote": choice,
        "winner": answers[CHOICES.index(choice)]["name"] if choice in CHOICES[: len(answers)] else choice,
        "instruction": instruction,
        "answers": list(answers),
        **setting,
    }
    repair(run.votes_file)
    append_rows(run.votes_file, [row])
    return row


@dataclass(frozen=True)
class Duel:
    """Two speakers over all votes in which both were shown: wins of each, ties, and how often both were bad.

    ``share`` is the part of the decided and tied votes that went to ``first`` (a tie counts half), with its 95 %
    Wilson interval; 0.5 inside ``low`` to ``high`` means that people did not tell them apart. With no vote all are None.
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    bad: int
    share: float | None
    low: float | None
    high: float | None


def against(run: Run, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """People's preferences among the ``models`` of a report, with intervals, as they stand in report.json.

    A vote counts only where all that was read came from the very weights of the report; ``outdated`` are the others.
    """
    known: dict[str, set[str]] = {}
    for m in models:
        name = f"arm {m['name']}" if m["who"] == "arm" else m["who"]
        known.setdefault(name, set()).update(x for x in (m.get("revision"), m.get("adapter")) if x)
    rows = list(read_rows(run.votes_file))
    current = [r for r in rows if all(a.get("revision") in known.get(a["name"], ()) for a in r["answers"])]
    return {"duels": [asdict(d) for d in counted(current)], "outdated": len(rows) - len(current)}


def count(run: Run) -> list[Duel]:
    """A duel for each pair of speakers that was voted on, most votes first; teacher is never ``first`` of a pair."""
    return counted(read_rows(run.votes_file))


def counted(rows: Iterable[dict[str, Any]]) -> list[Duel]:
    """The same of the given votes."""
    tally: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        names = sorted((a["name"] for a in row["answers"]), key=lambda n: (n == "teacher", n == "base", n))
        for pair in combinations(names, 2):
            slot = {pair[0]: 0, pair[1]: 1, "tie": 2, "bad": 3}.get(row["winner"])
            if slot is not None:  # a third speaker won: nothing is said about these two
                tally.setdefault(pair, [0, 0, 0, 0])[slot] += 1
    duels = [Duel(*pair, *n, *share(n[0] + n[2] / 2, sum(n[:3]))) for pair, n in tally.items()]
    return sorted(duels, key=lambda d: -(d.wins + d.losses + d.ties + d.bad))


def share(wins: float, total: int) -> tuple[float | None, float | None, float | None]:
    """(share, low, high) with Wilson's score interval; a tie may count as half a win."""
    return (wins / total, *wilson(wins / total, total)) if total else (None, None, None)
