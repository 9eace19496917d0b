"""Generate writes each row once, resumes, refuses to mix settings; imported pairs are checked line by line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lab import diversity, domain, jobs
from lab.config import GenerateConfig
from lab.models import LocalModel, Sampling, open_model
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import read_rows
from lab.run import find_run, new_run
from lab.stages import generate
from tests.fakeapi import Served, serving

SHORT = GenerateConfig(pairs=6, max_new_tokens=24, batch_size=4)


@pytest.fixture(scope="module")
def teacher() -> LocalModel:
    """The embedded teacher."""
    model = open_model("mini:teacher")
    assert isinstance(model, LocalModel)
    return model


def _generate(run, settings: GenerateConfig) -> dict:
    return generate.run(run, settings, Progress(run, "generate", []))


def test_a_seed_gives_the_same_stories_and_growing_keeps_what_is_there() -> None:
    one, other = new_run(), new_run()
    _generate(one, SHORT)
    first = [(p.id, p.output) for p in one.pairs()]
    assert _generate(one, GenerateConfig(pairs=9, max_new_tokens=24, batch_size=4))["pairs"] == 9
    _generate(other, GenerateConfig(pairs=6, max_new_tokens=24, batch_size=4))
    assert [(p.id, p.output) for p in other.pairs()] == first
    assert [(p.id, p.output) for p in one.pairs()][:6] == first
    assert max(Counter(p.id for p in one.pairs()).values()) == 1


def test_another_setting_is_never_mixed_in() -> None:
    run = new_run()
    _generate(run, SHORT)
    before = run.pairs_file.read_bytes()
    with pytest.raises(Problem, match="another setting"):
        _generate(run, GenerateConfig(pairs=6, max_new_tokens=24, seed=5))
    assert run.pairs_file.read_bytes() == before and run.state("generate") == "done"


def test_a_killed_generation_goes_on_without_loss_or_doubles() -> None:
    run = new_run()
    command = [
        sys.executable,
        "-m",
        "lab",
        "generate",
        run.id,
        "--pairs",
        "40",
        "--max-new-tokens",
        "30",
        "--batch-size",
        "2",
    ]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
    for _ in range(6000):
        if run.pairs_file.exists() and run.pairs_file.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with run.pairs_file.open("ab") as file:
        file.write(b'{"id": "torn')
    kept = [p.id for p in run.pairs()]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=os.environ.copy(), check=True)
    assert json.loads(done.stdout)["pairs"] == 40
    ids = [p.id for p in run.pairs()]
    assert len(set(ids)) == len(ids) == 40 and ids[: len(kept)] == kept


def test_a_teacher_that_is_not_there_is_named() -> None:
    run = new_run()
    with pytest.raises(Problem, match="no-such"):
        _generate(run, GenerateConfig(pairs=1, teacher="somebody/no-such-model"))
    assert not run.pairs_file.exists()


def test_batching_changes_nothing(teacher: LocalModel) -> None:
    asked = [p.instruction for p in domain.prompts(7, 3)]
    greedy = Sampling(temperature=0.0, max_new_tokens=40)
    together = dict(teacher.write(asked, greedy, [0] * 7, batch_size=7))
    alone = {i: next(teacher.write([a], greedy, [0], batch_size=1))[1] for i, a in enumerate(asked)}
    assert {i: a.text for i, a in together.items()} == {i: a.text for i, a in alone.items()}
    assert {i: (a.tokens, a.finish) for i, a in together.items()} == {i: (a.tokens, a.finish) for i, a in alone.items()}


def test_greedy_decoding_equals_the_librarys_own(teacher: LocalModel) -> None:
    import torch

    ids = teacher.chat_ids(domain.prompts(1, 4)[0].instruction)
    out = teacher.model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids) :].tolist()
    ours = [token for step in teacher.stream([ids], Sampling(0.0, 1.0, 30), [0]) for _, token in step]
    assert ours == out


def test_scores_equal_a_plain_forward_pass(teacher: LocalModel) -> None:
    import torch

    items = [
        (teacher.chat_ids(s["instruction"]), teacher.answer_ids(s["output"])) for s in domain.reference_stories()[:3]
    ]
    for (prompt, answer), scored in zip(items, teacher.score(items), strict=True):
        logits = teacher.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        plain = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert scored == pytest.approx(plain.tolist(), abs=1e-3)


def test_the_tokenizer_reloads_to_exactly_its_own_ids(teacher: LocalModel) -> None:
    from tokenizers import Tokenizer

    text = '토끼 토토는 "우아!" 하고 도토리 12개를 세었어요. ☃ 끝'
    raw = Tokenizer.from_file(str(domain.DATA / "mini" / "teacher" / "tokenizer.json"))
    assert teacher.tokenizer(text).input_ids == raw.encode(text).ids
    assert teacher.tokenizer.decode(teacher.tokenizer(text).input_ids) == text
    assert len(teacher.tokenizer) == teacher.model.config.vocab_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pair"),
        ("{broken\n", "line 1"),
        ('{"instruction": "a"}\n', "output"),
        ('{"instruction": "a", "output": " "}\n', "line 1"),
    ],
)
def test_a_bad_import_is_explained_and_leaves_the_run_as_it_was(tmp_path: Path, text: str, message: str) -> None:
    run, path = new_run(), tmp_path / "own.jsonl"
    path.write_text(text)
    with pytest.raises(Problem, match=message):
        generate.import_pairs(run, path)
    assert run.state("generate") == "empty"


def test_own_pairs_take_the_teachers_place(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in domain.reference_stories()[:5]))
    run = new_run()
    assert generate.import_pairs(run, path)["pairs"] == 5
    assert find_run(run.id).state("generate") == "done"
    assert all(p.teacher == "import" for p in run.pairs())


def test_every_faulty_line_of_an_import_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    good = json.dumps({"instruction": "부탁", "output": "이야기"}, ensure_ascii=False)
    lines = [good, "{broken", '{"instruction": "a"}', "[]", '{"instruction": "a", "output": "b", "keywords": "비"}', ""]
    path.write_text("\n".join(lines), "utf-8")
    pairs, faults = generate.read_own(path)
    separators = tmp_path / "separators.jsonl"
    separators.write_text(good.replace("이야기", "이야기\u2028끝"), "utf-8")
    assert generate.read_own(separators)[0][0].output == "이야기\u2028끝"
    assert len(pairs) == 1 and [number for number, _, _ in faults] == [2, 3, 4, 5]
    assert [en.split(" (")[0] for _, en, _ in faults] == [
        "not JSON",
        "output is missing",
        "not a JSON object",
        "keywords must be a list of texts",
    ]
    with pytest.raises(Problem) as caught:
        generate.import_pairs(new_run(), path)
    assert "line 2" in caught.value.en and "line 5" in caught.value.en and "5번째 줄" in caught.value.ko


def test_rows_of_another_setting_can_be_set_aside_and_are_kept() -> None:
    run = new_run()
    _generate(run, SHORT)
    before = list(run.pairs())
    facts = _generate(run, replace(SHORT, seed=5, set_aside=True))
    assert facts["pairs"] == 6 and not {p.id for p in before} & {p.id for p in run.pairs()}
    beside = [p for p in run.pairs_file.parent.glob("pairs-*.jsonl")]
    assert [json.loads(line)["id"] for line in beside[0].read_text("utf-8").splitlines()] == [p.id for p in before]
    assert run.config("generate").set_aside is False  # the next start asks again


def test_a_full_disk_ends_with_a_message_and_the_next_start_goes_on_from_what_is_written() -> None:
    """A limit on the size of files stands for the disk: writing fails in the middle of a row, as there."""
    run = new_run()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, before[1]))
    try:
        with pytest.raises(Problem, match="Nothing written so far is lost"):
            _generate(run, replace(SHORT, pairs=24))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    written = list(read_rows(run.pairs_file))
    assert 0 < len(written) < 24
    assert _generate(run, replace(SHORT, pairs=24))["pairs"] == 24
    rows = list(read_rows(run.pairs_file))
    assert rows[: len(written)] == written and len({r["id"] for r in rows}) == len(rows) == 24


def test_a_budget_of_minutes_stops_cleanly_and_the_next_start_goes_on() -> None:
    run = new_run()
    facts = _generate(run, replace(SHORT, pairs=8, batch_size=2, max_minutes=1e-6))
    assert facts["budget"] == "minutes" and facts["pairs"] == 0 and run.done("generate")
    facts = _generate(run, replace(SHORT, pairs=8, batch_size=2))
    assert facts["pairs"] == 8 and "budget" not in facts


def endpoint(served: Served, **changes) -> GenerateConfig:
    return GenerateConfig(teacher="api:tale", base_url=served.url, price_in=100.0, price_out=1000.0, **changes)


def test_a_budget_of_dollars_counts_the_whole_run() -> None:
    """Each answer costs 10 tokens read at 100 dollars a million and 20 written at 1000: 2.1 cents."""
    run = new_run()
    with serving() as served:
        facts = _generate(run, endpoint(served, pairs=50, batch_size=1, max_dollars=0.1))
        assert facts["budget"] == "dollars" and facts["pairs"] == 5 and facts["dollars"] == pytest.approx(0.105)
        facts = _generate(run, endpoint(served, pairs=50, batch_size=1, max_dollars=0.15))
        assert facts["pairs"] == 8 and facts["dollars"] == pytest.approx(0.168)
        with pytest.raises(Problem, match="price"):
            _generate(run, replace(endpoint(served), price_in=0.0, price_out=0.0, max_dollars=1.0))


def test_an_endpoints_run_resumes_without_asking_again_and_keeps_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ENDPOINT_KEY", "sk-secret-0123456789")
    run = new_run()
    with serving([""] * 10 + [403]) as served:
        with pytest.raises(Problem):
            _generate(run, endpoint(served, pairs=20, batch_size=4))
        before = len(list(run.pairs()))
        asked = served.requests
        assert 0 < before < 20
        assert _generate(run, endpoint(served, pairs=20, batch_size=4))["pairs"] == 20
        assert served.requests - asked == 20 - before
        assert served.keys == {"Bearer sk-secret-0123456789"}
    kept = b"".join(p.read_bytes() for p in run.folder.rglob("*") if p.is_file())
    assert b"sk-secret" not in kept
    ids = [p.id for p in run.pairs()]
    assert len(set(ids)) == 20 and all(p.tokens == 20 for p in run.pairs())


def test_requests_refused_for_good_leave_their_rows_out_and_are_counted() -> None:
    run = new_run()
    with serving([400]) as served:
        facts = _generate(run, endpoint(served, pairs=12, batch_size=1))
        assert facts["pairs"] == 11 and facts["failed"] == 1
        assert _generate(run, endpoint(served, pairs=12, batch_size=1))["pairs"] == 12


def test_a_stop_between_batches_loses_no_answer() -> None:
    run = new_run()
    progress = Progress(run, "generate", [])

    class Stopping(Progress):
        """Asked to stop as soon as the first row is there."""

        @property
        def stopping(self) -> bool:
            return bool(run.pairs_file.exists())

    with pytest.raises(Stopped):
        generate.run(run, SHORT, Stopping(run, "generate", []))
    assert len(list(run.pairs())) == SHORT.batch_size  # the whole batch, not its first row
    assert generate.run(run, SHORT, progress)["pairs"] == 6


def test_a_teacher_whose_first_stories_fail_is_flagged_while_it_goes_on() -> None:
    run = new_run()
    with serving(text="죄송합니다. 저는 인공지능이라 쓸 수 없습니다.") as served:
        _generate(run, endpoint(served, pairs=30, batch_size=8))
    notes = [row["en"] for row in read_rows(run.log_file) if row.get("event") == "note"]
    assert any(note.startswith("Only 0 of the first 20") for note in notes)


def test_done_json_tells_coverage_and_diversity_by_phrasing() -> None:
    run = new_run()
    with serving() as served:
        facts = _generate(run, endpoint(served, pairs=120))
    assert facts["characters"] == 120 and facts["character_most"] == 1 and facts["pairs"] == 120
    assert sum(g["pairs"] for g in facts["by_phrasing"].values()) == 120 and len(facts["by_phrasing"]) == 60
    assert {"distinct_1", "distinct_2", "distinct_3", "near_duplicates", "self_bleu"} <= facts.keys()
    assert facts["coverage"]["phrasing"] == {"used": 60, "of": 60, "least": 2, "most": 2}
    assert facts["coverage"]["character"] == {"used": 120, "of": 160, "least": 0, "most": 1}
    assert facts.items() <= (run.done("generate") or {}).items()


def test_every_attribute_of_the_grid_is_covered_evenly() -> None:
    made = domain.prompts(1200, 0)
    covered = diversity.Coverage(domain.Grid(), made).told()
    assert list(covered) == ["character", "keyword", "pair", *domain.ATTRIBUTES.values(), "phrasing"]
    for name in ("character", "phrasing", "place", "moral", "tone", "opening"):
        assert covered[name]["used"] == covered[name]["of"] and covered[name]["most"] - covered[name]["least"] <= 1
    # Ages and lengths come with their phrasings, so they are as even as these.
    assert covered["age"] == {"used": 4, "of": 4, "least": 60, "most": 100}
    assert covered["length"] == {"used": 5, "of": 5, "least": 20, "most": 80}


def test_coverage_counts_what_stands_in_the_instructions() -> None:
    made = domain.prompts(300, 3)
    for name in ("place", "moral", "tone", "opening"):
        values = domain.choices()[name]
        # A value that is part of another one would count twice by hand.
        alone = [v for v in values if not any(v in other for other in values if other != v)]
        assert len(alone) > len(values) / 2
        for value in alone:
            assert sum((name, value) in p.says for p in made) == sum(
                value in p.instruction for p in made if name in dict(p.says)
            )
    words = Counter(word for p in made for word in p.keywords)
    covered = diversity.Coverage(domain.Grid(), made).told()
    assert covered["keyword"]["used"] == len(words) and covered["keyword"]["most"] == max(words.values())


def test_coverage_and_phrasings_are_told_while_the_job_goes_on_and_count_on_after_a_restart() -> None:
    run = new_run()
    with serving() as served:
        _generate(run, endpoint(served, pairs=70, batch_size=4))
        live = jobs.look(run).facts
        assert live["coverage"]["character"]["used"] == 70
        assert 64 <= sum(g["pairs"] for g in live["by_phrasing"].values()) <= 70
        facts = _generate(run, endpoint(served, pairs=120))
    assert facts["coverage"] == diversity.Coverage(domain.Grid(), domain.prompts(120, 0)).told()


def test_pairs_leave_as_jsonl_and_parquet_with_the_same_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = new_run()
    with pytest.raises(Problem, match="no pairs"):
        generate.export_pairs(run, tmp_path)
    with serving() as served:
        _generate(run, endpoint(served, pairs=5))
    jsonl, parquet = generate.export_pairs(run, tmp_path / "out")
    rows = [json.loads(line) for line in jsonl.read_text("utf-8").splitlines()]
    assert pq.read_table(parquet).to_pylist() == rows and len(rows) == 5


def test_own_lists_take_the_place_of_the_built_in_ones() -> None:
    grid = domain.Grid.of("용용이", "등불, 호수", "장소: 바닷가\nplace: 산꼭대기\n교훈: 나누는 마음")
    assert grid.choices["place"] == ("바닷가", "산꼭대기") and grid.choices["moral"] == ("나누는 마음",)
    assert grid.choices["tone"] == domain.choices()["tone"]
    texts = [p.instruction for p in domain.prompts(60, 0, grid)]
    assert sum("바닷가" in t or "산꼭대기" in t for t in texts) >= 5 and all("용용이" in t for t in texts)
    for line in ("맛: 달콤함", "바닷가", "장소:", "나이"):
        with pytest.raises(Problem, match="Own lists"):
            domain.Grid.of(lists_text=line)


def test_ages_and_lengths_of_ones_own_take_the_place_of_the_words_of_every_phrasing_that_says_one() -> None:
    grid = domain.Grid.of("토토", lists_text="나이: 여섯 살\nage: 만 7세\n길이: 500자 이내\nlength: 다섯 문장")
    made = {p.phrasing: p for p in domain.prompts(60, 0, grid)}
    for phrasing in domain.phrasings():
        said, text = dict(made[phrasing["id"]].says), made[phrasing["id"]].instruction
        for name, values in (("age", ("여섯 살", "만 7세")), ("length", ("500자 이내", "다섯 문장"))):
            assert (name in said) is (name in phrasing.get("says", {}))
            if name in said:
                assert said[name] in values and said[name] in text
        assert not re.search(r"세 살|네 살|다섯 살|[345]세|[234]00자|2분", text)
    assert {v for p in made.values() for n, v in p.says if n == "age"} == {"여섯 살", "만 7세"}
    covered = diversity.Coverage(grid, made.values()).told()
    assert covered["age"] == {"used": 2, "of": 2, "least": 8, "most": 8}


def test_the_built_in_ages_and_lengths_are_those_that_the_phrasings_say() -> None:
    """The embedded teacher has read these texts and no others."""
    for phrasing in domain.phrasings():
        for stated in phrasing.get("says", {}).values():
            assert phrasing["text"].count(stated["words"]) == 1 and domain.SLOT.search(stated["own"])
        stating = {"age": r"[세네] ?살|다섯 ?살|[345]세", "length": r"\d00자|2분"}
        for name, pattern in stating.items():
            assert bool(re.search(pattern, phrasing["text"])) is (name in phrasing.get("says", {}))
    slots = {name: "가" for name in ("A", "k1", "k2", "place", "moral", "tone", "opening")}
    as_read = {p["id"]: domain.fill(p["text"], slots) for p in domain.phrasings()}
    plain = domain.Grid(("가",), (("가", "가"),), choices={n: ("가",) for n in ("place", "moral", "tone", "opening")})
    assert {p.phrasing: p.instruction for p in domain.prompts(60, 0, plain)} == as_read


def test_a_seed_gives_the_prompts_it_always_gave() -> None:
    """Runs that stand half written go on only while this holds; who changes the grid makes old rows foreign."""
    digest = hashlib.sha256("\n".join(p.instruction for p in domain.prompts(3000, 0)).encode()).hexdigest()
    assert digest[:16] == "01a180181067b852"


def test_a_small_grid_gives_all_that_it_holds() -> None:
    """Prompts dealt twice are passed over; only a long row of them means that nothing new is left."""
    grid = domain.Grid.of("용용이", "\n".join("가나다라마바사아자차"), "")
    plain = replace(grid, phrasings=tuple(p for p in grid.phrasings if p["uses"] == ["A", "k1", "k2"]))
    everything = len(plain.pairs) * len(plain.phrasings)
    assert everything == 45 * len(plain.phrasings) > 1000
    assert len(domain.prompts(everything, 0, plain)) >= 0.99 * everything


def test_stories_of_a_batch_arrive_in_the_order_asked(teacher: LocalModel) -> None:
    asked = [p.instruction for p in domain.prompts(8, 0)]
    assert sorted(asked, key=len) != asked != sorted(asked, key=len, reverse=True)
    arrived = [i for i, _ in teacher.write(asked, Sampling(0.8, 1.0, 4), range(8), batch_size=8)]
    assert arrived == list(range(8))


@pytest.mark.parametrize("words", ["등불", "등불\n등불", "등불, 호수, 배", "등불,", "등불, 등불"])
def test_own_words_that_make_no_pair_are_explained_before_the_teacher_is_opened(words: str) -> None:
    run = new_run()
    with pytest.raises(Problem, match="Own key words"):
        _generate(run, replace(SHORT, words=words, teacher="somebody/no-such-model"))
    assert run.state("generate") == "empty"


def test_own_words_make_every_pair_of_two() -> None:
    assert domain.Grid.of(words_text="등불, 호수\n배\n달\n\n배\n별").pairs == (
        ("등불", "호수"), ("배", "달"), ("배", "별"), ("달", "별"),
    )  # fmt: skip
    assert domain.Grid.of(words_text=" \n").pairs == domain.keyword_pairs()
