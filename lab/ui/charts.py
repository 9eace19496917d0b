"""Plotly figures in the app's colours. Plotly is imported when the first figure is drawn."""

from __future__ import annotations

from typing import Any

from lab.ui.texts import reason, say
from lab.ui.theme import BLUE, FONTS, GREEN, ORANGE

WHO_COLOURS = {"teacher": BLUE, "base": "#6b6b6b", "arm": GREEN}


def _figure(title: str, height: int, x: str = "", y: str = "") -> Any:
    import plotly.graph_objects as go

    ink = "#7a6a5c"  # readable on light paper and on dark
    axis = {"gridcolor": "rgba(128,110,95,.2)", "zerolinecolor": "rgba(128,110,95,.4)", "automargin": True}
    return go.Figure(
        layout={
            "title": {"text": title, "font": {"size": 15}},
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


def reasons_bar(counts: dict[str, int], language: str) -> Any:
    """Dropped stories by reason, most at the top."""
    figure = _figure(say("reasons_chart", language), 130 + 30 * len(counts), x=say("stories_axis", language))
    items = sorted(counts.items(), key=lambda x: x[1])
    figure.add_bar(
        x=[n for _, n in items],
        y=[reason(r, language) for r, _ in items],
        orientation="h",
        marker_color=ORANGE,
        text=[n for _, n in items],
    )
    return figure


def loss_curve(rows: list[dict[str, Any]], language: str) -> Any:
    """Training loss and loss on unseen stories by step."""
    figure = _figure(say("loss_chart", language), 380, x=say("step_axis", language), y=say("loss_axis", language))
    for key, colour, mode in (("loss", BLUE, "lines"), ("eval_loss", ORANGE, "lines+markers")):
        points = [(r["step"], r[key]) for r in rows if r.get(key) is not None and r.get("step") is not None]
        if points:
            figure.add_scatter(
                x=[p[0] for p in points],
                y=[p[1] for p in points],
                name=say(key, language),
                mode=mode,
                line={"color": colour, "width": 2},
            )
    return figure


def comparison(models: list[dict[str, Any]], measure: str, language: str) -> Any:
    """One measure of every model as bars with its interval where there is one."""
    better = "lower" if measure in ("perplexity", "bits_per_byte", "size_bytes") else "higher"
    figure = _figure(f"{say(measure, language)} <span style='font-size:12px'>({say(better, language)})</span>", 300)
    values = [value(m, measure) for m in models]
    bounds = [interval(m, measure) for m in models]
    percent = measure in ("rule_pass_rate", "probes")
    figure.add_bar(
        x=[name(m, language) for m in models],
        y=values,
        marker_color=[WHO_COLOURS.get(m["who"], GREEN) for m in models],
        text=[f"{v:.0%}" if percent else f"{v:.3g}" for v in values],
        textposition="inside",
        textfont={"color": "#ffffff"},
        textangle=0,
        insidetextanchor="start",
        error_y=None
        if not any(bounds)
        else {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, b[1] - v) if b else None for v, b in zip(values, bounds, strict=True)],
            "arrayminus": [max(0.0, v - b[0]) if b else None for v, b in zip(values, bounds, strict=True)],
            "color": "#5c4e44",
            "thickness": 2,
        },
        width=0.55,
    )
    if percent:
        figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return figure


def name(model: dict[str, Any], language: str) -> str:
    """Who it is, in words; a trained arm that is not called distilled with its name."""
    who = model["who"]
    words = say(who if who in ("teacher", "base") else "student", language)
    return f"{words} ({model['name']})" if who == "arm" and model["name"] != "distilled" else words


def value(model: dict[str, Any], measure: str) -> float:
    """The measure of a model as a number; probes as the share that was right."""
    found = model.get(measure)
    if isinstance(found, dict):
        return found["pass"] / found["total"] if found.get("total") else 0.0
    return float(found or 0)


def interval(model: dict[str, Any], measure: str) -> tuple[float, float] | None:
    """The measure's interval (low, high), if the report has one."""
    found = (model.get("intervals") or {}).get(measure)
    return (float(found["low"]), float(found["high"])) if found else None
