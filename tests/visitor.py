"""A visitor without a browser: opens the page over HTTP, presses its controls, and reads what comes back.

It speaks as the page's own script does, so it can also send what no page would send.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.serving import free_port


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One app in this process for a module's tests; each test's runs are in a folder of its own all the same."""
    import app

    demo = app.build()
    for attempt in range(5):
        try:
            _, url, _ = app.launch(demo, prevent_thread_lock=True, server_port=free_port(), quiet=True)
            break
        except ValueError:  # Gradio gives itself three seconds to answer, which a busy machine may miss
            demo.close()
            if attempt == 4:
                raise
    yield url.rstrip("/")
    demo.close()


class Refused(Exception):
    """What the app said instead of an answer."""


class Visitor:
    """Holds the session and the values of all components, as a browser does."""

    def __init__(self, url: str, run: str = "", language: str = "en") -> None:
        self.session = secrets.token_hex(6)
        self.http = httpx.Client(base_url=url, timeout=120, headers={"accept-language": language})
        self.config = self.http.get("/config", params={"run": run}).json()
        self.values = {c["id"]: c["props"].get("value") for c in self.config["components"]}
        self.seen = {c["id"]: c["props"].get("visible") for c in self.config["components"]}
        self.ids = {c["props"]["elem_id"]: c["id"] for c in self.config["components"] if c["props"].get("elem_id")}
        for bound in self._bound(lambda target, event: event == "load"):
            self._call(bound)
        if run:
            self.set(run=run)

    def set(self, **values: Any) -> None:
        """Put values into components, by their names with _ for -."""
        for name, value in values.items():
            self.values[self.ids[name.replace("_", "-")]] = value

    def read(self, name: str) -> Any:
        """The value of a component."""
        return self.values[self.ids[name]]

    def sees(self, name: str) -> bool:
        """Whether a component itself is shown (what is around it may hide it)."""
        return self.seen[self.ids[name]] is not False

    def press(self, name: str, event: str = "", **values: Any) -> str:
        """Set ``values``, fire the control's event; everything that came back, as text. Raises Refused."""
        self.set(**values)
        found = self._bound(lambda target, e: target == self.ids[name] and event in ("", e))
        assert found, f"{name} is bound to nothing"
        return json.dumps([self._call(bound) for bound in found], ensure_ascii=False)

    def look(self) -> None:
        """What the page does every second or so: every view is drawn anew where its files changed."""
        for bound in self._bound(lambda target, event: event == "tick"):
            self._call(bound)

    def _bound(self, wanted: Any) -> list[dict[str, Any]]:
        return [d for d in self.config["dependencies"] if any(wanted(*t) for t in d["targets"]) and d["backend_fn"]]

    def _call(self, bound: dict[str, Any]) -> list[Any]:
        types = {c["id"]: c["type"] for c in self.config["components"]}
        data = [None if types[i] == "state" else self.values.get(i) for i in bound["inputs"]]
        asked = {"fn_index": bound["id"], "data": data, "session_hash": self.session}
        output = self._queued(asked) if bound["queue"] else self._at_once(asked)
        for id_, value in zip(bound["outputs"], output["data"], strict=False):
            if isinstance(value, dict) and "visible" in value:
                self.seen[id_] = value["visible"]
            if not isinstance(value, dict):
                self.values[id_] = value
            elif "value" in value:
                self.values[id_] = value["value"]
        told = output["data"]
        for follows in [d for d in self.config["dependencies"] if d["trigger_after"] == bound["id"]]:
            told = [*told, *self._call(follows)]
        return told

    def _at_once(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post("/gradio_api/run/predict", json=asked)
        if answer.status_code != 200:
            raise Refused(json.dumps(answer.json(), ensure_ascii=False))
        return answer.json()

    def _queued(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.http.post("/gradio_api/queue/join", json=asked).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as events:
            for line in events.iter_lines():
                said = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if said.get("msg") == "process_completed":
                    break
            else:
                raise Refused("the stream ended")
        if not said["success"]:
            raise Refused(json.dumps(said, ensure_ascii=False))
        return said["output"]
