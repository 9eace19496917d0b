"""Blocks that spend nothing on what does not change: most of a page, at every look and every streamed word."""

from __future__ import annotations

from copy import copy
from typing import Any

import gradio as gr
from gradio.blocks import BlocksConfig

SKIP = gr.skip()


class _Session(BlocksConfig):
    """A visitor's components, not described: Gradio describes all of them when a session begins, and each again when it
    changes, only for links to a page as it stands, which this page does not offer."""

    @staticmethod
    def config_for_block(_id: int, *_: Any) -> dict[str, Any]:
        """What stands for the description."""
        return {"id": _id, "props": {}}


class _Page(BlocksConfig):
    """The page's components, of which every session takes a copy."""

    def __copy__(self) -> BlocksConfig:
        made = super().__copy__()
        made.__class__ = _Session
        return made


class Skipping(gr.Blocks):
    """Gradio makes a new component and describes it twice for every output of an event, also for ``gr.skip()``: of the
    hundred that a look may draw, 3 ms each, where four change. And at every word of every event its script tells every
    output of any event how its loading stands, which it finds by walking the whole page."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.default_config.__class__ = _Page

    def get_config_file(self) -> Any:
        """The page as it is served: events that show no progress have nothing to tell about it."""
        made = super().get_config_file()
        for event in made["dependencies"]:
            if event["show_progress"] == "hidden":
                event["show_progress_on"] = []
        return made

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """The outputs as Gradio sends them; those that are skipped pass by it."""
        if not isinstance(predictions, (list, tuple)) or len(predictions) != len(block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        drawn = [i for i, value in enumerate(predictions) if not (isinstance(value, dict) and value == SKIP)]
        if len(drawn) == len(predictions) or len(predictions) == 1:
            return await super().postprocess_data(block_fn, predictions, state)
        sent: list[Any] = [dict(SKIP) for _ in predictions]
        if drawn:
            part = copy(block_fn)
            part.outputs = [block_fn.outputs[i] for i in drawn]
            values = [predictions[i] for i in drawn]
            made = await super().postprocess_data(part, values[0] if len(drawn) == 1 else values, state)
            for i, value in zip(drawn, made, strict=True):
                sent[i] = value
        return sent
