"""Figures of the Compare tab: each model keeps its colour and its marker in all of them, so colour is never needed alone."""

from __future__ import annotations

from math import log10
from textwrap import wrap
from typing import Any

from lab.report import BITS, BY_KEY, COLOURS, KEPT, REACH, SHARES, TYPES, WIDEST, bounds, choose, colours, label
from lab.report import spared as of_teacher
from lab.retention import TARGET, number
from lab.ui.charts import blank
from lab.ui.texts import say

SYMBOLS = ("square", "circle", "triangle-up", "diamond", "triangle-down", "cross", "x")
"""Of the same places as report.COLOURS."""
GRID = "rgba(128,110,95,.35)"
BESIDE = {True: 20, False: 12}
"""Letters in a line of a name beside a chart: of Latin ones, and of Hangul, which is wider."""


def below(entries: int) -> int:
    """Pixels for ticks and a legend, which has one name a line on a phone."""
    return 32 + 20 * entries


def _looks(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"color": COLOURS[c], "symbol": SYMBOLS[c], "size": 11} for c in colours(models)]


def _titled(key: str, language: str) -> str:
    """The title with what stands in brackets as a small second line, so that it fits a phone."""
    main, _, rest = say(key, language).partition(" (")
    return f"{main}<br><span style='font-size:12px'>{rest.removesuffix(')')}</span>" if rest else main


def _broken(name: str) -> str:
    """A name in lines that leave a phone room for the chart."""
    return "<br>".join(wrap(name, BESIDE[name.isascii()], break_long_words=False))


def _rows(figure: Any, names: list[str]) -> None:
    """Names down the side, first on top and broken for a phone; the legend below everything."""
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[_broken(n) for n in names],
        range=[len(names) - 0.5, -0.5],
        zeroline=False,
    )
    _legend(figure, len([t for t in figure.data if t.showlegend]))


def _legend(figure: Any, entries: int, title: int = 0) -> None:
    """The legend below everything, ``title`` being the pixels of an axis' title above it."""
    figure.update_layout(
        legend={
            "orientation": "h",
            "xref": "container",
            "x": 0.02,
            "yref": "container",
            "y": 0.01,
            "yanchor": "bottom",
        },
        margin={"t": 66, "b": below(entries) + title},
    )


def _dots(
    figure: Any,
    models: list[dict[str, Any]],
    values: list[list[tuple[float | None, Any]]],
    language: str,
    form: str = ".1%",
) -> None:
    """For each model a dot and its interval in every row, the models a little above one another."""
    # Who has nothing to show takes no room, but all models are given, so that each has the same colour everywhere.
    rows = [r for r in zip(models, _looks(models), values, strict=True) if any(v is not None for v, _ in r[2])]
    step = 0.7 / max(1, len(rows))
    for place, (model, look, own) in enumerate(rows):
        shift = (place - (len(rows) - 1) / 2) * step
        there = [(i, v, s or (v, v)) for i, (v, s) in enumerate(own) if v is not None]
        figure.add_scatter(
            x=[v for _, v, _ in there],
            y=[i + shift for i, _, _ in there],
            mode="markers",
            marker=look,
            name=label(model, language),
            showlegend=True,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, s[1] - v) for _, v, s in there],
                "arrayminus": [max(0.0, v - s[0]) for _, v, s in there],
                "color": look["color"],
                "thickness": 2,
                "width": 0,
            },
            hovertemplate=f"%{{x:{form}}}<extra>{label(model, language)}</extra>",
        )


def rates(models: list[dict[str, Any]], language: str) -> Any:
    """Every quality number that is a share, with its interval."""
    keys = [k for k in SHARES if any(number(m, k) is not None for m in models)]
    figure = blank(_titled("quality_chart", language), 66 + below(len(models)) + len(keys) * (26 + 16 * len(models)))
    _dots(figure, models, [[(number(m, k), bounds(m, k)) for k in keys] for m in models], language)
    _rows(figure, [BY_KEY[k].name(language) for k in keys])
    figure.update_xaxes(tickformat=".0%", range=[-0.02, 1.04])
    return figure


def bits(models: list[dict[str, Any]], language: str) -> Any:
    """Bits per byte of unseen stories, of reference stories and of everyday answers; less is better."""
    keys = [k for k in BITS if any(number(m, k) is not None for m in models)]
    if not keys:
        return None
    figure = blank(_titled("bits_chart", language), 66 + below(len(models)) + len(keys) * (26 + 16 * len(models)))
    _dots(figure, models, [[(number(m, k), bounds(m, k)) for k in keys] for m in models], language, ".3f")
    _rows(figure, [BY_KEY[k].name(language) for k in keys])
    figure.update_xaxes(rangemode="tozero")
    return figure


