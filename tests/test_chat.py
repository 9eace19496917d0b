"""Several speakers at once: same seed, fair turns, who they are, what the filter says, blind votes."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import gradio as gr
import pytest
from tiny import tiny_model

from lab import chat, domain, votes
from lab.config import FilterConfig
from lab.problems import Problem
from lab.records import write_json
from lab.run import new_run
from lab.ui import chat as tab


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small models with different weights."""
    folder = tmp_path_factory.mktemp("models")
    return tiny_model(folder / "teacher", seed=1), tiny_model(folder / "student", seed=2)


@pytest.fixture
def run(models):
    """A run whose teacher and student are the two."""
    made = new_run()
    write_json(made.stage_folder("generate") / "config.json", {"teacher": models[0]})
    write_json(made.stage_folder("train", "distilled") / "config.json", {"student": models[1]})
    return made


def user(text):
    return [{"role": "user", "content": text}]


def last(pictures):
    found = list(pictures)
    return found[-1]


def test_all_speakers_end_and_say_who_they_are(models):
    from lab.models import fingerprint

    said = last(chat.talk(models, [user("동화 써 줘")] * 2, 0.8, 1, max_new_tokens=30))
    assert [s.finish in ("stop", "length") for s in said] == [True, True]
    assert [s.revision for s in said] == [fingerprint(m) for m in models]
    assert said[0].text != said[1].text
    assert all(s.tokens and s.seconds > 0 and 0 < s.first <= s.seconds for s in said)


def test_the_same_seed_tells_the_same_story_and_another_seed_another(models):
    def tell(seed):
        return last(chat.talk(models[:1], [user("동화 써 줘")], 1.0, seed, max_new_tokens=30))[0].text

    assert tell(1) == tell(1) != tell(2)


def test_a_large_model_has_all_threads_whatever_a_small_one_left_behind(models, monkeypatch, threads):
    """A thread of the server that first meets torch while a small model of another visitor writes begins with one."""
    import torch

    from lab import models as opened

    seen = []
    plain = opened._draw
    monkeypatch.setattr(opened, "_draw", lambda *a: seen.append(torch.get_num_threads()) or plain(*a))
    monkeypatch.setattr(opened, "SMALL", 0)
    monkeypatch.setattr(opened, "THREADS", 2)
    threads(1)
    last(chat.talk(models[:1], [user("동화 써 줘")], max_new_tokens=3))
    assert seen and set(seen) == {2}


def test_no_speaker_is_starved(models, monkeypatch):
    monkeypatch.setattr(chat, "PAUSE", 0.0)
    pictures = list(chat.talk(models, [user("동화 써 줘")] * 2, 1.0, 5, max_new_tokens=25))
    for said in pictures:
        if not any(s.finish for s in said):
            assert abs(said[0].tokens - said[1].tokens) <= 1


def test_what_was_said_before_is_part_of_the_request(models):
    first = last(chat.talk(models[:1], [user("짧게 써 줘")], 1.0, 0, max_new_tokens=30))[0].text
    talked = [*user("긴 이야기"), {"role": "assistant", "content": "옛날에"}, *user("짧게 써 줘")]
    assert last(chat.talk(models[:1], [talked], 1.0, 0, max_new_tokens=30))[0].text != first


def test_a_trained_arm_shows_its_base_and_the_hash_of_what_was_trained(run, models):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lab.models import fingerprint

    folder = run.stage_folder("train", "distilled") / "adapter"
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(models[1]), LoraConfig(target_modules=["q_proj"]))
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(models[1]).save_pretrained(folder)
    run.finish("train", {}, "distilled")
    assert list(tab.speakers(run)) == ["teacher", "base", "arm distilled"]
    said = last(chat.talk([tab.speakers(run)["arm distilled"]], [user("써 줘")], 0.8, 0, max_new_tokens=5))[0]
    assert said.base == models[1] and said.trained == fingerprint(str(folder))
    shown = tab.said_by(said, "en", [])
    assert said.trained in shown and "base" in shown


