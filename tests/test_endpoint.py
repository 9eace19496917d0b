"""Writing through an endpoint: many requests in flight, a server with every fault, nothing lost, no key anywhere."""

from __future__ import annotations

import random

import pytest

from lab import endpoint
from lab.endpoint import EndpointModel
from lab.models import Sampling
from lab.problems import Problem, Stopped
from tests.fakeapi import Served, serving

SAMPLING = Sampling(max_new_tokens=50)
KEY = "sk-secret-0123456789"


def opened(served: Served) -> EndpointModel:
    return EndpointModel("api:tale", KEY, served.url)


def written(model: EndpointModel, count: int, in_flight: int = 8, **hooks) -> dict[int, str]:
    prompts = [f"부탁 {i}" for i in range(count)]
    return {i: a.text for i, a in model.write(prompts, SAMPLING, range(count), in_flight, **hooks)}


def expected(count: int) -> dict[int, str]:
    return {i: f"옛날에 부탁 {i} 이야기가 있었어요." for i in range(count)}


@pytest.mark.parametrize("fault", [429, 500, "cut", "html", "empty", "slow"])
def test_a_request_that_fails_is_asked_again(fault: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.5)
    with serving([fault], slow=1.5) as served:
        model = opened(served)
        assert written(model, 3) == expected(3)
        assert served.requests == 4 and model.failed == []
        assert (model.prompt_tokens, model.completion_tokens) == (30, 60)


def test_200_requests_in_flight_on_a_server_with_every_fault() -> None:
    rng = random.Random(0)
    faults = [rng.choice([429, 500, 503, "cut", "html"]) if rng.random() < 0.15 else "" for _ in range(400)]
    notes: list[str] = []
    with serving(faults, together=200) as served:
        model = opened(served)
        found = written(model, 400, 200, note=lambda en, ko: notes.append(en))
        assert found == expected(400)
        assert list(found) != sorted(found)  # in the order of arrival
        assert served.peak == 200
        assert model.completion_tokens == 400 * 20  # each answer is counted once
    assert any("busy" in note for note in notes)


def test_a_busy_server_gets_half_the_requests() -> None:
    with serving([""] * 4 + [429] * 4 + [""] * 20, seconds=0.05) as served:
        notes: list[str] = []
        written(opened(served), 12, 4, note=lambda en, ko: notes.append(en))
    assert any("2 requests in flight instead of 4" in note for note in notes)


def test_answers_are_taken_one_by_one_and_requests_wait_for_that() -> None:
    """Back-pressure: who does not take answers gets no further requests sent."""
    with serving() as served:
        answers = opened(served).write([f"부탁 {i}" for i in range(100)], SAMPLING, range(100), 5)
        for _ in range(3):
            next(answers)
        assert served.requests <= 8
        answers.close()


def test_a_stop_cancels_what_is_in_flight() -> None:
    def stop(tokens: int, under_way: float) -> None:
        assert not tokens
        if served.requests == 10:
            raise Stopped

    with serving(together=11) as served, pytest.raises(Stopped):
        written(opened(served), 10, 10, tick=stop)


def test_a_request_refused_for_good_is_left_out_and_counted() -> None:
    notes: list[str] = []
    with serving([400]) as served:
        model = opened(served)
        found = written(model, 20, 1, note=lambda en, ko: notes.append(en))
    assert set(found) == set(range(1, 20)) and len(model.failed) == 1
    assert "1 requests were refused" in notes[0]


def test_a_server_that_refuses_everything_ends_the_run() -> None:
    with serving([400] * 50) as served, pytest.raises(Problem, match="failed for good"):
        written(opened(served), 50, 1)


def test_a_wrong_key_is_a_problem_that_does_not_repeat_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving([401] * 5) as served, pytest.raises(Problem) as caught:
        written(opened(served), 5, 1)
    assert "refused" in caught.value.en and KEY not in caught.value.en + caught.value.ko


def test_the_key_of_the_environment_goes_to_no_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as served:
        written(EndpointModel("api:tale", base_url=served.url), 1)
        assert KEY not in str(served.keys)
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        written(EndpointModel("api:tale"), 1)
        assert f"Bearer {KEY}" in served.keys


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(Problem, match="OPENAI_API_KEY"):
        EndpointModel("api:tale")


def test_the_newer_name_of_the_length_limit_is_used_where_the_old_one_is_refused() -> None:
    with serving(forbidden="max_tokens") as served:
        assert written(opened(served), 3, 1) == expected(3)
        assert served.bodies[-1]["max_completion_tokens"] == 50 and served.requests == 4


def test_an_endpoint_without_usage_counts_no_tokens() -> None:
    with serving(usage=False) as served:
        model = opened(served)
        assert [a.tokens for _, a in model.write(["부탁"], SAMPLING, [0])] == [0]
        assert model.completion_tokens == 0
