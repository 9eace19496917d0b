"""The comparison's charts as matplotlib figures, for files: each model keeps its colour and its marker in all of them."""

from __future__ import annotations

from functools import cache
from math import pi
from textwrap import wrap
from typing import Any

from lab.report import (
    BITS,
    BY_KEY,
    COLOURS,
    KEPT,
    MARKERS,
    REACH,
    SHARES,
    TYPES,
    WIDEST,
    bounds,
    choose,
    colours,
    drawable,
    label,
    spared,
)
from lab.retention import TARGET, number

LESS = ("less is better", "낮을수록 좋음")


def charts(report: dict[str, Any], language: str) -> dict[str, Any]:
    """Every chart that the report has numbers for, as a matplotlib Figure; in English where no Korean font is installed."""
    language = language if _korean() else "en"
    models = report["models"]
    draw = {
        "quality": lambda: _quality(models, language),
        "bits": lambda: _bits(models, language),
        "radar": lambda: _radar(models, language),
        "quality_speed": lambda: _speed(models, language),
        "retention": lambda: _retention(report, language),
        "spared": lambda: _spared(report, language),
        "probes": lambda: _probes(models, language),
        "lengths": lambda: _boxes(models, "lengths", BY_KEY["mean_characters"].name(language), language),
        "scores": lambda: _boxes(models, "marks", BY_KEY["judge"].name(language), language),
    }
    return {name: draw[name]() for name in drawable(report)}


@cache
def _korean() -> bool:
    """Set the fonts; whether one of them has Hangul."""
    import matplotlib
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    wanted = ("Noto Sans CJK KR", "Noto Sans KR", "Noto Sans CJK JP", "NanumGothic", "Malgun Gothic", "AppleGothic")
    korean = [f for f in wanted if f in known]
    matplotlib.rcParams |= {
        "font.family": ["DejaVu Sans", *korean],
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
    }
    return bool(korean)


def _legend(figure: Any, columns: int = 3) -> Any:
    return figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _named(keys: list[str], language: str) -> list[str]:
    return ["\n".join(wrap(BY_KEY[k].name(language).removesuffix("(MB)").strip(), 18)) for k in keys]


def _dots(
    axes: Any,
    models: list[dict[str, Any]],
    values: list[list[tuple[float | None, tuple[float, float] | None]]],
    language: str,
) -> None:
    """For each model a dot and its interval in every row, the models a little below one another."""
    # Who has nothing to show takes no room, but all models are given, so that each has the same colour everywhere.
    rows = [r for r in zip(models, colours(models), values, strict=True) if any(v is not None for v, _ in r[2])]
    step = 0.7 / max(1, len(rows))
    for place, (model, colour, own) in enumerate(rows):
        shift = (place - (len(rows) - 1) / 2) * step
        there = [(i + shift, v, s or (v, v)) for i, (v, s) in enumerate(own) if v is not None]
        axes.errorbar(
            [v for _, v, _ in there],
            [i for i, *_ in there],
            xerr=[[max(0.0, v - s[0]) for _, v, s in there], [max(0.0, s[1] - v) for _, v, s in there]],
            fmt=MARKERS[colour],
            color=COLOURS[colour],
            ms=7,
            label=label(model, language),
        )


