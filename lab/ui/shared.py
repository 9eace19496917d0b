"""Several people on one Space: who owns a run, what a guest may start, and what a text from outside may name.

Who asks is read from the request itself (the signed Hub session, else the cookie that this server made), never from a
value of the page, so no handler can forget it and no visitor can forge it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from gradio.context import LocalContext

from lab import jobs
from lab.config import STAGES, GenerateConfig, StageConfig
from lab.problems import Problem
from lab.run import LOCAL_OWNER, Run, find_run, home, runs

COOKIE = "distillery_guest"
YEAR = 365 * 24 * 3600
GUEST_CAPS = {"pairs": 300, "prompts": 64, "epochs": 5.0, "max_new_tokens": 600}
"""What a visitor without a Hub account may ask of one job, so that the line moves on: minutes of the mini pair."""
GUEST_RUNS = 10
RATE = 30
"""Requests a minute that start work (jobs, chat answers) for one owner."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}(@[\w./-]{1,64})?")
_SPECS = ("teacher", "judge", "student")
_asked: dict[str, deque[float]] = defaultdict(deque)


def shared() -> bool:
    """Whether this is a Space that several people use."""
    return bool(os.environ.get("SPACE_ID"))


def _secret() -> bytes:
    """The server's own key: LAB_SECRET, else one made at the first need and kept beside the runs, so that guests find
    theirs after a restart."""
    if given := os.environ.get("LAB_SECRET"):
        return given.encode()
    path = home() / ".secret"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(made, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _signed(key: str) -> str:
    return f"{key}.{hmac.new(_secret(), key.encode(), 'sha256').hexdigest()[:32]}"


def _guest_of(cookie: str) -> str | None:
    """The guest's key in a Cookie header; None when it is missing or this server did not make it."""
    found = SimpleCookie()
    found.load(cookie)
    value = found[COOKIE].value if COOKIE in found else ""
    key = value.partition(".")[0]
    return key if key and hmac.compare_digest(_signed(key), value) else None


def owner() -> str:
    """Who asks: ``local`` on one's own machine, ``u-NAME`` with a Hub account, else ``g-`` and a hash of the guest's key.

    On a Space a request without any of them owns nothing (an empty name, which no run has).
    """
    if not shared():
        return LOCAL_OWNER
    request = getattr(LocalContext.request.get(None), "request", None)
    scope = getattr(request, "scope", None) or {}
    info = (scope.get("session") or {}).get("oauth_info") or {}
    if info and (info.get("expires_at") or 0) > time.time():
        name = re.sub(r"[^A-Za-z0-9._-]", "", info.get("userinfo", {}).get("preferred_username", ""))
        if name:
            return f"u-{name}"
    headers = dict(scope.get("headers") or [])
    key = _guest_of(headers.get(b"cookie", b"").decode("latin-1"))
    return "g-" + hashlib.sha256(key.encode()).hexdigest()[:24] if key else ""


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guests:
    """ASGI layer that gives every browser without a valid guest key one of its own, in a cookie scripts cannot read."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answers to a new browser carry its key."""
        headers = dict(scope.get("headers") or [])
        # Only the page itself: a data request without the cookie comes from a script, which stays without runs.
        new = (
            scope["type"] == "http"
            and scope["path"] == "/"
            and shared()
            and not _guest_of(headers.get(b"cookie", b"").decode("latin-1"))
        )
        if not new:
            await self.app(scope, receive, send)
            return
        value = _signed(secrets.token_hex(16))
        # A Space is shown inside a frame of another site: None and Partitioned let the cookie live there.
        cookie = f"{COOKIE}={value}; Path=/; Max-Age={YEAR}; HttpOnly; Secure; SameSite=None; Partitioned"

        async def with_cookie(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"set-cookie", cookie.encode())]
            await send(message)

        await self.app(scope, receive, with_cookie)


def guest() -> bool:
    """Whether the visitor has no Hub account (on a Space)."""
    return shared() and not owner().startswith("u-")


def room() -> None:
    """Problem when a guest holds as many runs as guests may."""
    if guest() and len(runs(owner())) >= GUEST_RUNS:
        raise Problem(
            f"Guests keep {GUEST_RUNS} runs at most. Delete one, or sign in.",
            f"손님은 실험을 {GUEST_RUNS}개까지 둘 수 있습니다. 하나를 지우거나 로그인해 주세요.",
        )


