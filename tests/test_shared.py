"""Several people on one Space: each sees, starts and stops only their own; nothing that a client sends makes an owner."""

import asyncio
import os
import time

import gradio as gr
import pytest
from gradio.context import LocalContext
from starlette.requests import Request

from lab.config import CompareConfig, FilterConfig, GenerateConfig, TrainConfig
from lab.problems import Problem
from lab.records import write_json
from lab.run import LOCAL_OWNER, home, new_run, runs
from lab.ui import header, page, shared


@pytest.fixture
def space(monkeypatch):
    """A shared Space with fresh counters."""
    monkeypatch.setenv("SPACE_ID", "somebody/distillery")
    shared._asked.clear()


def cookie_from(cookie=""):
    """What the server sets as its cookie for a browser that sends ``cookie``; None if it sets none."""
    sent = []

    async def answers(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def keep(message):
        sent.append(message)

    headers = [(b"cookie", cookie.encode())] if cookie else []
    asyncio.run(shared.Guests(answers)({"type": "http", "path": "/", "headers": headers}, None, keep))
    return dict(sent[0]["headers"]).get(b"set-cookie", b"").decode() or None


def asks(cookie="", session=None, session_hash="abc"):
    """Let this visitor be the one who asks."""
    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope = {"type": "http", "headers": headers, "session": session or {}, "query_string": b"", "path": "/"}
    LocalContext.request.set(gr.Request(request=Request(scope), session_hash=session_hash))


def user(name, left=3600.0):
    return {"oauth_info": {"userinfo": {"preferred_username": name}, "expires_at": time.time() + left}}


def test_on_ones_own_machine_all_runs_are_local():
    asks()
    assert shared.owner() == LOCAL_OWNER and cookie_from() is None


def test_a_guest_gets_a_key_that_scripts_cannot_read_and_keeps_it(space):
    given = cookie_from()
    assert all(word in given for word in ("HttpOnly", "Secure", "SameSite=None", "Partitioned"))
    key = given.partition(";")[0]
    asks(key)
    mine = shared.owner()
    assert mine.startswith("g-") and key.partition("=")[2][:16] not in mine, (
        "the folder's name does not give the key away"
    )
    assert cookie_from(key) is None
    asks(cookie_from().partition(";")[0])
    assert shared.owner() not in ("", mine)


@pytest.mark.parametrize(
    "forged",
    ["distillery_guest=abc", "distillery_guest=abc.def", "distillery_guest=../../etc.0", "distillery_guest=", "other=1", 'distillery_guest="; x'],
)  # fmt: skip
def test_a_forged_key_or_a_session_hash_owns_nothing(space, forged):
    new_run(owner="g-somebody")
    asks(forged, session_hash="g-somebody")
    assert shared.owner() == ""
    assert runs(shared.owner()) == [] and header.choices("en") == []
    assert cookie_from(forged) is not None


def test_the_owner_of_a_signed_in_person_is_the_hub_name_until_the_session_ends(space):
    asks(session=user("kim-minji"))
    assert shared.owner() == "u-kim-minji" and not shared.guest()
    asks(session=user("../../root"))
    assert shared.owner() == "u-....root"
    asks(session=user("kim-minji", left=-1))
    assert shared.owner() == ""


def test_nobody_finds_the_run_of_another_even_with_its_id(space):
    asks(session=user("a"))
    mine = header.created("mini", "내 실험")
    assert page.find(mine.id) == mine
    asks(session=user("b"))
    assert page.find(mine.id) is None
    with pytest.raises(gr.Error):
        page.needed(mine.id, "ko")
    asks(cookie_from().partition(";")[0])
    assert page.find(mine.id) is None and header.choices("ko") == []


@pytest.mark.parametrize("forged", ["../u-a", "..", "/etc/passwd", "u-a/20260101", ".trash", "", "x" * 500, "a\x00b", "%2e%2e"])  # fmt: skip
def test_a_forged_run_id_finds_nothing(space, forged):
    asks(session=user("a"))
    header.created("mini", "")
    assert page.find(forged) is None


def test_guests_keep_few_runs_and_may_ask_for_little(space):
    asks(cookie_from().partition(";")[0])
    for _ in range(shared.GUEST_RUNS):
        header.created("mini", "")
    with pytest.raises(Problem, match="at most"):
        header.created("mini", "")
    shared.allow(GenerateConfig(pairs=shared.GUEST_CAPS["pairs"]))
    with pytest.raises(Problem, match="pairs"):
        shared.allow(GenerateConfig(pairs=shared.GUEST_CAPS["pairs"] + 1))
    with pytest.raises(Problem, match="epochs"):
        shared.allow(TrainConfig(epochs=20.0))
    asks(session=user("a"))
    shared.allow(GenerateConfig(pairs=50_000))


@pytest.mark.parametrize(
    "config",
    [
        GenerateConfig(teacher="/etc"),
        GenerateConfig(teacher="./data/mini/teacher"),
        GenerateConfig(teacher="data/mini"),
        GenerateConfig(teacher="../../somebody/model"),
        FilterConfig(judge="/root/model"),
        TrainConfig(student="~/model"),
        CompareConfig(reference="/etc/passwd"),
        TrainConfig(human_file="/etc/passwd"),
        CompareConfig(judge="file:///etc"),
    ],
)
def test_a_shared_space_opens_no_path_of_the_server(space, config):
    asks(session=user("a"))
    with pytest.raises(Problem):
        shared.allow(config)


def test_models_of_the_hub_the_embedded_pair_and_ones_own_arms_are_open(space):
    asks(session=user("a"))
    mine = header.created("mini", "")
    for spec in ("Qwen/Qwen2.5-1.5B-Instruct", "mini:teacher", f"run:{mine.id}/distilled", "api:gpt-oss-20b"):
        shared.allow(GenerateConfig(teacher=spec))
    asks(session=user("b"))
    with pytest.raises(Problem, match="no run"):
        shared.allow(GenerateConfig(teacher=f"run:{mine.id}/distilled"))
    asks(cookie_from().partition(";")[0])
    with pytest.raises(Problem, match="Sign in"):
        shared.allow(GenerateConfig(teacher="api:gpt-oss-20b"))


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://[::1]/v1",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.7/v1",
        "http://192.168.1.1",
        "http://0.0.0.0/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://2130706433/v1",
        "file:///etc/passwd",
        "gopher://93.184.215.14/",
        "http://user:word@93.184.215.14/v1",
        "http://",
    ],
)
def test_a_shared_space_asks_no_neighbour_for_a_visitor(space, address):
    asks(session=user("a"))
    with pytest.raises(Problem, match="not open"):
        shared.allow(GenerateConfig(teacher="api:x", base_url=address))