def _down(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _figure(height: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _quality(models: list[dict[str, Any]], language: str) -> Any:
    keys = [k for k in SHARES if any(number(m, k) is not None for m in models)]
    figure, axes = _figure()
    width = 0.8 / len(models)
    for place, (model, colour) in enumerate(zip(models, colours(models), strict=True)):
        values = [number(model, k) or 0.0 for k in keys]
        spans = [bounds(model, k) or (v, v) for k, v in zip(keys, values, strict=True)]
        axes.bar(
            [i + (place - (len(models) - 1) / 2) * width for i in range(len(keys))],
            values,
            width * 0.92,
            yerr=[[max(0.0, v - s[0]) for v, s in zip(values, spans, strict=True)], [max(0.0, s[1] - v) for v, s in zip(values, spans, strict=True)]],
            color=COLOURS[colour],
            hatch=("", "//", "", "..", "xx", "\\\\", "++")[colour],
            edgecolor="white",
            error_kw={"ecolor": "#3b2f2a", "capsize": 2, "lw": 1},
            label=label(model, language),
        )  # fmt: skip
    axes.set_xticks(range(len(keys)), ["\n".join(wrap(BY_KEY[k].name(language), 14)) for k in keys], fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    _legend(figure)
    return figure


def _bits(models: list[dict[str, Any]], language: str) -> Any:
    keys = [k for k in BITS if any(number(m, k) is not None for m in models)]
    figure, axes = _figure(1.4 + 0.25 * len(keys) * len(models))
    _dots(axes, models, [[(number(m, k), bounds(m, k)) for k in keys] for m in models], language)
    _down(axes, _named(keys, language))
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{BY_KEY['bits_per_byte'].name(language)} ({choose(LESS, language)})")
    _legend(figure)
    return figure


def _radar(models: list[dict[str, Any]], language: str) -> Any:
    from matplotlib.figure import Figure

    keys = [k for k in SHARES if all(number(m, k) is not None for m in models)]
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    around = [2 * pi * i / len(keys) for i in range(len(keys))]
    for model, colour in zip(models, colours(models), strict=True):
        values = [number(model, k) for k in keys]
        line = {"teacher": "-", "base": ":"}.get(model["who"], "--")
        axes.plot([*around, around[0]], [*values, values[0]], line, marker=MARKERS[colour], color=COLOURS[colour], label=label(model, language))  # fmt: skip
    axes.set_xticks(around, _named(keys, language), fontsize=8)
    axes.tick_params(axis="x", pad=14)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    _legend(figure)
    return figure


def _speed(models: list[dict[str, Any]], language: str) -> Any:
    figure, axes = _figure()
    most = max((m.get("peak_memory_bytes") or 0 for m in models), default=0) or 1
    for model, colour in zip(models, colours(models), strict=True):
        speed, quality = model.get("tokens_per_second"), number(model, "rule_pass_rate")
        if speed is None or quality is None:
            continue
        span, memory = bounds(model, "rule_pass_rate") or (quality, quality), model.get("peak_memory_bytes") or 0
        axes.errorbar(speed, quality, [[max(0, quality - span[0])], [max(0, span[1] - quality)]], color=COLOURS[colour], lw=1)  # fmt: skip
        axes.scatter(
            speed,
            quality,
            60 + 700 * memory / most,
            color=COLOURS[colour],
            marker=MARKERS[colour],
            alpha=0.75,
            label=f"{label(model, language)}, {memory / 1e6:,.0f} MB",
        )
    size = choose(("size of a dot: peak memory", "점의 크기: 최대 메모리"), language)
    axes.set(
        xlabel=f"{BY_KEY['tokens_per_second'].name(language)} ({size})",
        ylabel=BY_KEY["rule_pass_rate"].name(language),
        ylim=(-0.1, 1.08),
    )
    axes.set_xlim(0, axes.get_xlim()[1] * 1.1)
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    for handle in _legend(figure, 2).legend_handles:
        handle.set_sizes([50])  # all alike: the size says memory in the chart alone
    return figure


def _retention(report: dict[str, Any], language: str) -> Any:
    keys = [k for k in KEPT if any(r.get(k) is not None for r in report["retention"].values())]
    models = report["models"]
    figure, axes = _figure(1.4 + 0.3 * len(keys) * len(report["retention"]))
    target = choose(("target", "목표"), language)
    axes.axvspan(*TARGET, color=COLOURS[2], alpha=0.2, label=f"{target} {TARGET[0]:.0%} – {TARGET[1]:.0%}")
    axes.axvline(1, color="#3b2f2a", lw=1)
    values = []
    for model in models:
        shares = report["retention"].get(model["name"], {}) if model["who"] == "arm" else {}
        spans = (report["retention_intervals"].get(model["name"]) or {}) if shares else {}
        around = [(min(s["low"], WIDEST), min(s["high"], WIDEST)) if (s := spans.get(k)) else None for k in keys]
        found = [shares.get(k) for k in keys]
        values.append([(None if v is None else min(v, WIDEST), s) for v, s in zip(found, around, strict=True)])
    _dots(axes, models, values, language)
    _down(axes, _named(keys, language))
    axes.set_xlim(0, WIDEST + 0.05)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.set_xlabel(choose(("share of the teacher's", "교사를 100%로 볼 때"), language))
    _legend(figure)
    return figure


def _spared(report: dict[str, Any], language: str) -> Any:
    rows, models = spared(report), report["models"]
    figure, axes = _figure(1.4 + 0.35 * len(rows) * len(report["retention"]))
    axes.set_xscale("log")
    axes.axvline(1, color="#3b2f2a", lw=1)
    for place, (_, target, _) in enumerate(rows):
        ends = (target, REACH) if target > 1 else (1 / REACH, target)
        said = choose(("target", "목표"), language) if not place else None
        axes.fill_between(ends, place - 0.42, place + 0.42, color=COLOURS[2], alpha=0.2, lw=0, label=said)
    by_arm = [{a["name"]: (ratio, span) for a, ratio, span in told} for *_, told in rows]
    values = [[own.get(m["name"], (None, None)) if m["who"] == "arm" else (None, None) for own in by_arm] for m in models]  # fmt: skip
    _dots(axes, models, values, language)
    _down(axes, _named([key for key, *_ in rows], language))
    axes.set_xlim(1 / REACH, REACH)
    axes.set_xticks([0.1, 1 / 3, 1, 3, 10], ["×0.1", "×⅓", "×1", "×3", "×10"])
    axes.minorticks_off()
    axes.set_xlabel(choose(("multiple of the teacher's", "교사의 몇 배"), language))
    _legend(figure)
    return figure


def _probes(models: list[dict[str, Any]], language: str) -> Any:
    told = [m for m in models if m.get("probes")]
    kinds = list(told[0]["probes"]["by_type"])
    figure, axes = _figure(1.4 + 0.2 * len(kinds) * len(told))
    values: list[list[tuple[float | None, tuple[float, float] | None]]] = []
    for model in told:
        own = [model["probes"]["by_type"][k] for k in kinds]
        values.append([(k["pass"] / k["total"], (k["interval"]["low"], k["interval"]["high"])) for k in own])
    _dots(axes, told, values, language)
    axes.axvline(told[0]["probes"]["chance"], color="#3b2f2a", ls=":", lw=1.5)
    _down(axes, [choose(TYPES.get(k, (k, k)), language) for k in kinds])
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.set_xlabel(choose(("answered right (dotted: chance)", "맞힌 비율 (점선: 찍었을 때)"), language))
    _legend(figure)
    return figure


def _boxes(models: list[dict[str, Any]], key: str, axis: str, language: str) -> Any:
    figure, axes = _figure(1.2 + 0.5 * len(models))
    values = [[v for v in m.get(key) or () if v is not None] for m in models]
    boxes = axes.boxplot(values, orientation="horizontal", patch_artist=True, widths=0.6)
    for box, colour in zip(boxes["boxes"], colours(models), strict=True):
        box.set(facecolor=COLOURS[colour], alpha=0.6)
    axes.set_yticks(range(1, len(models) + 1), [label(m, language) for m in models], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    return figure
