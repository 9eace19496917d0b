"""Plotly figures in the app's colours. Plotly is imported when the first figure is drawn."""

from __future__ import annotations

from typing import Any

from lab.ui.texts import reason, say
from lab.ui.theme import BLUE, FONTS, GREEN, ORANGE, RED

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


def funnel(total: int, steps: list[dict[str, Any]], language: str) -> Any:
    """From written to kept: what is left after each reason, and how many it took."""
    kept = steps[-1]["left"] if steps else total
    figure = _figure(say("funnel_chart", language), 90 + 24 * (len(steps) + 2))
    figure.add_funnel(
        y=[say("written", language), *(reason(s["reason"], language) for s in steps), say("kept", language)],
        x=[total, *(s["left"] for s in steps), kept],
        text=[f"{total:,}", *(f"{s['left']:,} (−{s['dropped']:,})" for s in steps), f"{kept:,}"],
        textinfo="text",
        marker={"color": [BLUE, *[ORANGE] * len(steps), GREEN]},
        hoverinfo="text",
        connector={"fillcolor": "rgba(128,110,95,.12)"},
    )
    return figure


def pass_curve(points: list[tuple[float, float]], threshold: float, language: str) -> Any:
    """Pass rate by minimum score, and where the slider stands."""
    figure = _figure(say("curve_chart", language), 260, x=say("score_axis", language), y=say("pass_rate", language))
    figure.add_scatter(
        x=[t for t, _ in points], y=[r for _, r in points], mode="lines", line={"color": BLUE, "width": 3}
    )
    now = min(points, key=lambda p: abs(p[0] - threshold))
    figure.add_scatter(
        x=[now[0]], y=[now[1]], mode="markers+text", marker={"color": ORANGE, "size": 13},
        text=[f"{say('now', language)} {now[1]:.0%}"], textposition="top center",
    )  # fmt: skip
    figure.add_hline(y=0.5, line={"color": RED, "dash": "dot", "width": 1})
    figure.update_yaxes(tickformat=".0%", range=[0, 1.08])
    figure.update_layout(showlegend=False)
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
