"""What a stranger may try on a shared Space: forged files and paths, hostile models, addresses, texts, secrets in files."""

import contextlib
import json
import os
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gradio as gr
import httpx
import pytest
from test_archive import zipped
from test_ui import client
from tiny import tiny_model
from visitor import Refused, Visitor, address  # noqa: F401  (a fixture)

from lab import jobs, review
from lab.endpoint import EndpointModel
from lab.models import Sampling, open_model
from lab.problems import Problem
from lab.records import Pair, Verdict, append_rows, write_json
from lab.run import home, new_run, runs
from lab.stages.generate import read_own
from lab.ui import chat, page, publish

SCRIPT = '<img src=x onerror="alert(1)">'
LINK_LOCAL = "http://169.254.169.254/latest"


@pytest.mark.parametrize("elem_id", ["unpack", "upload", "csv-in"])
def test_a_path_of_the_server_is_not_taken_for_an_upload(address, tmp_path, elem_id):  # noqa: F811
    secret = zipped(tmp_path, {"generate/pairs.jsonl": '{"id": "1", "instruction": "a", "output": "비밀 이야기"}\n'})
    run = new_run()
    visitor = Visitor(address, run.id)
    forged = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Refused) as refused:
        visitor.press(elem_id, "upload", **{elem_id.replace("-", "_"): forged})
    assert "비밀" not in str(refused.value) and "choices" not in str(refused.value)
    assert runs() == [run]


def test_no_file_of_the_machine_is_served(address):  # noqa: F811
    run = new_run(title="남의 실험")
    inside = str(run.folder / "run.json")
    for path in ("/etc/passwd", "../../../etc/passwd", inside, "app.py", str(home() / ".secret")):
        answer = httpx.get(f"{address}/gradio_api/file={path}")
        assert answer.status_code in (403, 404) and "남의" not in answer.text and "root:" not in answer.text


def test_an_upload_that_is_too_large_is_refused(address, monkeypatch):  # noqa: F811
    sent = {"files": ("own.jsonl", b"x" * 100_000)}
    assert httpx.post(f"{address}/gradio_api/upload", files=sent).status_code == 200
    (demo,) = [d for d in gr.Blocks.get_instances() if (d.local_url or "").rstrip("/") == address]
    assert demo.max_file_size == 200 * 2**20
    monkeypatch.setattr(demo, "max_file_size", 50_000)
    assert httpx.post(f"{address}/gradio_api/upload", files=sent).status_code == 413


@pytest.mark.parametrize("stored", [{"base_url": LINK_LOCAL, "teacher": "api:x"}, {"teacher": "/etc"}])
def test_a_run_from_a_zip_opens_no_address_and_no_path(address, monkeypatch, stored):  # noqa: F811
    monkeypatch.setenv("SPACE_ID", "somebody/distillery")
    cookie = httpx.get(address).headers["set-cookie"].partition(";")[0]
    visitor = client(address, cookie=cookie)
    made = visitor.predict("mini", "zip에서", api_name="/new_run")["run"]
    (run,) = runs()
    write_json(run.stage_folder("generate") / "config.json", stored)
    for stage in ("compare", "run"):
        with pytest.raises(Exception, match=r"not open|no model|Sign in"):
            visitor.predict(made, stage, {}, api_name="/start")
    assert not run.job_file.exists()


def test_an_endpoint_cannot_send_the_app_on_to_another_address(monkeypatch):
    asked = []

    class Redirects(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/inside")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        model = EndpointModel("api:x", "key", f"http://127.0.0.1:{server.server_port}/v1")
        with pytest.raises(Problem):
            list(model.write(["동화 써 줘"], Sampling(), [0]))
    finally:
        server.shutdown()
    assert asked and set(asked) == {"/v1/chat/completions"}


class Bomb:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (open, (str(self.place), "w"))


def test_a_pickle_offered_as_a_model_is_not_opened(tmp_path):
    folder, hit = tmp_path / "model", tmp_path / "hit"
    tiny_model(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(hit)))
    with pytest.raises(Problem, match="safetensors"):
        open_model(str(folder))
    assert not hit.exists()


def test_code_beside_a_model_is_not_run(tmp_path):
    folder, hit = tmp_path / "model", tmp_path / "hit"
    tiny_model(folder)
    (folder / "modeling_evil.py").write_text(f"open({str(hit)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    write_json(folder / "config.json", config)
    with contextlib.suppress(Problem):
        open_model(str(folder))
    assert not hit.exists()


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00\x01" * 50, b"[" * 100_000, b'{"instruction": 1, "output": []}\n', b'"text"\n', b"\x00" * 5000, b""],
)
def test_a_malformed_upload_is_refused_with_a_word(tmp_path, content):
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    try:
        pairs, faults = read_own(path)
    except Problem:
        return
    assert faults or not pairs


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01" * 50, b"\x00" * 5000, b"", b"a,b\n1,2\n"])
def test_a_malformed_table_of_reviews_is_refused_with_a_word(tmp_path, content):
    run = new_run()
    append_rows(run.pairs_file, [Pair("1", "부탁", "이야기").row()])
    append_rows(run.verdicts_file, [Verdict("1", True).row()])
    path = tmp_path / "review.csv"
    path.write_bytes(content)
    with pytest.raises(Problem):
        review.import_csv(run, path, "나")


def test_messages_and_lists_of_files_show_markup_as_text(tmp_path):
    problem = page.told(Problem(SCRIPT, SCRIPT), "en")
    assert isinstance(problem, gr.Error) and "<img" not in problem.message and "&lt;img" in problem.message
    (tmp_path / "<b>x.txt").write_text("x")
    assert "<b>x" not in publish.files(tmp_path, "en")


def test_a_title_and_a_request_have_a_longest_length():
    run = new_run(title="가" * 5000)
    assert len(run.meta()["title"]) == 120
    run.rename("나" * 5000)
    assert len(run.meta()["title"]) == 120
    asked = chat.ask(run.id, "en", chat.Table(), 0, ["teacher", "base"], False, 0, 0.8, "다" * 50_000, [], [], [])
    (table,) = [x for x in asked if isinstance(x, chat.Table)]
    assert len(table.instruction) == chat.LONGEST


def test_an_endpoint_key_stands_in_no_file(monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", "")
    run = new_run()
    options = ["--teacher", "api:x", "--base-url", "http://127.0.0.1:9/v1", "--pairs", "1"]
    jobs.start(run, ["generate", run.id, *options, "--json"], key)
    while jobs.look(run).state in jobs.GOING:
        time.sleep(0.2)
    assert jobs.look(run).state == "failed"
    files = [p for p in home().rglob("*") if p.is_file()]
    assert files and not [p for p in files if key.encode() in p.read_bytes()]
    assert key not in os.environ.values()