def admit(run: Run) -> None:
    """Before a job starts on a shared Space: Problem when its owner asks too often or has a job in line already.

    Every worker in line holds its libraries in memory, so a line of one visitor's would crowd out the others.
    """
    slow_down()
    if not shared():
        return
    for other in runs(owner()):
        if other.id != run.id and jobs.look(other).state in jobs.GOING:
            title = other.meta().get("title", other.id)
            raise Problem(
                f"Your run {title!r} has a job in line already. On a shared Space everybody has one at a time.",
                f"다른 실험의 작업이 이미 진행 중입니다({title}). 공유 Space에서는 한 사람이 한 번에 하나씩 실행할 수 있습니다.",
            )


def slow_down() -> None:
    """Count a request that starts work; Problem when its owner has made more than ``RATE`` within a minute."""
    if not shared():
        return
    times, now = _asked[owner()], time.monotonic()
    while times and now - times[0] > 60:
        times.popleft()
    if len(times) >= RATE:
        raise Problem(
            f"More than {RATE} requests within a minute. Wait a moment, then try again.",
            f"1분에 {RATE}번 넘게 부탁했습니다. 잠시 기다렸다가 다시 해 주세요.",
        )
    times.append(now)


def allow(config: StageConfig) -> None:
    """Problem when a visitor of a shared Space may not start this: a guest's caps, other people's or the server's files."""
    if not shared():
        return
    for name in _SPECS:
        if hasattr(config, name):
            allow_spec(name, getattr(config, name))
    if isinstance(config, GenerateConfig):
        allow_address(config.base_url)
    for name in ("reference", "human_file"):
        if getattr(config, name, ""):
            raise Problem(
                f"Option {name} needs a file on the machine, which a shared Space does not open. Leave the field empty.",
                f"옵션 {name}: 서버의 파일이 있어야 해서 공유 Space에서는 쓸 수 없습니다. 칸을 비워 주세요.",
            )
    if guest():
        for name, most in GUEST_CAPS.items():
            if getattr(config, name, 0) > most:
                raise Problem(
                    f"Option {name}: guests may ask for {most} at most. Sign in, or run the app on a machine of your own.",
                    f"옵션 {name}: 손님은 {most}까지만 쓸 수 있습니다. 로그인하거나 직접 설치해서 실행해 주세요.",
                )


def allow_run(run: Run, starting: str) -> None:
    """Problem when a stage other than ``starting`` has stored what a shared Space does not open.

    Comparing opens the teacher, judging asks its address: both stand in files that a zip may have brought.
    """
    if not shared():
        return
    for stage in STAGES:
        for arm in run.arms() if stage == "train" else [""]:
            if stage != starting:
                config = run.config(stage, arm)
                for name in _SPECS:
                    allow_spec(name, getattr(config, name, ""))
                allow_address(getattr(config, "base_url", ""))


def allow_spec(name: str, spec: str) -> None:
    """On a shared Space: Problem unless ``spec`` is an embedded model, a Hub id, an arm of one's own, or an endpoint
    for people with an account; ``name`` is the option it stands in."""
    if not shared() or spec in ("", "none", "mini") or spec.startswith(("mini:", "scratch:")):
        return
    if spec.startswith("run:"):
        find_run(spec.removeprefix("run:").partition("/")[0], owner())
        return
    if spec.startswith("api:"):
        if not guest():
            return
        raise Problem(
            f"Option {name}: an endpoint costs its owner money, so guests cannot use it. Sign in first.",
            f"옵션 {name}: 엔드포인트는 비용이 들어 손님은 쓸 수 없습니다. 먼저 로그인해 주세요.",
        )
    if not _HUB_ID.fullmatch(spec) or os.path.exists(spec):
        raise Problem(
            f"Option {name}: {spec!r} is no model that a shared Space opens. Give a Hub id, mini:teacher, mini:student or an arm of your own.",
            f"옵션 {name}: {spec!r} 모델은 공유 Space에서 열 수 없습니다. 허브 아이디, mini:teacher, mini:student, 자기 실험의 갈래 가운데 하나를 적어 주세요.",
        )


def allow_address(url: str) -> None:
    """Problem unless ``url`` is an http(s) address outside this machine and its network (a shared Space asks no neighbour)."""
    if not shared() or not url:
        return
    parts = urlsplit(url)
    try:
        found = {i[4][0] for i in socket.getaddrinfo(parts.hostname or "", parts.port or 443, type=socket.SOCK_STREAM)}
    except (OSError, ValueError):
        found = set()
    if (
        parts.scheme not in ("http", "https")
        or parts.username
        or not found
        or not all(ipaddress.ip_address(a.partition("%")[0]).is_global for a in found)
    ):
        raise Problem(
            f"The endpoint address {url!r} is not open to a shared Space. Give a public http(s) address without a user name.",
            f"엔드포인트 주소 {url!r} 은(는) 공유 Space에서 쓸 수 없습니다. 사용자 이름이 없는 공개 http(s) 주소를 적어 주세요.",
        )
