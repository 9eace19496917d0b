"""What all tabs share: the chosen run and language, the labels that follow the language, and when to look again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab.problems import Problem
from lab.run import Run, find_run
from lab.ui import shared
from lab.ui.texts import say

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""How light handlers are bound: at once, without a spinner, not in the API."""

ACT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 8}
"""How buttons are bound that tell something: only the queue carries gr.Info and gr.Error to the browser."""


@dataclass
class Page:
    """The components that every tab reads, and lists that the tabs add to while the page is built."""

    run: gr.Dropdown
    language: gr.Radio
    drawers: Any = None
    taken: list[Any] = field(default_factory=list)
    """What ``header.chosen`` fills when the app takes another run."""
    whose: Any = None
    labels: list[tuple[Any, Callable[[str], dict[str, Any]]]] = field(default_factory=list)
    first: list[tuple[Any, Callable[[str], dict[str, Any]]]] = field(default_factory=list)
    """As ``labels``, for what is only served so and then drawn by a view."""
    views: list[View] = field(default_factory=list)

    def label(self, component: Any, words: Callable[[str], dict[str, Any]] | None = None, **keys: str) -> Any:
        """Let properties of ``component`` follow the language: ``label="judge"`` takes the text of that key."""
        self.labels.append(
            (component, words or (lambda language: {name: say(key, language) for name, key in keys.items()}))
        )
        return component

    def about(self, key: str, css: str = "about") -> None:
        """A paragraph of explanation."""
        self.label(gr.HTML(), lambda lang: {"value": f'<p class="{css}">{say(key, lang)}</p>'})

    def show(
        self,
        view: Callable[..., Any],
        outputs: list[Any],
        files: Callable[[Run], Iterable[Path]],
        inputs: tuple[Any, ...] = (),
        programmed: bool = False,
    ) -> None:
        """Fill ``outputs`` with ``view(run, language, *inputs)`` whenever the run, the language, its files or ``inputs`` change.

        ``programmed``: also when the app itself sets the inputs, not only a person.
        """
        made = View(view, outputs, files, inputs)
        self.views.append(made)
        # A gr.State is read, not listened to: who sets it draws what follows.
        events = [x.change if programmed else x.input for x in inputs if hasattr(x, "input")]
        if events:
            # Gradio takes the answer of a handler with one output as that output's value, list or not.
            fill = made.fill if len(outputs) > 1 else lambda *values: made.fill(*values)[0]
            # What was set last counts, also when it came while an earlier value was still being drawn.
            gr.on(events, fill, [self.run, self.language, *inputs], outputs, trigger_mode="always_last", **QUIET)


@dataclass(frozen=True)
class View:
    """Something that a tab shows of the run: how it is made, where it goes, and the files it is made of."""

    make: Callable[..., Any]
    outputs: list[Any]
    files: Callable[[Run], Iterable[Path | str]]
    inputs: tuple[Any, ...]

    def stamp(self, run: Run | None, language: str) -> str:
        """A short text that differs when what is shown would differ."""
        return f"{run and run.id} {language} " + " ".join(map(_age, self.files(run) if run else ()))

    def fill(self, run_id: str | None, language: str, *values: Any) -> Any:
        """The outputs' new values. Raises Problem when a file cannot be read."""
        return self.make(find(run_id), language, *values)


def _age(path: Path | str) -> str:
    if isinstance(path, str):
        return path
    try:
        facts = path.stat()
        return f"{facts.st_mtime_ns}-{facts.st_size}"
    except OSError:
        return "-"


def find(run_id: str | None) -> Run | None:
    """The chosen run if it belongs to who asks, else None."""
    try:
        return find_run(run_id, shared.owner()) if run_id else None
    except Problem:
        return None


def needed(run_id: str | None, language: str) -> Run:
    """The chosen run; tells the visitor to choose one when there is none."""
    run = find(run_id)
    if run is None:
        raise gr.Error(say("no_run", language), title=say("error", language), print_exception=False)
    return run


def told(problem: Problem, language: str) -> gr.Error:
    """A problem as the message that pops up. Gradio shows messages as HTML, and a problem names what people sent."""
    text = escape(problem.text(language))
    return gr.Error(text, duration=None, title=say("error", language), print_exception=False)


def notice(language: str, key: str, **values: object) -> None:
    """Pop up a word on what was done; ``values`` (a run's title) are shown as text, not as HTML."""
    gr.Info(escape(say(key, language, **values)), title=say("notice", language))