class Served(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that streams a story in four parts, or refuses with the key in its message."""

    broken = False
    asked: ClassVar[dict] = {}

    def do_POST(self):
        type(self).asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.broken:
            self.send_response(401)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"error": {"message": f"bad key {self.headers['authorization']}"}}).encode())
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for part, why in (("옛날 ", None), ("옛적에 ", None), ("토끼가 ", None), ("살았어요.", "stop")):
            event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [{"index": 0, "delta": {"content": part}, "finish_reason": why}]}  # fmt: skip
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture
def endpoint(monkeypatch):
    """The served model's address; its key is set."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    monkeypatch.setattr(Served, "broken", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    yield address
    server.shutdown()
    server.server_close()


def test_a_served_teacher_streams_beside_a_local_student(endpoint, models):
    said = last(chat.talk(["api:m", models[1]], [user("써 줘")] * 2, 0.7, 3, max_new_tokens=20, base_url=endpoint))
    assert said[0].text == "옛날 옛적에 토끼가 살았어요." and said[0].finish == "stop"
    assert said[0].tokens == 4 and said[0].first and said[0].revision == endpoint
    assert said[1].finish and said[1].spec == models[1]
    assert Served.asked["seed"] == 3 and Served.asked["temperature"] == 0.7 and Served.asked["stream"]


def test_a_served_teacher_that_refuses_is_explained_without_the_key(endpoint, models, monkeypatch):
    monkeypatch.setattr(Served, "broken", True)
    with pytest.raises(Problem, match="endpoint") as told:
        last(chat.talk(["api:m", models[1]], [user("써 줘")] * 2, base_url=endpoint))
    assert "sk-very-secret-key" not in told.value.en + told.value.ko


@pytest.mark.parametrize("own", ["", "나이: 여섯 살\n길이: 250자 안팎", "길이: 250자 안팎"])
def test_a_request_of_the_grid_is_read_back_also_with_own_ages_and_lengths(own):
    asked = domain.prompts(500, 3, domain.Grid.of(lists_text=own))
    right = [p for p in asked if chat.asked_for(p.instruction) == (p.character, p.keywords)]
    assert len(right) > 0.99 * len(asked)


def test_a_request_in_free_words_names_what_it_quotes():
    assert chat.asked_for("토끼 하루가 나오는 동화! '당근'과 ‘비’를 넣어 줘.") == ("토끼 하루", ("당근", "비"))
    assert chat.asked_for("아무 이야기나 들려줘") == ("", ())


def test_the_filters_verdict_knows_what_was_asked_for_also_in_a_follow_up():
    story = "옛날에 여우 한 마리가 살았어요. 여우는 숲에서 당근을 먹었어요." * 5
    config = FilterConfig()
    first = "토끼 하루가 나오는 동화! '당근'을 넣어 줘."
    assert "missing_character" in chat.faults([first], story, "stop", config)
    assert "missing_character" in chat.faults([first, "더 짧게 써 줘."], story, "stop", config)
    assert "missing_character" not in chat.faults(["아무 이야기나"], story, "stop", config)
    assert "too_short" in chat.faults([first], "토끼 하루와 당근.", "stop", config)
    off = FilterConfig(off="missing_character,repetition,near_duplicate")
    assert "missing_character" not in chat.faults([first], story, "stop", off)


def asked(
    run, table=None, chosen=None, blind=False, prompt="토끼 하루 동화 써 줘", columns=([], [], []), seed=0, left=0
):
    """What the page holds after a request: (columns, table)."""
    given = tab.ask(run.id, "en", table or tab.Table(), left, chosen, blind, seed, 0.8, prompt, *columns)
    return [c["value"] for c in given[1 : 1 + tab.SEATS]], given[1 + 2 * tab.SEATS]


def answered(run, table, columns):
    """(columns, notes, table, ballot) after all have spoken."""
    *_, shown = tab.answer(run.id, "en", table, *columns)
    said, notes = [c.get("value") for c in shown[: tab.SEATS]], shown[tab.SEATS : 2 * tab.SEATS]
    table, ballot = shown[2 * tab.SEATS : 2 * tab.SEATS + 2]
    return [*said[: len(table.names)], *[[]] * (tab.SEATS - len(table.names))], notes, table, ballot


@pytest.fixture
def short(monkeypatch):
    """Stories of 25 tokens, to be quick."""
    whole = chat.talk
    monkeypatch.setattr(chat, "talk", lambda *a, **k: whole(*a, **k, max_new_tokens=25))


def test_the_page_streams_both_and_says_which_model_each_is(run, models, short):
    columns, table = asked(run)
    assert [c[-1]["content"] for c in columns[:2]] == ["토끼 하루 동화 써 줘"] * 2
    columns, notes, table, ballot = answered(run, table, columns)
    assert columns[0][-1]["role"] == "assistant"
    assert models[0] in notes[0] and models[1] in notes[1] and "tokens/s" in notes[0] and "first token" in notes[0]
    assert not table.votable and ballot["interactive"] is False
    assert [t["label"] for t in tab.titles(run, "en", table)[:2]] == [f"A · Teacher · {models[0]}", f"B · Student before · {models[1]}"]  # fmt: skip


def test_blind_hides_every_trace_until_the_vote_and_keeps_it(run, models, short):
    columns, table = asked(run, blind=True)
    columns, notes, table, ballot = answered(run, table, columns)
    page = json.dumps([columns, notes, tab.titles(run, "en", table)], ensure_ascii=False, default=str)
    assert models[0] not in page and models[1] not in page and "tokens/s" not in page and "Teacher" not in page
    assert ballot["interactive"] is True
    shown = tab.voted_as("a")(run.id, "en", table)
    assert table.specs[0] in shown[0] and "your choice" in shown[0] and "your choice" not in shown[1]
    (row,) = [json.loads(line) for line in run.votes_file.read_text("utf-8").splitlines()]
    assert row["winner"] == table.names[0] and row["answers"][0]["text"] == table.said[0].text
    assert sum(d.wins + d.losses for d in votes.count(run)) == 1
    with pytest.raises(gr.Error):
        tab.voted_as("a")(run.id, "en", shown[tab.SEATS])


def test_sides_are_shuffled_and_stay_for_the_conversation(run):
    orders = {asked(run, blind=True)[1].names for _ in range(40)}
    assert orders == {("teacher", "base"), ("base", "teacher")}
    columns, table = asked(run, blind=True)
    for _ in range(10):
        again, same = asked(run, table=table, blind=True, prompt="더!", columns=columns)
        assert same.names == table.names and len(again[0]) == 2


def test_after_the_vote_a_new_conversation_begins(run, short):
    columns, table = asked(run, blind=True)
    columns, _, table, _ = answered(run, table, columns)
    table = tab.voted_as("tie")(run.id, "en", table)[tab.SEATS]
    columns, table = asked(run, table=table, blind=True, columns=columns)
    assert len(columns[0]) == 1 and table.hidden and not table.said


@pytest.mark.parametrize("choice", ["c", "a"])
def test_no_vote_without_stories_or_for_an_empty_seat(run, short, choice):
    columns, table = asked(run, blind=True)
    if choice == "c":
        table = answered(run, table, columns)[2]
    with pytest.raises(gr.Error):
        tab.voted_as(choice)(run.id, "en", table)
    assert not run.votes_file.exists()


def test_telling_again_takes_the_next_seed_and_replaces_the_last_answer(run, short):
    columns, table = asked(run, seed=4)
    columns, _, table, _ = answered(run, table, columns)
    before = columns[0][-1]["content"]
    given = tab.retell(run.id, "en", table, 0, [], False, 4, 0.8, *columns)
    columns = [c["value"] for c in given[1 : 1 + tab.SEATS]]
    assert given[0] == 5 and [len(c) for c in columns] == [1, 1, 0]
    columns, _, _, _ = answered(run, given[1 + 2 * tab.SEATS], columns)
    assert columns[0][-1]["content"] != before


def test_two_stories_that_open_their_models_at_once_both_have_them(tmp_path):
    specs = [tiny_model(tmp_path / str(seed), seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(len(specs)) as visitors:
        told = visitors.map(lambda spec: last(chat.talk([spec], [user("동화 써 줘")], max_new_tokens=2)), specs)
        assert [(said.spec, said.tokens > 0) for (said,) in told] == [(spec, True) for spec in specs]


def test_a_conversation_that_was_left_stays_empty_whatever_its_story_still_brings(run, short):
    columns, table = asked(run)
    columns, _, table, _ = answered(run, table, columns)
    assert all(x == gr.skip() for x in tab.settled("en", table, 0))
    for ended in (table, tab.Table()):
        emptied = tab.settled("en", ended, 1)
        assert [c["value"] for c in emptied[: tab.SEATS]] == [[], [], []] and tab.Table() in emptied
    with pytest.raises(gr.Error, match="no story to repeat"):
        tab.retell(run.id, "en", table, 1, [], False, 4, 0.8, *columns)
    again, fresh = asked(run, table, columns=columns, left=1)
    assert [len(c) for c in again] == [1, 1, 0] and fresh.left == 1


def test_a_request_or_a_second_speaker_is_asked_for(run):
    with pytest.raises(gr.Error, match="request"):
        asked(run, prompt="  ")
    with pytest.raises(gr.Error, match="two or more"):
        asked(run, chosen=["teacher"], blind=True)
    assert asked(run, chosen=["teacher"])[1].names == ("teacher",)
    assert asked(run, chosen=["teacher", "nobody", "base"])[1].names == ("teacher", "base")


def test_the_dice_and_the_ready_requests_are_unseen_in_training():
    assert tab.rolled().split == "test"
    assert len(tab.ready_prompts()) == tab.READY and {p.split for p in tab.ready_prompts()} == {"test"}


def test_what_is_written_below_a_column_brings_no_markup(run):
    said = chat.Said(text="x", spec="<script>", revision="<b>", finish="stop")
    assert "<script>" not in tab.said_by(said, "ko", ["<i>"]) and "<i>" not in tab.said_by(said, "ko", ["<i>"])