def probes(models: list[dict[str, Any]], language: str) -> Any:
    """Right answers by type of probe, with intervals; the dotted line is chance."""
    told = [m for m in models if m.get("probes")]
    kinds = list(told[0]["probes"]["by_type"]) if told else []
    figure = blank(_titled("probes_chart", language), 66 + below(len(told)) + len(kinds) * (26 + 16 * len(told)))
    values: list[list[tuple[float | None, Any]]] = []
    for model in told:
        own = [model["probes"]["by_type"][k] for k in kinds]
        values.append([(k["pass"] / k["total"], _span(k.get("interval"))) for k in own])
    _dots(figure, told, values, language)
    _rows(figure, [choose(TYPES.get(k, (k, k)), language) for k in kinds])
    if told:
        figure.add_vline(x=told[0]["probes"]["chance"], line={"dash": "dot", "color": "#7a6a5c", "width": 2})
    figure.update_xaxes(tickformat=".0%", range=[-0.02, 1.04])
    return figure


def _span(found: dict[str, float] | None) -> tuple[float, float] | None:
    return (found["low"], found["high"]) if found else None


def speed(models: list[dict[str, Any]], language: str) -> Any:
    """Rule pass rate against tokens per second; the area of a dot is its peak memory."""
    figure = blank(
        _titled("speed_chart", language), 440, x=BY_KEY["tokens_per_second"].name(language), y=BY_KEY["rule_pass_rate"].name(language)
    )  # fmt: skip
    there = [(m, look) for m, look in zip(models, _looks(models), strict=True) if m.get("tokens_per_second")]
    most = max((m.get("peak_memory_bytes") or 0 for m, _ in there), default=0) or 1
    fastest = max((m["tokens_per_second"] for m, _ in there), default=1.0)
    for model, look in there:
        memory = model.get("peak_memory_bytes") or 0
        quality, span = number(model, "rule_pass_rate") or 0.0, bounds(model, "rule_pass_rate") or (0.0, 0.0)
        figure.add_scatter(
            x=[model["tokens_per_second"]],
            y=[quality],
            mode="markers",
            marker=look | {"size": 12 + 38 * (memory / most) ** 0.5, "opacity": 0.75},
            # Beside the dots the numbers of two that are near each other would meet on a phone.
            name=f"{label(model, language)} · {memory / 1e6:,.0f} MB" if memory else label(model, language),
            showlegend=True,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, span[1] - quality)],
                "arrayminus": [max(0.0, quality - span[0])],
                "color": look["color"],
                "thickness": 2,
            },
        )
    figure.update_xaxes(range=[0, fastest * 1.25])
    figure.update_yaxes(tickformat=".0%", range=[-0.12, 1.1])
    _legend(figure, len(there), 24)
    return figure


def kept(report: dict[str, Any], language: str) -> Any:
    """What each arm keeps of its teacher, with intervals and the target band; the line is the teacher itself."""
    arms = [m for m in report["models"] if m["name"] in report["retention"] and m["who"] == "arm"]
    shares, spans = report["retention"], report.get("retention_intervals") or {}
    keys = [k for k in KEPT if any(shares[m["name"]].get(k) is not None for m in arms)]
    figure = blank(_titled("kept_chart", language), 66 + below(len(arms)) + len(keys) * (26 + 16 * len(arms)))

    def cut(value: float | None) -> float | None:
        return None if value is None else min(value, WIDEST)

    values = [
        [
            (cut(shares[m["name"]].get(k)), (cut(s["low"]), cut(s["high"])) if (s := spans.get(m["name"], {}).get(k)) else None)
            for k in keys
        ]
        for m in arms
    ]  # fmt: skip
    places = [m for m in report["models"] if m["who"] != "arm"]
    # Drawn with the others so that an arm has the same colour here as everywhere.
    _dots(figure, [*places, *arms], [[(None, None)] * len(keys) for _ in places] + values, language)
    _rows(figure, [BY_KEY[k].name(language) for k in keys])
    figure.add_vrect(x0=TARGET[0], x1=TARGET[1], fillcolor=COLOURS[2], opacity=0.2, line_width=0)
    figure.add_vline(x=1, line={"color": "#7a6a5c", "width": 2})
    figure.update_xaxes(tickformat=".0%", range=[-0.02, WIDEST + 0.05])
    return figure


def spared(report: dict[str, Any], language: str) -> Any:
    """Memory and speed of each arm as multiples of its teacher's; green is where the target is reached. None without a teacher."""
    rows, models = of_teacher(report), report["models"]
    if not rows:
        return None
    figure = blank(
        _titled("spared_chart", language),
        66 + below(len(report["retention"])) + len(rows) * (30 + 16 * len(report["retention"])),
    )
    by_arm = [{a["name"]: (ratio, span) for a, ratio, span in told} for *_, told in rows]
    values = [[own.get(m["name"], (None, None)) if m["who"] == "arm" else (None, None) for own in by_arm] for m in models]  # fmt: skip
    _dots(figure, models, values, language, ".2f")
    _rows(figure, [BY_KEY[key].name(language).removesuffix("(MB)").strip() for key, *_ in rows])
    for place, (_, target, _) in enumerate(rows):
        ends = (target, REACH) if target > 1 else (1 / REACH, target)
        figure.add_shape(
            type="rect", x0=ends[0], x1=ends[1], y0=place - 0.42, y1=place + 0.42,
            fillcolor=COLOURS[2], opacity=0.2, line_width=0, layer="below",
        )  # fmt: skip
    figure.add_vline(x=1, line={"color": "#7a6a5c", "width": 2})
    ticks = {"0.1": "×0.1", "0.3333": "×⅓", "1": "×1", "3": "×3", "10": "×10"}
    figure.update_xaxes(
        type="log",
        range=[-log10(REACH), log10(REACH)],
        tickvals=[float(t) for t in ticks],
        ticktext=list(ticks.values()),
    )
    return figure


