"""The page in the language of who asks: served in it from the first byte, remembered, and spoken by Gradio's parts too.

The language stands in a cookie, as the server must know it before the page is there: what a script reads from the
browser's storage comes after the first picture, in the wrong language.
"""

from __future__ import annotations

import errno
import json
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from functools import cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

import gradio as gr

from lab.problems import Problem
from lab.records import cannot_write
from lab.ui.page import told
from lab.ui.skips import Skipping
from lab.ui.texts import GRADIO, LANGUAGES, preferred, say

LOG = logging.getLogger(__name__)
COOKIE = "distillery_language"
ASSETS = Path(gr.__file__).parent / "templates/frontend/assets"
YEAR = 365 * 24 * 3600
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
"""A full disk, or a folder that may not be written."""
_asked: ContextVar[str] = ContextVar("language", default="ko")

Scope = MutableMapping[str, Any]
Pass = Callable[..., Awaitable[Any]]
Words = Callable[[str], dict[str, Any]]


def chosen(headers: Mapping[str, str]) -> str:
    """The language of a request: what this browser's visitor chose, else what the browser prefers."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        found = None
    return found.value if found and found.value in LANGUAGES else preferred(headers.get("accept-language", ""))


class Languages:
    """ASGI layer that notes the language of every request for whatever answers it."""

    def __init__(self, app: Pass) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Pass, send: Pass) -> None:
        """Pass the request on."""
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope.get("headers") or []}
        before = _asked.set(chosen(headers))
        try:
            await self.app(scope, receive, send)
        finally:
            _asked.reset(before)


class Bilingual(Skipping):
    """Blocks whose page is served in the language of who asks, and whose every error is told in it."""

    words: Sequence[tuple[Any, Words]] = ()
    """Which properties of which components follow the language; set before the page is closed."""

    @property
    def config(self) -> Any:
        """The page as Gradio serves it, in the language of the request at hand."""
        return self._spoken[_asked.get()]

    @config.setter
    def config(self, made: Any) -> None:
        self._spoken = {language: self._in(language, made) for language in LANGUAGES}

    def _in(self, language: str, made: Any) -> Any:
        said: dict[int, dict[str, Any]] = {}
        for component, words in self.words:
            said.setdefault(component._id, {}).update(words(language))
        parts = [c | {"props": c["props"] | said.get(c["id"], {})} for c in made["components"]]
        return made | {"components": parts}

    async def process_api(self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> Any:
        """Answer an event. What goes wrong, in the handler or before it, reaches the visitor as a sentence in their
        language; Gradio would show nothing, or the bare English text of the exception."""
        try:
            return await super().process_api(block_fn, inputs, *rest, **more)
        except Exception as error:
            if getattr(block_fn, "api_visibility", "") == "public":
                raise _as_text(error) from None
            given = [x for x in inputs if isinstance(x, str) and x in LANGUAGES]
            headers = getattr(more.get("request"), "headers", None)
            raise _told(error, given[0] if given else chosen(dict(headers or {}))) from None


def _told(error: Exception, language: str) -> gr.Error:
    if isinstance(error, gr.Error) and error.title != "Error":  # not Gradio's own
        return error
    return told(_problem(error), language)


def _as_text(error: Exception) -> gr.Error:
    """The message for a program: English, no markup."""
    return gr.Error(_problem(error).en, print_exception=False)


def _problem(error: Exception) -> Problem:
    """What went wrong as a sentence; what nobody foresaw goes to the log and is told without its inside."""
    if isinstance(error, Problem):
        return error
    said = error.message if isinstance(error, gr.Error) else ""
    if "not in the list of choices" in said:
        return _both("stale_choice")
    if "Invalid file type" in said:
        return _both("wrong_file", kinds=said.partition(": ")[2].strip("[]").replace("'", ""))
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return cannot_write(Path(Path(error.filename or tempfile.gettempdir()).name), error)
    LOG.error("a handler failed", exc_info=error)
    return _both("unexpected", kind=type(error).__name__)


def _both(key: str, **values: object) -> Problem:
    return Problem(say(key, "en", **values), say(key, "ko", **values))


@cache
def core_script() -> str:
    """The name of Gradio's script that can change its language; empty when this version has none."""
    return next((p.name for p in ASSETS.glob("core-*.js") if " as changeLocale" in p.read_text("utf-8")), "")


def speak() -> str:
    """JavaScript for a chosen language: Gradio's own texts follow, screen readers pronounce and browsers break lines by it."""
    gradio = (
        f"import(new URL('assets/{core_script()}', document.baseURI).href).then(core => core.changeLocale(language))"
    )
    return f"language => {{ document.documentElement.lang = language; {gradio if core_script() else ''} }}"


REMEMBER = f"""language => {{
  const where = location.protocol === 'https:' ? 'SameSite=None; Secure; Partitioned' : 'SameSite=Lax';
  document.cookie = `{COOKIE}=${{language}}; Path=/; Max-Age={YEAR}; ${{where}}`;
}}"""
"""JavaScript that keeps a choice for this browser; a Space is shown inside a frame of another site."""

HEAD = f"""
<script>
// What Gradio says in English alone: messages that pop up, and names of its buttons.
(() => {{
  const known = {json.dumps(list(GRADIO.items()), ensure_ascii=False)};
  const spoken = text => {{
    const korean = document.documentElement.lang.startsWith("ko"), bare = text.trim();
    for (const pair of known) {{
      const [from, to] = korean ? pair : [pair[1], pair[0]];
      if (bare === from) return to;
      if (from.endsWith(" ") && text.startsWith(from)) return to + text.slice(from.length);
    }}
    return text;
  }};
  const name = (element, attribute) => {{
    const text = element.getAttribute(attribute), said = text && spoken(text);
    if (said !== text) element.setAttribute(attribute, said);
  }};
  const words = node => {{
    if (node.nodeType === Node.TEXT_NODE) {{
      const said = spoken(node.data);
      if (said !== node.data) node.data = said;
    }} else node.childNodes.forEach(words);
  }};
  const all = root => {{
    for (const attribute of ["title", "aria-label"])
      [root, ...root.querySelectorAll(`[${{attribute}}]`)].forEach(element => name(element, attribute));
    const toast = root.closest(".toast-wrap");
    (toast ? [root] : root.querySelectorAll(".toast-wrap")).forEach(words);
  }};
  new MutationObserver(changes => {{
    for (const change of changes)
      if (change.attributeName === "lang") all(document.documentElement);
      else if (change.type === "attributes") name(change.target, change.attributeName);
      else change.addedNodes.forEach(node => node.nodeType === Node.ELEMENT_NODE && all(node));
  }}).observe(document.documentElement, {{childList: true, subtree: true, attributeFilter: ["title", "aria-label", "lang"]}});
  all(document.documentElement);
}})();
</script>
"""
"""The script that gives those texts in the page's language."""
