"""Who waits for what: jobs in line at the machine, visitors in line for a story, and how the chat tells both."""

import os
import threading

from visitor import Visitor, address  # noqa: F401  (a fixture)

from lab import chat, jobs
from lab.run import home, new_run
from lab.ui import texts

HEADLESS = 2**22 + 1
"""A pid that no process has."""


def ticket(number, pid, born):
    queue = home() / ".queue"
    queue.mkdir(parents=True, exist_ok=True)
    (queue / f"{number}-{pid}").write_text(born)


def test_a_ticket_counts_as_long_as_the_process_that_drew_it_lives():
    assert jobs.in_line() == 0
    ticket(1, HEADLESS, "")
    ticket(2, os.getpid(), "0")  # drawn before a restart by another process with this pid
    assert jobs.in_line() == 0
    with jobs.at_work(new_run(), "generate", [], say=False):
        assert jobs.in_line() == 1
        ticket(2**62, os.getpid(), jobs._born(os.getpid()))
        assert jobs.in_line() == 2


def test_the_chat_tells_the_jobs_at_the_machine_and_the_place_in_line(address, monkeypatch):  # noqa: F811
    """The story of the first visitor does not end before the second has read the place; the telling itself is left out."""
    end, begun = threading.Event(), threading.Event()

    def told(specs, *rest, **more):
        begun.set()
        end.wait(60)
        yield [chat.Said("끝", 1, 1.0, 1.0, "stop", spec) for spec in specs]

    monkeypatch.setattr(chat, "talk", told)
    run = new_run()
    first, second = Visitor(address, run.id), Visitor(address, run.id)
    onlooker = Visitor(address, run.id)
    onlooker.look()
    assert "&nbsp;" in onlooker.read("chat-line")
    onlooker.session = second.session  # the page's timer beside the page's button
    asks = [
        threading.Thread(target=v.press, args=("send", "click"), kwargs={"prompt": "동화"}) for v in (first, second)
    ]
    try:
        asks[0].start()
        assert begun.wait(60)
        asks[1].start()
        ticket(1, os.getpid(), jobs._born(os.getpid()))
        wanted = f"{texts.say('chat_place', 'en', n=1)} {texts.say('chat_busy', 'en', n=0)}"
        for _ in range(100):
            onlooker.look()
            if wanted in onlooker.read("chat-line"):
                break
        assert wanted in onlooker.read("chat-line")
    finally:
        end.set()
        for ask in [a for a in asks if a.ident]:
            ask.join(60)


def test_without_a_run_there_is_a_way_to_bring_one_in_and_to_take_a_deletion_back(address):  # noqa: F811
    run = new_run(title="하나뿐")
    visitor = Visitor(address, run.id)
    visitor.look()
    visitor.press("delete", "click")
    assert visitor.read("run") is None
    newcomer = Visitor(address)
    assert newcomer.sees("undelete") and newcomer.sees("unpack") and not newcomer.sees("run-at-hand")
    newcomer.press("undelete", "click")
    newcomer.look()
    assert newcomer.read("run") == run.id and newcomer.sees("run-at-hand") and not newcomer.sees("undelete")