def radar(models: list[dict[str, Any]], language: str) -> Any:
    """The shares as a web: the shape shows what a model is good at. None with fewer than three axes."""
    keys = [k for k in SHARES if all(number(m, k) is not None for m in models)]
    if len(keys) < 3:
        return None
    figure = blank(say("radar_chart", language), 420)
    # Hangul is twice as wide as Latin letters.
    around = ["<br>".join(wrap(BY_KEY[k].name(language), 6 if language == "ko" else 10)) for k in keys]
    for model, look in zip(models, _looks(models), strict=True):
        values = [number(model, k) for k in keys]
        figure.add_scatterpolar(
            r=[*values, values[0]],
            theta=[*around, around[0]],
            name=label(model, language),
            mode="lines+markers",
            line={"color": look["color"], "dash": {"teacher": "solid", "base": "dot"}.get(model["who"], "dash")},
            marker=look | {"size": 8},
        )
    figure.update_layout(
        polar={
            # Its numbers stand between the first two axes, where no line is drawn along them.
            "radialaxis": {
                "range": [0, 1],
                "tickformat": ".0%",
                "tickvals": [0.25, 0.5, 0.75, 1],
                "ticktext": ["", "50%", "", "100%"],
                "tickfont": {"size": 10},
                "gridcolor": GRID,
                "linecolor": GRID,
                "angle": 180 / len(keys),
                "tickangle": 0,
            },
            "angularaxis": {"tickfont": {"size": 11}, "gridcolor": GRID, "linecolor": GRID},
            "bgcolor": "rgba(0,0,0,0)",
        },
        margin={"l": 60, "r": 60, "t": 70, "b": 60},
        legend={"orientation": "h", "y": -0.15},
    )
    return figure


def lengths(models: list[dict[str, Any]], language: str) -> Any:
    """How long the stories are."""
    return _boxes(models, "lengths", blank(say("lengths_chart", language), 130 + 60 * len(models), x=BY_KEY["mean_characters"].name(language)), language)  # fmt: skip


def scores(models: list[dict[str, Any]], language: str) -> Any:
    """How the judge's marks spread; None when there was no judge."""
    if not any(m.get("marks") for m in models):
        return None
    return _boxes(models, "marks", blank(say("scores_chart", language), 130 + 60 * len(models), x=BY_KEY["judge"].name(language)), language)  # fmt: skip


def _boxes(models: list[dict[str, Any]], key: str, figure: Any, language: str) -> Any:
    """A box a model, with every story as a point."""
    for model, look in zip(models, _looks(models), strict=True):
        figure.add_box(
            x=[v for v in model.get(key) or [] if v is not None],
            name=label(model, language),
            marker={"color": look["color"], "symbol": look["symbol"], "size": 4, "opacity": 0.5},
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            showlegend=False,
        )
    figure.update_yaxes(autorange="reversed")
    return figure


def two_runs(reports: list[dict[str, Any]], measure: str, language: str) -> Any:
    """One measure of the models of two runs: the runs one below the other, with intervals."""
    rows = [(f"{r['title']} · {label(m, language)}", m) for r in reports for m in r["models"]]
    figure = blank(BY_KEY[measure].name(language), 66 + below(0) + 34 * len(rows))
    for place, (_, model) in enumerate(rows):
        value, span = number(model, measure), bounds(model, measure)
        if value is None:
            continue
        scale = BY_KEY[measure].scale
        span = span or (value, value)
        colour = {"teacher": 0, "base": 1}.get(model["who"], 2)
        figure.add_scatter(
            x=[value / scale],
            y=[place],
            mode="markers+text",
            text=[BY_KEY[measure].text(value)],
            textposition="top center",
            marker={"color": COLOURS[colour], "symbol": SYMBOLS[colour], "size": 11},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [(span[1] - value) / scale],
                "arrayminus": [(value - span[0]) / scale],
                "color": COLOURS[colour],
            },
            showlegend=False,
        )
    _rows(figure, [name for name, _ in rows])
    if "{:.0%}" in BY_KEY[measure].form:
        figure.update_xaxes(tickformat=".0%", range=[-0.02, 1.04])
    else:
        figure.update_xaxes(rangemode="tozero")
    return figure
