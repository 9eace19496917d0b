"""The judge: parsing answers, families, the trained mini judge's arithmetic, a small local model, a served one."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab import judge
from lab.domain import templates
from lab.models import open_model
from lab.problems import Problem
from lab.records import Pair, read_json
from tests.tiny import tiny_model

PAIRS = [
    Pair("a", "토끼 토토가 나오는 동화를 써 줘.", "토끼 토토는 꽃밭에서 놀았어요. 비가 왔지요.", "토끼 토토", ("꽃",)),
    Pair("b", "짧은 동화를 써 줘.", "오늘 서버 점검이 있습니다.", "토끼 토토", ("비",)),
    Pair("c", "곰 이야기를 써 줘.", "곰은 꿀을 좋아했어요. " * 9, "곰 보보", ("꿀",)),
]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[dict], list[str | int]]]:
    """A server on this machine that speaks the OpenAI protocol: what it was asked, and what it will answer (or a status)."""
    asked: list[dict] = []
    answers: list[str | int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            asked.append(json.loads(raw) | {"raw": raw})
            said = answers.pop(0) if len(answers) > 1 else answers[0]
            message = {"role": "assistant", "content": said}
            body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})  # fmt: skip
            self.send_response(said if isinstance(said, int) else 200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield asked, answers
    server.shutdown()
    server.server_close()


def test_a_served_judge_is_asked_in_korean_for_structured_output(served: tuple[list[dict], list]) -> None:
    asked, answers = served
    answers.append('{"score": 4, "reason": "따뜻한 이야기입니다."}')
    assert judge.judge_pairs(PAIRS[:1], "api:m") == [(4.0, "따뜻한 이야기입니다.")]
    (request,) = asked
    assert request["model"] == "m" and request["response_format"]["json_schema"]["schema"]["required"] == [
        "score",
        "reason",
    ]
    text = request["messages"][0]["content"]
    assert judge.RUBRIC in text and PAIRS[0].instruction in text and PAIRS[0].output in text
    assert "꽃밭".encode() in request["raw"]


def test_an_answer_that_cannot_be_read_is_asked_for_again_then_has_no_score(served: tuple[list[dict], list]) -> None:
    asked, answers = served
    answers += ["글쎄요", '{"score": 2, "reason": "어색합니다."}']
    assert judge.judge_pairs(PAIRS[:1], "api:m") == [(2.0, "어색합니다.")]
    assert len(asked) == 2 and asked[0]["temperature"] == 0 < asked[1]["temperature"]
    answers[:] = ["아주 좋아요"]
    assert judge.judge_pairs(PAIRS[:1], "api:m") == [(None, "")]
    assert len(asked) == 5


def test_a_judge_that_cannot_be_reached_is_a_problem(served: tuple[list[dict], list]) -> None:
    served[1].append(401)
    with pytest.raises(Problem, match="api:m failed"):
        judge.judge_pairs(PAIRS[:1], "api:m")


def test_a_local_judge_scores_by_the_expectation_of_the_digits_alone_or_in_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_model(tmp_path / "judge")
    together = judge.judge_pairs(PAIRS, spec)
    alone = [judge.judge_pairs([p], spec)[0] for p in PAIRS]
    assert [s for s, _ in together] == pytest.approx([s for s, _ in alone], abs=0.01)
    model = open_model(spec)
    prompt = model.messages_ids(
        [{"role": "user", "content": judge._question(PAIRS[0]) + "점수를 숫자 하나로만 답하세요."}]
    )
    logits = model.next_token_logprobs([prompt])[0].exp()
    digits = [logits[model.tokenizer(str(d), add_special_tokens=False)["input_ids"][-1]].item() for d in range(1, 6)]
    expected = sum(d * p for d, p in enumerate(digits, 1)) / sum(digits)
    assert together[0][0] == pytest.approx(expected, abs=0.01)
    assert len({judge.identity(spec), judge.identity(tiny_model(tmp_path / "other", seed=1))}) == 2


def test_an_answer_is_json_with_a_score_or_unparsable() -> None:
    assert judge.parse('네. {"score": 4, "reason": "따뜻한 이야기"}') == (4.0, "따뜻한 이야기")
    assert judge.parse("좋아요") == (None, "")
    assert judge.parse('{"score": 9}') == (None, "")


def test_judge_and_teacher_of_one_family_are_noticed() -> None:
    assert judge.same_family("Qwen/Qwen2.5-7B-Instruct", ["Qwen/Qwen2.5-1.5B-Instruct"]) == "qwen"
    assert judge.same_family("api:gpt-oss-20b", ["mini:teacher"]) == ""


def test_what_speaks_against_a_story_lowers_its_score() -> None:
    trained = read_json(judge.MODEL_FILE)
    usual = dict(zip(trained["features"], trained["means"], strict=True))
    for name, weight, scale in zip(trained["features"], trained["weights"], trained["scales"], strict=True):
        # Half a logit each way, so that no weight is too small for a score of two decimals.
        better, worse = (usual | {name: usual[name] + sign * 0.5 / weight * scale} for sign in (1, -1))
        assert 1 <= judge._opinion(worse, trained)[0] < judge._opinion(better, trained)[0] <= 5


def test_made_up_words_and_sentences_without_a_thread_show_in_the_features() -> None:
    good = Pair(
        "",
        "토끼 토토와 당근 이야기",
        "토끼가 당근을 뽑았어요. 당근은 크고 달콤했어요. 토끼는 웃으며 당근을 나누어 먹었어요.",
    )
    odd = Pair(
        "",
        "토끼 토토와 당근 이야기",
        "토끼가 훔찬 둘벅을 그루었어요. 시늘한 낭글이 또름했어요. 버드란 솔밋은 늘름했어요.",
    )
    first, second = judge.features([good, odd], "mini:teacher")
    assert first["unknown_words"] < second["unknown_words"] and first["linked"] > second["linked"]


def test_any_judge_can_be_measured_on_the_labelled_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that knows the labels keeps all good rows and catches all bad ones; one that likes everything catches none."""
    labels = {pair: 5.0 if r["label"] == "keep" else 1.0 for pair, r in judge.labelled()}
    monkeypatch.setattr(judge, "judge_pairs", lambda pairs, spec: [(labels[p], "") for p in pairs])
    assert judge.evaluate("api:x")["judge"] == {"good_kept": 1, "judge_level_caught": 1}
    monkeypatch.setattr(judge, "judge_pairs", lambda pairs, spec: [(5.0, "") for _ in pairs])
    facts = judge.evaluate("api:x")
    assert facts["judge"] == {"good_kept": 1, "judge_level_caught": 0}
    assert facts["rules"] == facts["both"] and set(facts["missed"]) == {"incoherent"}


def test_a_corrupted_story_differs_from_its_original() -> None:
    rng = random.Random(0)
    pair, other = judge.filled(rng, templates()[0]), judge.filled(rng, templates()[1])
    assert judge.corrupted(rng, pair, other).output != pair.output


def test_numbers_are_judged_as_they_are_read() -> None:
    """No tale that the judge learned from has a digit in it; a train with times lost two points for them."""
    assert judge._in_words("12시 5분, 0명, 100개, 20, 2024, 08") == "십이시 오분, 영명, 백개, 이십, 이천이십사, 팔"
    rows = map(json.loads, (Path(__file__).parent / "fixtures" / "filter_hard.jsonl").read_text("utf-8").splitlines())
    train = next(r for r in rows if r["label"] == "keep" and "7시 10분에 첫 역을 떠납니다" in r["output"])
    assert judge._mini([Pair.of(train)])[0][0] >= 3