def test_a_public_address_is_open_and_on_ones_own_machine_every_one_is(space, monkeypatch):
    shared.allow_address("https://93.184.215.14/v1")
    monkeypatch.delenv("SPACE_ID")
    shared.allow_address("http://127.0.0.1:8000/v1")
    shared.allow(GenerateConfig(teacher="/home/me/model"))


def test_too_many_requests_within_a_minute_are_refused_for_their_owner_alone(space):
    asks(session=user("a"))
    for _ in range(shared.RATE):
        shared.slow_down()
    with pytest.raises(Problem, match="within a minute"):
        shared.slow_down()
    asks(session=user("b"))
    shared.slow_down()


def test_on_a_space_everybody_has_one_job_in_line(space):
    asks(session=user("a"))
    one, two = header.created("mini", "하나"), header.created("mini", "둘")
    write_json(one.job_file, {"state": "waiting", "pid": os.getpid()})
    shared.admit(one)  # its own second job is refused where it is started
    with pytest.raises(Problem, match="하나"):
        shared.admit(two)
    asks(session=user("b"))
    shared.admit(header.created("mini", ""))
    asks(session=user("a"))
    write_json(one.job_file, {"state": "done"})
    shared.admit(two)


def test_the_servers_secret_is_readable_by_its_owner_alone(space):
    cookie_from()
    assert (home() / ".secret").stat().st_mode & 0o077 == 0


def test_a_visitor_reads_whose_runs_these_are_and_how_long_they_last(space, monkeypatch):
    from lab.ui.texts import say

    asks(cookie_from().partition(";")[0])
    assert say("space_kept", "en") in header.kept("en") and str(shared.GUEST_RUNS) in header.kept("en")
    monkeypatch.delenv("LAB_HOME")
    assert say("space_lost", "ko") in header.kept("ko")
    monkeypatch.delenv("SPACE_ID")
    assert header.kept("ko") == ""
