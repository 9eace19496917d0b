"""Runs of a Space without storage come back after a restart: copied to a stand-in of the Hub and fetched from it."""

import shutil
import time

import pytest

from lab import archive, backup
from lab.problems import Problem
from lab.records import Pair, append_rows
from lab.run import home, new_run, runs
from lab.stages import publish
from lab.ui import header, shared
from tests.fakehub import FakeHub

TOKEN, REPO = "hf_aliceSecretToken0123456789", "alice/copies"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(publish, "ATTEMPTS", 3)
    with FakeHub() as hub:
        hub.add_user(TOKEN, "alice")
        # The only address is this machine's; the client must not think itself offline, whichever test ran before.
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def api(hub):
    return publish.client(hub.url, TOKEN)


def told(title="여우", owner="u-kim"):
    run = new_run(title=title, owner=owner)
    append_rows(run.pairs_file, [Pair("1", "부탁", "여우가 길을 떠났어요.").row()])
    return run


def restart():
    """A new container: nothing on its disk."""
    shutil.rmtree(home())


def copies(hub):
    return sorted(p for p in hub.files("dataset", REPO) if p.endswith(".zip"))


def test_runs_come_back_to_their_owners_under_their_names(api, hub):
    mine, guests = told(), told("같은 이름", "g-0123456789abcdef01234567")
    told("같은 이름", guests.owner)
    backup.save(api, REPO, backup.restore(api, REPO))
    restart()
    backup.restore(api, REPO)
    assert [r.id for r in runs("u-kim")] == [mine.id] and len(runs(guests.owner)) == 2
    assert mine.meta()["title"] == "여우" and [p.output for p in mine.pairs()] == ["여우가 길을 떠났어요."]


def test_only_what_changed_is_copied_and_what_was_deleted_goes(api, hub):
    one, two = told("하나"), told("둘")
    saved = backup.save(api, REPO, backup.restore(api, REPO))
    assert len(copies(hub)) == 2

    def commits():
        return len([r for r in hub.requests if "/commit/" in r[1]])

    before = commits()
    assert backup.save(api, REPO, saved) == saved and commits() == before
    append_rows(one.pairs_file, [Pair("2", "부탁", "곰도 갔어요.").row()])
    archive.delete(two)
    backup.save(api, REPO, saved)
    assert commits() == before + 1 and copies(hub) == [f"runs/u-kim/{one.id}.zip"]
    restart()
    backup.restore(api, REPO)
    assert len(list(one.pairs())) == 2


def test_a_run_that_is_here_is_not_replaced_by_its_copy(api):
    run = told()
    backup.save(api, REPO, backup.restore(api, REPO))
    run.rename("새 이름")
    backup.restore(api, REPO)
    assert run.meta()["title"] == "새 이름"


def test_a_hub_that_stumbles_loses_nothing_and_a_public_repository_gets_nothing(api, hub):
    run = told()
    saved = backup.restore(api, REPO)
    hub.fail("POST", "/commit/", status=503, times=1)
    backup.save(api, REPO, saved)
    assert copies(hub) == [f"runs/u-kim/{run.id}.zip"]
    api.create_repo("alice/open", repo_type="dataset", private=False)
    with pytest.raises(Problem, match="public"):
        backup.restore(api, "alice/open")


def test_the_app_copies_by_itself_and_the_page_says_so(hub, monkeypatch):
    monkeypatch.setenv("LAB_BACKUP_REPO", REPO)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SPACE_ID", "somebody/distillery")
    monkeypatch.setattr(backup, "PAUSE", 3600)
    run = told()
    backup.keep()
    while backup.last()["at"] is None:
        assert backup.last()["fault"] is None
        time.sleep(0.1)
    assert copies(hub) == [f"runs/u-kim/{run.id}.zip"]
    assert "private dataset" in header.kept("en") and "cannot be copied" not in header.kept("en")
    assert TOKEN.encode() not in b"".join(p.read_bytes() for p in home().rglob("*") if p.is_file())


def test_guests_keep_their_key_over_a_restart_where_a_secret_is_set(monkeypatch):
    monkeypatch.setenv("LAB_SECRET", "a long secret of the Space")
    cookie = f"{shared.COOKIE}={shared._signed('abc')}"
    assert shared._guest_of(cookie) == "abc"
