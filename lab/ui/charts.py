"""Plotly figures in the app's colours. Plotly is imported when the first figure is drawn."""

from __future__ import annotations

from typing import Any

from lab.ui.texts import reason, say
from lab.ui.theme import BLUE, FONTS, GREEN, ORANGE, RED


def blank(title: str, height: int, x: str = "", y: str = "") -> Any:
    """An empty figure in the app's look."""
    import plotly.graph_objects as go

    ink = "#7a6a5c"  # readable on light paper and on dark
    axis = {"gridcolor": "rgba(128,110,95,.2)", "zerolinecolor": "rgba(128,110,95,.4)", "automargin": True}
    return go.Figure(
        layout={
            "title": {"text": title, "font": {"size": 15}, "x": 0, "pad": {"l": 14}},
            "font": {"family": ", ".join(FONTS), "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "height": height,
            "margin": {"l": 10, "r": 20, "t": 50, "b": 10},
            "xaxis": axis | {"title": {"text": x}},
            "yaxis": axis | {"title": {"text": y}},
            "legend": {"orientation": "h", "y": -0.25},
        }
    )


def funnel(total: int, steps: list[dict[str, Any]], language: str) -> Any:
    """From written to kept: what is left after each reason, and how many it took."""
    kept = steps[-1]["left"] if steps else total
    figure = blank(say("funnel_chart", language), 90 + 24 * (len(steps) + 2))
    figure.add_funnel(
        y=[say("written", language), *(reason(s["reason"], language) for s in steps), say("kept", language)],
        x=[total, *(s["left"] for s in steps), kept],
        text=[f"{total:,}", *(f"{s['left']:,} (−{s['dropped']:,})" for s in steps), f"{kept:,}"],
        textinfo="text",
        textfont={"color": ["#ffffff", *["#211b19"] * (len(steps) + 1)]},
        marker={"color": [BLUE, *[ORANGE] * len(steps), GREEN]},
        hoverinfo="text",
        connector={"fillcolor": "rgba(128,110,95,.12)"},
    )
    return figure


def pass_curve(points: list[tuple[float, float]], threshold: float, language: str) -> Any:
    """Pass rate by minimum score, and where the slider stands."""
    figure = blank(say("curve_chart", language), 260, x=say("score_axis", language), y=say("pass_rate", language))
    figure.add_scatter(
        x=[t for t, _ in points], y=[r for _, r in points], mode="lines", line={"color": BLUE, "width": 3}
    )
    now = min(points, key=lambda p: abs(p[0] - threshold))
    # On the side where there is room: neither on the line of one half nor on the axis.
    side = "bottom" if 0.2 < now[1] < 0.5 else "top"
    figure.add_scatter(
        x=[now[0]], y=[now[1]], mode="markers+text", marker={"color": ORANGE, "size": 13},
        text=[f"{say('now', language)} {now[1]:.0%}"], textposition=f"{side} center",
    )  # fmt: skip
    figure.add_hline(y=0.5, line={"color": RED, "dash": "dot", "width": 1})
    # A little below nothing, so that the first numbers of both axes do not meet.
    figure.update_yaxes(tickformat=".0%", range=[-0.06, 1.08])
    figure.update_layout(showlegend=False)
    return figure


def name(model: dict[str, Any], language: str) -> str:
    """Who it is, in words; a trained arm that is not called distilled with its name."""
    who = model["who"]
    words = say(who if who in ("teacher", "base") else "student", language)
    return f"{words} ({model['name']})" if who == "arm" and model["name"] != "distilled" else words


def coverage(characters: dict[str, int], language: str) -> Any:
    """How many stories each character has, most first: an even line means an even grid."""
    items = sorted(characters.items(), key=lambda x: -x[1])
    label = say("character_axis", language, n=f"{len(items):,}")
    figure = blank(say("coverage_chart", language), 260, x=label, y=say("stories_axis", language))
    figure.add_bar(
        x=list(range(len(items))),
        y=[n for _, n in items],
        marker_color=BLUE,
        hovertext=[f"{name}: {n}" for name, n in items],
        hoverinfo="text",
    )
    figure.update_xaxes(showticklabels=False)
    figure.update_layout(bargap=0.15)
    return figure


def lengths(counts: dict[int, int], step: int, limits: tuple[int, int], language: str) -> Any:
    """Stories by length, and between which lengths the filter keeps them."""
    axis = say("length_axis", language)
    figure = blank(say("length_chart", language), 260, x=axis, y=say("stories_axis", language))
    items = sorted(counts.items())
    figure.add_bar(
        x=[start + step / 2 for start, _ in items], y=[n for _, n in items], width=step, marker_color=GREEN,
        hovertext=[f"{start}-{start + step - 1}: {n}" for start, n in items], hoverinfo="text",
    )  # fmt: skip
    for limit in limits:
        figure.add_vline(x=limit, line={"color": RED, "dash": "dot", "width": 1})
    return figure
