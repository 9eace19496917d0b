"""Figures of the Train tab: the chosen arm's losses, other arms beside it, and what a training is watched by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.ui.charts import blank
from lab.ui.texts import say
from lab.ui.theme import BLUE, GREEN, ORANGE, RED

Rows = Sequence[dict[str, Any]]
Points = list[tuple[float, float]]

MOST = 400
"""Points of a line: as many as a screen shows, however long the training."""
OTHERS = (
    (GREEN, "square", "dash"),
    ("#CC79A7", "diamond", "dot"),
    ("#56B4E9", "triangle-up", "dashdot"),
    (RED, "cross", "longdash"),
    ("#6B6B6B", "x", "longdashdot"),
)
"""Colour, marker and dash of the arms beside the chosen one, so that colour is never needed alone."""
SMOOTHED = 10
"""Steps over which tokens per second are taken."""


def points(rows: Rows, key: str) -> Points:
    """(step, value) of the rows that have ``key``, thinned to MOST, the last one kept."""
    found = [(r["step"], r[key]) for r in rows if r.get(key) is not None and r.get("step") is not None]
    every = max(1, -(-len(found) // MOST))
    return found[::-every][::-1]


def speeds(rows: Rows) -> Points:
    """(step, useful tokens per second), each over the last SMOOTHED steps; rows count tokens from the start."""
    taken = [r for r in rows if r.get("tokens") is not None and r.get("seconds")]
    gains = [
        (r["step"], r["tokens"] - before, r["seconds"])
        for before, r in zip([0, *(r["tokens"] for r in taken)], taken, strict=False)
    ]
    found = []
    for at in range(len(gains)):
        last = gains[max(0, at + 1 - SMOOTHED) : at + 1]
        found.append({"step": gains[at][0], "speed": sum(g[1] for g in last) / sum(g[2] for g in last)})
    return points(found, "speed")


def losses(rows: Rows, others: dict[str, Rows], language: str) -> Any:
    """Training loss and loss on unseen stories of the chosen arm; of ``others`` by name the latter, else the former."""
    below = 80 + 14 * len(others)  # ticks, title and a legend that takes a line for each arm on a phone
    figure = blank(say("loss_chart", language), 320 + below, x=say("step_axis", language), y=say("loss_axis", language))
    _line(figure, points(rows, "loss"), say("loss", language), {"color": BLUE, "width": 1.5})
    _line(figure, points(rows, "eval_loss"), say("eval_loss", language), {"color": ORANGE, "width": 3}, "circle")
    for (name, theirs), (colour, symbol, dash) in zip(others.items(), OTHERS, strict=False):
        unseen = points(theirs, "eval_loss")
        label = say("arm_unseen" if unseen else "arm_loss", language, arm=name)
        style = {"color": colour, "width": 2, "dash": dash}
        _line(figure, unseen or points(theirs, "loss"), label, style, symbol if unseen else "")
    figure.update_layout(
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        margin={"b": below},
    )
    return figure


def line(key: str, found: Points, colour: str, language: str, form: str = "") -> Any:
    """One quantity by step, small; ``key`` names its title, ``form`` is how its ticks are written."""
    figure = blank(say(key, language), 230, x=say("step_axis", language))
    _line(figure, found, say(key, language), {"color": colour, "width": 2})
    figure.update_layout(showlegend=False)
    figure.update_yaxes(tickformat=form)
    return figure


def _line(figure: Any, found: Points, name: str, style: dict[str, Any], symbol: str = "") -> None:
    if found:
        figure.add_scatter(
            x=[p[0] for p in found],
            y=[p[1] for p in found],
            name=name,
            mode="lines+markers" if symbol or len(found) == 1 else "lines",
            line=style,
            marker={"symbol": symbol or "circle", "size": 9 if symbol else 6},
        )
