"""A loopback OpenAI-compatible server that answers deterministically and fails on order.

The real client talks to it over real sockets; only OPENAI_BASE_URL differs. ``faults`` are dealt to the first requests
in turn: a status (429 with Retry-After, 500, 400, 401), "slow" (answers after the client's time-out), "cut" (closes the
connection in mid-body), "html" and "empty" (200, but no message). With ``together`` no answer leaves before so many
requests are in flight, which on a busy machine no pause could promise. Used by tests and by bench/generate_scale.py.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Served:
    """What the server saw and what it shall do."""

    faults: list[int | str] = field(default_factory=list)
    seconds: float = 0.0
    together: int = 0
    slow: float = 2.0
    usage: bool = True
    text: str = "옛날에 {prompt} 이야기가 있었어요."
    forbidden: str = "max_output_tokens"
    url: str = ""
    requests: int = 0
    now: int = 0
    peak: int = 0
    keys: set[str] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    gathered: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    """One request; the server object carries ``Served``."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """``/v1/chat/completions``."""
        served: Served = self.server.served  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with served.lock:
            fault = served.faults[served.requests] if served.requests < len(served.faults) else None
            served.requests += 1
            served.now += 1
            served.peak = max(served.peak, served.now)
            served.keys.add(self.headers["authorization"])
            served.bodies.append(body)
            if served.now >= served.together:
                served.gathered.set()
        try:
            served.gathered.wait(60)
            time.sleep(served.slow if fault == "slow" else served.seconds)
            self._reply(served, body, fault)
        finally:
            with served.lock:
                served.now -= 1

    def _reply(self, served: Served, body: dict[str, Any], fault: int | str | None) -> None:
        if served.forbidden in body:
            self._send(400, {"error": {"message": f"'{served.forbidden}' is not supported: use max_completion_tokens"}})
        elif isinstance(fault, int):
            told = {"error": {"message": f"refused, key {self.headers['authorization']}"}}
            self._send(fault, told, {"Retry-After": "1"} if fault == 429 else {})
        elif fault == "cut":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif fault == "html":
            self._send(200, "<html>Bad gateway</html>")
        elif fault == "empty":
            self._send(200, {"id": "x", "object": "chat.completion", "choices": []})
        else:
            text = served.text.format(prompt=body["messages"][-1]["content"])
            usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30} if served.usage else None
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            self._send(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def handle(self) -> None:
        """A client that cancels or times out closes its connection: that is its right."""
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            return

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    """With a line long enough for 200 clients at once."""

    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def serving(faults: Sequence[int | str] = (), **options: Any) -> Iterator[Served]:
    """The server on a free port of this machine, while the context lasts."""
    server = Server(("127.0.0.1", 0), Handler)
    served = Served(list(faults), **options)
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.served = served  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
