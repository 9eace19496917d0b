"""Stories as HTML: everything escaped, the asked character and words marked, and what a filter found."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lab.domain import short_name
from lab.records import Pair, Verdict
from lab.ui.texts import reason, say


def marked(text: str, marks: list[tuple[int, int, str]]) -> str:
    """``text`` escaped, with (start, end, class) spans marked; where two overlap the first given wins."""
    owner: list[str | None] = [None] * len(text)
    for start, end, kind in marks:
        for i in range(max(0, start), min(len(text), end)):
            owner[i] = owner[i] or kind
    out, at = [], 0
    while at < len(text):
        end = at
        while end < len(text) and owner[end] == owner[at]:
            end += 1
        part = escape(text[at:end])
        out.append(f'<mark class="{owner[at]}">{part}</mark>' if owner[at] else part)
        at = end
    return "".join(out)


def _places(text: str, word: str, kind: str) -> list[tuple[int, int, str]]:
    found, at = [], text.find(word) if word else -1
    while at >= 0:
        found.append((at, at + len(word), kind))
        at = text.find(word, at + len(word))
    return found


def card(
    pair: Pair,
    language: str,
    verdict: Verdict | None = None,
    extra: str = "",
    also: Sequence[tuple[int, int, str]] = (),
    good: str = "kept",
) -> str:
    """One story with its instruction; with a verdict also the reasons and the place that gave them.

    Words that are missing in the story are named beside their reason and marked where the instruction asks for them.

    ``extra`` is HTML for the end of the card's foot, ``also`` are further places to mark, below all others; ``good`` is
    the text for a story without a fault: nothing is kept where no data set is made.
    """
    marks: list[tuple[int, int, str]] = []
    missing: list[tuple[int, int, str]] = []
    chips = []
    if verdict:
        shown = verdict.scores.get("found", {})
        for why in verdict.reasons:
            name, place = reason(why, language), shown.get(why) or []
            words = [x for x in place if isinstance(x, str)]
            if place and not words:
                marks.append((place[0], place[1], "fault"))
            for word in words:
                missing += _places(pair.instruction, word, "fault")
            chips.append(
                f'<span class="chip bad">{escape(": ".join([name, ", ".join(words)] if words else [name]))}</span>'
            )
        if verdict.kept:
            chips.append(f'<span class="chip good">{say(good, language)}</span>')
        if verdict.judge is not None:
            why = escape(verdict.scores.get("judge_reason", ""))
            chips.append(f"<span>{say('judge', language)} {verdict.judge:.1f} {why}</span>")
        if verdict.by == "human":
            chips.append(f'<span class="chip">{say("show_people", language)}</span>')
    elif pair.finish == "length":
        chips.append(f'<span class="chip bad">{say("cut_off", language)}</span>')
    if pair.character:
        marks += _places(pair.output, pair.character, "who") + _places(pair.output, short_name(pair.character), "who")
    for word in pair.keywords:
        marks += _places(pair.output, word, "word")
    marks += also
    chips.append(f"<span>{say('length', language, n=len(pair.output))}</span>")
    kind = "" if verdict is None else " kept" if verdict.kept else " dropped"
    return (
        f'<article class="story{kind}" lang="ko"><div class="ask">{marked(pair.instruction, missing)}</div>'
        f'<div class="text">{marked(pair.output, marks)}</div><div class="foot">{"".join(chips)}{extra}</div></article>'
    )


def shelf(cards: list[str]) -> str:
    """Cards side by side."""
    return f'<div class="stories">{"".join(cards)}</div>'


def empty(key: str, language: str) -> str:
    """What to do when there is nothing to show yet."""
    return f'<div class="empty" data-key="{key}">{say(key, language)}</div>'


def facts(items: list[tuple[str, str]]) -> str:
    """Numbers with their names, large."""
    return f'<div class="facts">{"".join(f"<div><b>{escape(value)}</b><small>{escape(name)}</small></div>" for value, name in items)}</div>'
