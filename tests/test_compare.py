"""The comparison: its numbers against independent computations, its honesty, its rows."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from lab import domain, intervals, pairwise, report_charts, retention
from lab import report as rendering
from lab.config import CompareConfig, TrainConfig
from lab.diversity import distinct
from lab.metrics import BitsPerByte, ChrF, Copied, DistinctN, PassAtK, TokenPerplexity, combined, compute
from lab.models import open_model
from lab.passages import Passages
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, Probe, Verdict, append_rows, read_json, read_rows, write_json
from lab.run import Run, find_run, new_run
from lab.stages import compare as stage
from lab.stages import train
from lab.ui.texts import reason, say
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("teacher"), seed=1, layers=3)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


def make_run(home: Path, teacher: str, student: str) -> Run:
    """A run with a tiny teacher, 16 kept training and 4 kept test pairs, no arm yet."""
    os.environ["LAB_HOME"] = str(home)
    made = new_run("mini", "작은 실험")
    pairs = [replace(p, split="test" if i % 5 == 0 else "train") for i, p in enumerate(train.human_pairs(20, 5))]
    append_rows(made.pairs_file, [p.row() for p in pairs])
    append_rows(made.verdicts_file, [Verdict(p.id, True).row() for p in pairs])
    write_json(made.stage_folder("generate") / "config.json", {"teacher": teacher})
    write_json(made.stage_folder("train") / "config.json", {"student": student})
    return made


@pytest.fixture
def run_(lab_home: Path, teacher: str, student: str) -> Run:
    return make_run(lab_home, teacher, student)


@pytest.fixture(scope="module")
def compared_home(tmp_path_factory: pytest.TempPathFactory, teacher: str, student: str) -> tuple[Path, str]:
    """A home with a run whose arm was trained and compared; tests only read it."""
    before, home = os.environ.get("LAB_HOME"), tmp_path_factory.mktemp("compared")
    run_ = make_run(home, teacher, student)
    train.run(
        run_, TrainConfig(student=student, batch_size=4, epochs=2.0, learning_rate=1e-2), Progress(run_, "train", [])
    )
    stage.run(run_, SMALL, Progress(run_, "compare", []))
    os.environ["LAB_HOME"] = before or ""
    return home, run_.id


@pytest.fixture
def compared(compared_home: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LAB_HOME", str(compared_home[0]))
    return find_run(compared_home[1])


SMALL = CompareConfig(prompts=4, max_new_tokens=24)


def test_report_holds_teacher_base_and_arm(compared: Run) -> None:
    report = read_json(compared.report_file)
    assert compared.state("compare") == "done"
    assert [m["who"] for m in report["models"]] == ["teacher", "base", "arm"]
    teacher, base, arm = report["models"]
    assert arm["perplexity"] < base["perplexity"]
    assert len({m["weights"] for m in report["models"]}) == 3 and arm["adapter"] and arm["revision"] != base["revision"]
    for model in report["models"]:
        assert model["probes"]["total"] == len(domain.probes())
        assert model["probes"]["chance"] == 0.25
        assert model["reference"]["perplexity"] > 1 and model["reference"]["bits_per_byte"] > 0
        assert model["general_bits_per_byte"] > 0 and len(model["general_answers"]) == 24
        assert model["tokens_per_second"] > 0 and model["first_token_seconds"] > 0 and model["peak_memory_bytes"] >= 0
        for name, spread in model["spread"].items():
            assert spread["rounds"] <= stage.ROUNDS and spread["low"] <= model[name] <= spread["high"]
        for measure in rendering.MEASURES:
            value = retention.number(model, measure.key)
            if measure.axis == "quality" and value is not None:
                found = model["intervals"][measure.key]
                assert found["low"] <= found["value"] <= found["high"], measure.key
                assert found["value"] == pytest.approx(value), "every quality number has its interval"
    assert arm["disk_bytes"] > base["disk_bytes"] > 0, "an adapter needs its base"
    assert report["retention"]["distilled"]["bits_per_byte"] == pytest.approx(
        teacher["bits_per_byte"] / arm["bits_per_byte"]
    )
    around = report["retention_intervals"]["distilled"]["bits_per_byte"]
    assert around["low"] <= report["retention"]["distilled"]["bits_per_byte"] <= around["high"]
    tested = {(d["a"], d["b"]): d["measures"] for d in report["differences"]}
    pairs = [("distilled", teacher["name"]), ("distilled", base["name"]), (teacher["name"], base["name"])]
    assert list(tested) == pairs, "every pair once, arms first"
    gained = tested["distilled", base["name"]]["bits_per_byte"]
    assert gained["difference"] == pytest.approx(arm["bits_per_byte"] - base["bits_per_byte"])
    answers = list(read_rows(compared.answers_file))
    again = 4 * (stage.PASS_SAMPLES - 1)
    assert len(answers) == 3 * (4 + again), "also the further answers behind pass@4"
    assert {"who", "instruction", "character", "keywords", "text", "reasons", "tokens", "seconds"} <= answers[0].keys()
    assert [a["instruction"] for a in answers[:4]] == [a["instruction"] for a in answers[2 * (4 + again) :][:4]]
    assert report["verdict"]["en"] and report["verdict"]["ko"]
    lines = stage.table(report).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines[:4]}) == 1
    json.dumps(report, allow_nan=False)


def test_report_and_charts_come_in_both_languages(compared: Run) -> None:
    report, folder = read_json(compared.report_file), compared.report_file.parent
    page, text = ((folder / name).read_text("utf-8") for name in ("report.html", "report.md"))
    assert page.count("<svg") == 2 * 8, "every chart but that of the judge's marks, in each language"
    for language in rendering.LANGUAGES:
        for told in (page, text):
            assert report["verdict"][language] in told and report["flags"][0][language] in told
            assert all(rendering.choose(h, language) in told for k, h in rendering.HEADS.items() if k not in ("duels", "votes"))  # fmt: skip
            assert rendering.BY_KEY["rule_pass_rate"].name(language) in told
        for name in rendering.drawable(report):
            picture = rendering.picture(name, language)
            assert f"(charts/{picture}.png)" in text and (folder / "charts" / f"{picture}.png").stat().st_size > 500
            drawn = (folder / "charts" / f"{picture}.svg").read_text("utf-8")
            assert rendering.label(report["models"][2], language) in drawn, name
    probes = (folder / "charts" / "probes.ko.svg").read_text("utf-8")
    assert "익은말" in probes and "Idiom" not in probes and "Idiom" in (folder / "charts" / "probes.svg").read_text("utf-8")  # fmt: skip
    for entry in (report["models"][2]["adapter"], report["models"][1]["weights"], "learning_rate=0.01"):
        assert entry in page and entry in text, "provenance: files, weights, settings"


def test_charts_speak_english_where_no_korean_font_is_installed(compared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    report = read_json(compared.report_file)

    def ticks() -> list[str]:
        (axes,) = report_charts.charts(report, "ko")["probes"].axes
        return [t.get_text() for t in axes.get_yticklabels()]

    assert "익은말" in ticks()
    monkeypatch.setattr(report_charts, "_korean", lambda: False)
    assert "Idiom" in ticks() and "익은말" not in ticks()


def test_memory_and_speed_are_drawn_against_their_targets(compared: Run) -> None:
    from lab.ui import compare_charts as charts

    report = read_json(compared.report_file)
    rows = {key: (target, told) for key, target, told in rendering.spared(report)}
    teacher, _, arm = report["models"]
    (who, ratio, (low, high)) = rows["tokens_per_second"][1][0]
    assert who["name"] == "distilled" and low <= ratio <= high
    assert ratio == pytest.approx(arm["tokens_per_second"] / teacher["tokens_per_second"])
    figure = charts.spared(report, "en")
    ends = {round(s.x0, 4): s.x1 for s in figure.layout.shapes if s.type == "rect"}
    assert ends[round(1 / charts.REACH, 4)] == pytest.approx(1 / 3) and ends[3.0] == charts.REACH
    assert [list(t.x) for t in figure.data if len(t.x)] == [[x for *_, told in rows.values() for _, x, _ in told]]
    assert charts.spared(report | {"retention": {}}, "en") is None, "no teacher, no chart"


def test_votes_stand_in_the_report_and_those_for_other_weights_apart(compared: Run) -> None:
    from lab import votes
    from lab.ui import compare as tab

    teacher, _, arm = read_json(compared.report_file)["models"]
    shown = [
        {"name": "arm distilled", "revision": arm["adapter"], "text": "가"},
        {"name": "teacher", "revision": teacher["revision"], "text": "나"},
    ]
    try:
        for choice in ("a", "a", "b", "tie", "bad"):
            votes.vote(compared, choice, shown, "부탁", "local")
        votes.vote(compared, "a", [shown[0] | {"revision": "another training"}, shown[1]], "부탁", "local")
        found = rendering.current(compared)["votes"]
        (duel,) = found["duels"]
        assert (duel["wins"], duel["losses"], duel["ties"], duel["bad"], found["outdated"]) == (2, 1, 1, 1, 1)
        assert duel["share"] == 2.5 / 4 and duel["low"] < 0.625 < duel["high"]
        with ZipFile(tab.written(compared.id, "ko")["value"]) as archive:
            packed = {n: archive.read(n).decode() for n in ("report.json", "report.md", "report.html")}
        assert json.loads(packed["report.json"])["votes"] == found
        for language, words in (("en", "Student after 2 : 1 Teacher"), ("ko", "배운 학생 2 : 1 교사")):
            lines = rendering.vote_lines(rendering.current(compared), language)
            assert len(lines) == 2 and words in lines[0] and f"{duel['low']:.0%} – {duel['high']:.0%}" in lines[0]
            for told in (packed["report.md"], packed["report.html"], tab.people(compared, language)[0]):
                assert all(escape(line) in told or line in told for line in lines)
        assert compared.state("compare") == "done", "votes make nothing stale"
    finally:
        compared.votes_file.unlink()
    assert rendering.current(compared)["votes"] == {"duels": [], "outdated": 0}


def test_votes_cast_before_comparing_are_in_the_report(run_: Run) -> None:
    from lab import votes

    model = {"who": "teacher", "name": "t", "revision": "1"}, {"who": "base", "name": "b", "revision": "2"}
    votes.vote(run_, "b", [{"name": m["who"], "revision": m["revision"]} for m in model], "부탁", "local")
    (duel,) = votes.against(run_, model)["duels"]
    assert (duel["first"], duel["wins"], duel["losses"]) == ("base", 1, 0)


def test_perplexity_agrees_with_plain_torch(teacher: str) -> None:
    """One text at a time through transformers' own loss, against the batched score; within 1 %."""
    model = open_model(teacher)
    pairs = [Pair.of(r) for r in ({"id": s["id"], **s} for s in domain.reference_stories()[:5])]
    found, samples = stage.likelihood(model, pairs)
    loss = tokens = 0.0
    for p in pairs:
        text = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": p.instruction}], tokenize=False, add_generation_prompt=True
        )
        before = model.tokenizer(text, add_special_tokens=False).input_ids
        answer = [*model.tokenizer(p.output, add_special_tokens=False).input_ids, model.tokenizer.eos_token_id]
        ids = torch.tensor([before + answer])
        labels = torch.tensor([[-100] * len(before) + answer])
        with torch.no_grad():
            loss += model.model(input_ids=ids, labels=labels).loss.item() * len(answer)
        tokens += len(answer)
    assert found["perplexity"] == pytest.approx(math.exp(loss / tokens), rel=0.01)
    size = sum(len(p.output.encode()) for p in pairs)
    assert found["bits_per_byte"] == pytest.approx(loss / math.log(2) / size, rel=0.01)
    for name, sample in samples.items():
        around = intervals.interval(sample)
        assert around["value"] == pytest.approx(found[name]) and around["low"] < found[name] < around["high"]


def test_metrics_by_hand() -> None:
    half = math.log(0.5)
    # One token of 1/2 and three of 1/8: weighted by token, not by text.
    scores = [[half], [3 * half, 3 * half, 3 * half]]
    both = combined(TokenPerplexity, BitsPerByte, predictions=scores, references=["ab", "가b"])
    assert both == {"perplexity": pytest.approx(2**2.5), "bits_per_byte": pytest.approx(10 / 6)}
    words = compute(DistinctN, predictions=["토끼 토끼 곰", "곰 새", "새 토끼 토끼 곰"])
    assert words["distinct_1"] == pytest.approx(3 / 9) and words["distinct_2"] == pytest.approx(4 / 6)
    # Without the first, second, third text.
    assert words["without_1"] == pytest.approx([3 / 6, 3 / 7, 3 / 5])
    assert words["without_2"] == pytest.approx([4 / 4, 3 / 5, 3 / 3])
    stories = [s["output"] for s in domain.reference_stories()]
    found, other = compute(DistinctN, predictions=stories), distinct(stories)
    assert all(found[f"distinct_{n}"] == pytest.approx(other[f"distinct_{n}"], abs=1e-4) for n in (1, 2, 3))
    # Of 4 answers 2 are right: a draw of 2 misses both in 1 of 6 cases.
    assert compute(PassAtK, predictions=[[1, 0, 1, 0], [0, 0, 0, 0]], k=2)["scores"] == [pytest.approx(5 / 6), 0.0]
    same = compute(ChrF, predictions=["토끼가 왔어요.", ""], references=["토끼가 왔어요.", "곰"])
    assert same["scores"] == [100.0, 0.0] and same["chrf"] == 50.0


def longest_by_hand(corpus: str, text: str) -> int:
    return max((n for n in range(1, len(text) + 1) if any(text[i : i + n] in corpus for i in range(len(text) - n + 1))), default=0)  # fmt: skip


def test_copies_agree_with_a_search_by_hand() -> None:
    stories = [s["output"] for s in domain.reference_stories()[:6]]
    corpus = Passages(stories[:3])
    whole = "\0".join(stories[:3])
    for text in ("앞말 " + stories[0][20:60] + " 뒷말", stories[1], stories[0][-20:] + stories[1][:20], stories[4]):
        by_hand = longest_by_hand(whole, text)
        assert corpus.longest(text) == (by_hand if by_hand >= 12 else 0)
    piece = stories[0][20:60].strip()
    greatest = intervals.greatest([0, 0, 5, 40])
    assert greatest["value"] == greatest["high"] == 40 and greatest["low"] == 0 and greatest["n"] == 4
    found = compute(Copied, predictions=[piece, stories[4], ""], corpus=corpus)
    assert found["copied_rate"] == pytest.approx(1 / 3) and found["longest_copy"] == len(piece)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = intervals.interval(intervals.mean(rng.random(40) < 0.7))
        hits += found["low"] <= 0.7 <= found["high"]
    assert 0.9 <= hits / 200 <= 0.995
    all_right = intervals.interval(intervals.mean([True] * 8))
    assert all_right["value"] == all_right["high"] == 1 and all_right["low"] == pytest.approx(0.676, abs=1e-3)


def test_the_interval_of_different_words_covers_the_truth_as_often_as_it_says() -> None:
    """Stories of words as frequent as Zipf has them, against the mean over many samples of as many stories."""
    rng = np.random.default_rng(2)
    words = np.array([f"w{i}" for i in range(3000)])
    weight = 1 / np.arange(1, 3001)

    def story() -> str:
        own = weight * rng.exponential(1.0, 3000)  # every story has words of its own
        return " ".join(rng.choice(words, 40, p=own / own.sum()))

    samples = [compute(DistinctN, predictions=[story() for _ in range(25)]) for _ in range(120)]
    truth = np.mean([s["distinct_1"] for s in samples])
    found = [intervals.interval(intervals.of_whole(s["distinct_1"], s["without_1"])) for s in samples]
    assert all(f["value"] == pytest.approx(s["distinct_1"]) for f, s in zip(found, samples, strict=True))
    assert np.mean([f["low"] <= truth <= f["high"] for f in found]) >= 0.88
    assert np.mean([f["high"] - f["low"] for f in found]) < 0.2


def test_a_difference_is_tested_item_by_item() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 60)  # prompts differ far more than the models do
    a, b = intervals.mean(hard + 1), intervals.mean(hard + rng.normal(0, 0.5, 60))
    assert intervals.difference(a, b)["shown"]
    apart = intervals.interval(a)["low"] > intervals.interval(b)["high"]
    assert not apart, "two intervals alone would not have shown it"
    assert not intervals.difference(intervals.mean([1] * 4), intervals.mean([0] * 4))["shown"], (
        "four prompts show nothing"
    )
    ratio = intervals.kept(intervals.mean([1, 1, 0, 1]), intervals.mean([1, 1, 1, 1]))
    assert ratio["value"] == 0.75 and ratio["low"] <= 0.75 <= ratio["high"]


def test_an_item_that_was_not_measured_does_not_count() -> None:
    assert intervals.mean([4.0, None, 2.0]).value == 3.0 and intervals.mean([4.0, None, 2.0]).count == 2


def stories(*texts: str) -> list[Pair]:
    return [Pair(str(i), "동화를 써 줘", t) for i, t in enumerate(texts)]


def test_a_story_wins_only_when_both_orders_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that always takes what stands first decides nothing; one that sees the better story decides."""
    a, b = stories("좋은 이야기", "좋은 이야기", "나쁜 이야기"), stories("나쁜 이야기", "나쁜 이야기", "좋은 이야기")
    monkeypatch.setattr(pairwise, "_choices", lambda questions, judge: [1.0] * len(questions))
    assert pairwise.outcomes(a, b, "first") == [(0.5, True)] * 3
    monkeypatch.setattr(
        pairwise,
        "_choices",
        lambda questions, judge: [float(q.index("좋은 이야기") < q.index("나쁜 이야기")) for q in questions],
    )
    found = pairwise.duel(a, b, "sees")
    assert (found["wins"], found["losses"], found["ties"], found["disagreed"]) == (2, 1, 0, 0)
    assert found["win_rate"]["value"] == pytest.approx(2 / 3) and found["orders"] == 2


def test_marks_within_a_quarter_of_a_grade_are_a_tie() -> None:
    a, b = stories("가", "나", "다", "라"), stories("마", "바", "사", "아")
    assert pairwise.by_marks([4.0, 4.0, None, 1.0], [3.0, 3.9, 2.0, 2.0]) == [(1.0, False), (0.5, False), None, (0.0, False)]  # fmt: skip
    found = pairwise.duel(a, b, "mini", ([4.0, 4.0, None, 1.0], [3.0, 3.9, 2.0, 2.0]))
    assert (found["prompts"], found["unreadable"], found["orders"], found["win_rate"]["value"]) == (3, 1, 1, 0.5)
    assert pairwise.duel(a, b, "mini", ([None] * 4, [1.0] * 4)) is None


def test_the_local_judge_is_really_asked(teacher: str) -> None:
    a, b = stories("토끼가 왔어요.", "곰이 잤어요."), stories("여우가 갔어요.", "새가 울었어요.")
    there, back = pairwise.outcomes(a, b, teacher), pairwise.outcomes(b, a, teacher)
    assert [x for x, _ in there] == [1 - x for x, _ in back], "who is named first changes nothing"


@pytest.mark.parametrize(
    ("text", "choice"),
    [('{"better": "A"}', 1.0), ('답: {"better": "b"}', 0.0), ('{"better":"same"}', 0.5), ("A", None), ("{}", None)],
)
def test_a_judges_json_is_read_or_left_out(text: str, choice: float | None) -> None:
    assert pairwise.parse(text) == choice


def test_length_alone_wins_nothing_at_equal_length() -> None:
    """The longer story always wins; as long as the other it would win half."""
    rng = np.random.default_rng(0)
    longer = rng.normal(60, 100, 200)
    blind = pairwise.at_equal_length((longer > 0).astype(float), longer)
    assert (longer > 0).mean() > 0.65 and blind["low"] <= 0.55 and blind["value"] < 0.6
    fair = pairwise.at_equal_length((rng.random(200) < 0.8).astype(float), rng.normal(0, 50, 200))
    assert fair["low"] <= 0.8 <= fair["high"] and fair["value"] > 0.7


def test_held_out_prompts_are_of_the_test_split_and_grow_at_the_end() -> None:
    few, many = stage.held_out_prompts(5, 7), stage.held_out_prompts(40, 7)
    assert len(many) == 40 and {p.split for p in many} == {"test"}
    assert many[:5] == few


def test_shared_passages_and_near_duplicates_are_leaks() -> None:
    story, other, third = (s["output"] for s in domain.reference_stories()[:3])
    retouched = " ".join(w if i % 9 else "그래서" for i, w in enumerate(third.split()))
    rows = [Pair("a", "", "앞말이에요. " + story[20:90]), Pair("b", "", retouched)]
    known = Passages(p.output for p in rows)
    own = {"reference": [Pair("r", "", story), Pair("n", "", third)]}
    found = {x["id"]: x for x in stage.leaks_of(known, rows, [Pair("t", "", other)], own)}
    assert set(found) == {"r", "n"}
    assert found["r"]["set"] == "reference" and found["r"]["span"] in rows[0].output and 0 < found["r"]["share"] < 1


def test_short_probes_and_answers_are_leaks_when_they_stand_whole_in_a_row() -> None:
    """Most everyday answers and some probes are shorter than a passage."""
    own = stage.evaluation_only(CompareConfig())
    short = [p for name in ("probes", "general") for p in own[name] if 12 <= len(p.output) < 30]
    assert len(short) > 20
    rows = [Pair(str(i), "", f"앞말이에요. {p.output} 뒷말이에요.") for i, p in enumerate(short)]
    known = Passages(p.output for p in rows)
    assert {x["id"] for x in stage.leaks_of(known, rows, [], own)} == {p.id for p in short}
    parts = Passages(p.output[: len(p.output) // 2] for p in short)
    assert stage.leaks_of(parts, rows, [], {"probes": [p for p in own["probes"] if p in short]}) == []


def test_evaluation_texts_in_the_training_rows_stop_it_with_the_list(run_: Run) -> None:
    story = domain.reference_stories()[3]
    row = Pair("leak", story["instruction"], story["output"], split="train")
    append_rows(run_.pairs_file, [row.row()])
    append_rows(run_.verdicts_file, [Verdict("leak", True).row()])
    with pytest.raises(Problem, match=f"reference {story['id']}"):
        stage.run(run_, SMALL, Progress(run_, "compare", []))
    report = read_json(run_.report_file)
    assert [x["id"] for x in report["leaks"]] == [story["id"]] and report["models"] == []
    assert run_.state("compare") == "partial"


def test_no_probe_or_reference_story_stands_in_the_templates() -> None:
    known = Passages(p.output for p in train.human_pairs(600, 0))
    own = stage.evaluation_only(CompareConfig())
    assert stage.find_leaks(known, own) == []


def test_a_copied_test_story_is_left_out_of_the_likelihoods(run_: Run) -> None:
    row = next(p for p in run_.pairs() if p.split == "train")
    append_rows(run_.pairs_file, [replace(row, id="copy", split="test").row()])
    append_rows(run_.verdicts_file, [Verdict("copy", True).row()])
    trained = [p for p in run_.kept_pairs() if p.split == "train"]
    test = [p for p in run_.kept_pairs() if p.split == "test"]
    leaks = stage.leaks_of(Passages(p.output for p in trained), trained, test, {})
    assert {x["id"]: x["share"] for x in leaks}["copy"] == 1.0


def report_of(teacher: float, base: float, arm: float, count: int = 200) -> dict:
    """A report in which three models pass so many of ``count`` prompts, made with the stage's own functions."""
    samples = {
        w: {"rule_pass_rate": intervals.mean([i < r * count for i in range(count)])}
        for w, r in (("teacher", teacher), ("base", base), ("arm", arm))
    }
    empty = dict.fromkeys([*retention.SMALLER, *retention.HIGHER_IS_BETTER, *retention.LOWER_IS_BETTER])
    models = [
        empty
        | {"who": w, "name": w, "bits_per_byte": 1.0, "weights": w, "copied_rate": 0.0, "longest_copy": 0}
        | {"rule_pass_rate": s["rule_pass_rate"].value}
        for w, s in samples.items()
    ]
    report = {
        "prompts": count,
        "models": models,
        "retention": {"arm": retention.retained(models[2], models[0])},
        "retention_intervals": {"arm": retention.retained_intervals(samples["arm"], samples["teacher"])},
        "differences": [
            {"a": "arm", "b": w, "measures": retention.differences(samples["arm"], samples[w])}
            for w in ("teacher", "base")
        ],
    }
    return report | {"flags": rendering.flags(report)}


def test_verdict_tells_bad_news_too() -> None:
    def said(*rates: float) -> str:
        return retention.verdict(report_of(*rates))["en"]

    assert "keeps 96% of the teacher's pass rate, which reaches the target" in said(0.8, 0.2, 0.77)
    assert "only 50%" in said(0.8, 0.2, 0.4)
    assert "gain over the untrained student is not shown" in said(0.8, 0.4, 0.4)
    assert "worse than the untrained student: training did harm" in said(0.8, 0.6, 0.1)
    assert "harm" not in said(0.8, 0.4, 0.395) and "나빠졌습니다" in retention.verdict(report_of(0.8, 0.6, 0.1))["ko"]
    assert "needs an explanation" in said(0.5, 0.2, 0.8)
    assert "no quality to keep" in said(0.0, 0.0, 0.1)
    assert "few" in retention.verdict(report_of(0.8, 0.2, 0.8, 20))["en"]


def test_a_student_that_passes_where_the_teacher_passes_none_is_something_to_explain() -> None:
    report = report_of(0.0, 0.0, 0.4)
    assert "needs an explanation" in retention.verdict(report)["en"] and "까닭" in retention.verdict(report)["ko"]
    assert any("of whose stories none is right" in f["en"] for f in report["flags"])
    few = report_of(0.0, 0.0, 0.4, 6)
    assert "explanation" not in retention.verdict(few)["en"], "two of six prompts show nothing"


def test_tested_differences_are_written_with_interval_and_a_star_where_shown(compared: Run) -> None:
    report = report_of(0.8, 0.2, 0.8)
    heads, rows = rendering.tested(report, "en")
    assert heads == ["Student after (arm) − Teacher", "Student after (arm) − Student before"]
    (rates,) = rows
    assert rates[0] == "Rule pass rate" and rates[1].startswith("0 pp [") and "★" not in rates[1]
    assert rates[2].startswith("+60 pp [+") and rates[2].endswith("★")
    shown, (korean,) = rendering.html_differences(report, "ko"), rendering.tested(report, "ko")[1]
    assert escape(korean[2]) in shown and korean[2].startswith("+60%p [+") and rendering.star(rows, "ko") in shown
    assert "Of 2 tests about 1 would" in rendering.star(rows, "en")
    own = read_json(compared.report_file)
    text = (compared.report_file.parent / "report.md").read_text("utf-8")
    for language in rendering.LANGUAGES:
        heads, rows = rendering.tested(own, language)
        assert " | ".join(heads) in text and f"| {' | '.join(rows[0])} |" in text
    assert "Student after − Teacher" in text and "배운 학생 − 교사" in text


def test_two_models_of_one_part_are_told_apart_by_their_names() -> None:
    models = [{"who": "base", "name": "a"}, {"who": "base", "name": "b"}, {"who": "teacher", "name": "t"}]
    assert rendering.names(models, "en") == {"a": "Student before (a)", "b": "Student before (b)", "t": "Teacher"}


def test_likeness_is_no_contest_and_perplexity_none_across_vocabularies() -> None:
    a = {
        k: intervals.mean([x + 2.0 for x in range(20)])
        for k in ("self_chrf", "mean_characters", "distinct_2", "mean_copy", "perplexity", "judge")
    }
    b = {k: intervals.mean([float(x) for x in range(20)]) for k in a}
    found = retention.differences(a, b)
    assert found["self_chrf"]["shown"] and found["self_chrf"]["better"] is None
    assert found["mean_characters"]["better"] is found["distinct_2"]["better"] is None
    assert found["judge"]["better"] == "a" and found["mean_copy"]["better"] == "b", "who copies more is no better"
    assert found["perplexity"]["better"] == "b" and "perplexity" not in retention.differences(a, b, same_tokens=False)


def test_flags_name_a_beaten_teacher_few_prompts_copies_and_a_model_compared_with_itself() -> None:
    def flagged(report: dict) -> str:
        return " ".join(f["en"] for f in rendering.flags(report))

    assert flagged(report_of(0.8, 0.2, 0.8)) == ""
    assert "beats its teacher on Rule pass rate" in flagged(report_of(0.5, 0.2, 0.9))
    assert "few" in flagged(report_of(0.8, 0.2, 0.8, 20))
    assert "Only 12 test stories" in flagged(report_of(0.8, 0.2, 0.8) | {"test_pairs": 12})
    assert flagged(report_of(0.8, 0.2, 0.8) | {"test_pairs": 30}) == ""
    report = report_of(0.8, 0.2, 0.8)
    report["differences"][1]["measures"]["general_rate"] = {"better": "b"}
    assert "arm has forgotten some of everyday Korean" in flagged(report) and "Everyday questions" in flagged(report)
    report["differences"][1]["measures"]["general_rate"] = {"better": "a"}
    report["differences"][0]["measures"]["general_rate"] = {"better": "b"}
    assert flagged(report) == "", "worse than the teacher is no forgetting"
    report["models"][2] |= {"weights": "base", "copied_rate": 0.5, "longest_copy": 80}
    assert "arm copies: 50%" in flagged(report) and "base and arm hold the same weights" in flagged(report)
    assert "nothing was learned" in retention.verdict(report)["en"]


def test_an_untrained_copy_has_the_weights_of_its_base(student: str, tmp_path: Path) -> None:
    model = open_model(student)
    before = stage.weights_hash(model)
    assert stage.weights_hash(open_model(student)) == before
    with torch.no_grad():
        next(model.model.parameters())[0, 0] += 1e-3
    assert stage.weights_hash(model) != before


def test_speed_is_measured_in_turn_and_without_the_warm_up(run_: Run, teacher: str, student: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Rounds go through all models; the first round is thrown away; what remains gives median and spread."""
    order: list[str] = []

    def timed(model: object, prompts: object, turn: int) -> dict[str, float]:
        order.append(model.spec)  # type: ignore[attr-defined]
        return {"tokens_per_second": 1000.0 if turn == 0 else 10.0 + turn}

    monkeypatch.setattr(stage, "_timed", timed)
    models = [stage.Entry("teacher", "t", teacher), stage.Entry("base", "s", student)]
    rows = [stage.Measured({"size_bytes": 1}, {}, [], [], []) for _ in models]
    progress = Progress(run_, "compare", [])
    progress.begin("compare", 100)
    found = stage._in_turn(models, rows, [], progress, 0)
    assert order[:6] == [student, teacher, teacher, student, student, teacher] and len(order) == 2 * (stage.ROUNDS + 1)
    assert found[0]["tokens_per_second"] == 13.0
    assert found[0]["spread"]["tokens_per_second"] == {"low": 11.0, "high": 15.0, "rounds": 5}


def test_probes_give_nothing_away() -> None:
    """Balanced types and answers; neither length nor words shared with the context tell the right choice."""
    probes = domain.probes()
    assert len(probes) >= 120 and len({p.context for p in probes}) == len(probes)
    assert set(Counter(p.type for p in probes).values()) == {21}
    assert all(len(p.choices) == len(set(p.choices)) == 4 for p in probes)
    assert all(0.2 <= n / len(probes) <= 0.3 for n in Counter(p.answer for p in probes).values())

    def guessed(score: Callable[[Probe, str], float]) -> float:
        return sum(max(range(4), key=lambda i: score(p, p.choices[i])) == p.answer for p in probes) / len(probes)

    def pairs(text: str) -> set[str]:
        return {text[i : i + 2] for i in range(len(text) - 1)}

    assert guessed(lambda p, c: len(c)) < 0.35 and guessed(lambda p, c: -len(c)) < 0.35
    assert guessed(lambda p, c: len(pairs(c) & pairs(p.context))) < 0.35
    assert all(max(map(len, p.choices)) <= 1.6 * min(map(len, p.choices)) for p in probes)


def test_general_questions_accept_their_own_answers() -> None:
    assert all(any(w in q["output"] for w in q["accept"]) for q in stage.general_questions())


def test_perplexity_of_another_vocabulary_is_crossed_out_with_the_reason() -> None:
    rows = report_of(0.8, 0.2, 0.8)["models"]
    for row, tokens in zip(rows, ("a", "b", "a"), strict=True):
        row |= {"perplexity": 5.0, "tokenizer": tokens}
    assert "| 5.00 | ~~5.00~~ | 5.00 |" in rendering.markdown_table(rows)
    shown = rendering.html_table(rows, "ko")
    assert shown.count("<s title=") == 1 and rendering.CROSSED_OUT[1] in shown
    told = stage.table({"models": rows, "verdict": {"en": "said"}})
    assert told.count("5.00*") == 1 and rendering.CROSSED_OUT[0] in told


def test_exercises_are_answered_by_the_run_or_name_the_command(run_: Run, student: str) -> None:
    arms = {
        "best": TrainConfig(keep_top=0.3),
        "all": TrainConfig(data="unfiltered"),
        "people": TrainConfig(data="human"),
        "best-whole": TrainConfig(keep_top=0.3, method="full"),
    }
    models = [{"who": "arm", "name": n, "rule_pass_rate": 0.5, "bits_per_byte": 1.0} for n in arms]
    nothing = " ".join(" ".join(x) for x in rendering.exercises({"models": []}, run_, "en"))
    assert "--keep-top 0.3" in nothing and "--data human" in nothing
    for name, config in arms.items():
        write_json(run_.stage_folder("train", name) / "config.json", asdict(config))
    told = [answer for _, answer in rendering.exercises({"models": models}, run_, "en")]
    assert told[0] == "30%: best 50%, 1.000; 30%: best-whole 50%, 1.000; no filter: all 50%, 1.000; no difference is shown"  # fmt: skip
    korean = [answer for _, answer in rendering.exercises({"models": models}, run_, "ko")]
    assert korean[0].startswith("30%: best 50%") and "거르지 않음: all 50%" in korean[0]
    assert "distilled: best-whole 50%" in told[1] and "people: people 50%" in told[1]
    tested = [{"a": "all", "b": "best", "measures": {"rule_pass_rate": {"better": "b"}}}]
    told = [answer for _, answer in rendering.exercises({"models": models, "differences": tested}, run_, "en")]
    assert told[0].endswith("shown to be better: best > all (Rule pass rate)") and told[1].endswith("no difference is shown")  # fmt: skip


def test_an_arm_that_is_not_trained_is_named(run_: Run) -> None:
    with pytest.raises(Problem, match="'other' has not been trained"):
        stage.run(run_, replace(SMALL, arms="other"), Progress(run_, "compare", []))
    assert run_.state("compare") == "empty"


def test_own_reference_stories_and_their_faults(run_: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    append_rows(good, [{"instruction": "써 줘", "output": "옛날에 곰이 살았어요."}])
    append_rows(bad, [{"instruction": "써 줘"}])
    assert [p.output for p in stage.reference_pairs(replace(SMALL, reference=str(good)))] == ["옛날에 곰이 살았어요."]
    for path in (bad, tmp_path / "none.jsonl"):
        with pytest.raises(Problem, match="no usable reference stories"):
            stage.reference_pairs(replace(SMALL, reference=str(path)))


def test_side_by_side_gives_the_same_numbers_as_one_after_another(
    run_: Run, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    """All but what depends on the moment: speeds, memory, seconds."""
    config = replace(SMALL, judge="mini")

    def numbers() -> tuple[list[dict], list[dict]]:
        progress = Progress(run_, "compare", [])
        models = stage.run(run_, config, progress)["models"]
        assert progress.job["done"] == progress.job["total"], "the judge's work is counted too"
        timed = ("second", "spread", "memory")
        answers = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(run_.answers_file)]
        return [{k: v for k, v in m.items() if not any(t in k for t in timed)} for m in models], answers

    threads(1)
    alone = numbers()
    monkeypatch.setattr(stage, "_processes", lambda *_: 2)
    assert numbers() == alone


def test_only_small_local_models_with_much_to_do_are_measured_side_by_side(
    student: str, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    small = [stage.Entry("base", f"m{i}", student) for i in range(3)]
    threads(2)
    assert stage._processes(small, 100) == 2
    assert stage._processes(small, 10) == 1, "a few answers are written before another process has started"
    assert stage._processes([*small, stage.Entry("teacher", "a", "api:x")], 100) == 1
    assert stage._processes([*small, stage.Entry("base", "h", "nobody/nothing")], 100) == 1
    threads(8)
    assert stage._processes(small, 100) == 3
    monkeypatch.setattr(stage, "TOGETHER_ROOM", 2**50)
    assert stage._processes(small, 100) == 1, "short of memory"
    monkeypatch.undo()
    monkeypatch.setattr(stage, "TOGETHER_BYTES", 1000)
    assert stage._processes(small, 100) == 1, "large models keep all cores busy"


def test_progress_counts_what_is_only_read_names_who_is_at_work_and_never_goes_back(
    run_: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    told: list[str] = []

    def watched(self: Progress, done: int, under_way: float = 0.0, stop: bool = True, **facts: object) -> None:
        seen.append(done + under_way)
        told.extend(facts)
        step(self, done, under_way, stop, **facts)

    step = Progress.step
    monkeypatch.setattr(Progress, "step", watched)
    progress = Progress(run_, "compare", [])
    stage.run(run_, replace(SMALL, judge="mini"), progress)
    assert list(dict.fromkeys(told)) == ["model", "judged", "timed"]
    read = stage.READ * (len(stage.reference_pairs(SMALL)) + len(stage.domain.probes()))
    assert seen[0] == 0 and any(0 < done < read for done in seen), "the first model's reference stories"
    assert seen == sorted(seen) and seen[-1] == progress.job["total"]


def test_stop_between_models_leaves_no_report(run_: Run) -> None:
    progress = Progress(run_, "compare", [])
    progress.interrupted = True
    with pytest.raises(Stopped):
        stage.run(run_, SMALL, progress)
    assert not run_.report_file.exists() and run_.state("compare") == "partial"


def test_the_tab_shows_verdict_charts_intervals_and_provenance(compared: Run) -> None:
    from lab.ui import compare as tab

    report = read_json(compared.report_file)
    for language in ("ko", "en"):
        first, kept, *plots, numbers, rest = tab.view(compared, language)
        below = numbers + rest
        assert kept["visible"] and kept["value"] == rendering.html_kept(report, language)
        assert escape(report["verdict"][language]) in first and report["flags"][0][language] in first
        shown = {name: plot["visible"] for name, plot in zip(tab.DRAWN, plots, strict=True)}
        assert shown == dict.fromkeys(tab.DRAWN, True) | {"scores": False}, "there was no judge"
        assert report["models"][2]["weights"] in below and report["models"][1]["revision"] in below
        assert all(escape(x) in below for x in rendering.provenance(report, language))
        around = report["models"][2]["intervals"]["bits_per_byte"]
        assert f"{around['low']:.3f} – {around['high']:.3f}" in below


def test_every_model_keeps_its_colour_and_marker_in_all_charts(compared: Run) -> None:
    from lab.ui import compare_charts as charts

    models = read_json(compared.report_file)["models"]
    models.append(models[2] | {"name": "top30"})
    seen = {}
    for figure in (charts.rates(models, "en"), charts.probes(models, "en"), charts.speed(models, "en")):
        for trace in figure.data:
            seen.setdefault(trace.name.split(" · ")[0], set()).add((trace.marker.color, trace.marker.symbol))
    assert len(seen) == 4 and all(len(looks) == 1 for looks in seen.values())
    assert len({next(iter(looks)) for looks in seen.values()}) == 4


def test_the_legend_says_each_models_memory_and_has_room_for_a_name_a_line(compared: Run) -> None:
    from lab.ui import compare_charts as charts

    models = read_json(compared.report_file)["models"]
    figure = charts.speed(models, "ko")
    assert [t.name.split(" · ")[1] for t in figure.data] == [f"{m['peak_memory_bytes'] / 1e6:,.0f} MB" for m in models]
    assert charts.speed([*models, models[2] | {"name": "top30"}], "ko").layout.margin.b == figure.layout.margin.b + 20
    assert charts.rates(models, "ko").layout.yaxis.ticktext[0].replace("<br>", " ") == charts.BY_KEY[
        "rule_pass_rate"
    ].name("ko")
    assert all(
        len(line) <= 12 for name in charts.rates(models, "ko").layout.yaxis.ticktext for line in name.split("<br>")
    )


def test_answers_stand_side_by_side_sorted_by_difference(run_: Run) -> None:
    from lab.ui import compare as tab

    def row(who: str, task: int, reasons: list[str]) -> dict:
        name = {"teacher": "t", "base": "b", "arm": "distilled"}[who]
        shared = {"character": "", "keywords": [], "finish": "stop", "tokens": 1, "seconds": 1.0, "judge": None}
        return shared | {"who": who, "name": name, "sample": 0, "instruction": f"부탁{task}", "text": f"{who}의 <b>글{task}", "reasons": reasons}  # fmt: skip

    faults = {0: [], 1: ["too_short", "refusal"], 2: ["too_short"]}
    append_rows(run_.answers_file, [row(w, t, faults[t] if w == "arm" else []) for w in ("teacher", "base", "arm") for t in range(3)])  # fmt: skip
    append_rows(run_.answers_file, [row("arm", 9, []) | {"sample": 1}])
    shown = tab.answers(run_, "ko", "student_worse")[0]
    assert all(shown.count(f"부탁{t}") == 1 for t in range(3)), "asked once, answered by all"
    assert [shown.index(f"부탁{t}") for t in (1, 2, 0)] == sorted(shown.index(f"부탁{t}") for t in range(3))
    assert "부탁9" not in shown and "<b>글" not in shown and shown.count("<article") == 9
    asked = tab.answers(run_, "ko", "as_asked")[0]
    assert asked.index("부탁0") < asked.index("부탁1") < asked.index("부탁2")
    for language, words in (("ko", "이 글에만 있는 잘못: "), ("en", "faults only here: ")):
        first, _, rest = tab.answers(run_, language, "as_asked")[0].partition("부탁0")[2].partition("부탁1")
        second = rest.partition("부탁2")[0]
        assert words not in first, "no fault, nothing to tell"
        assert f"{words}{reason('too_short', language)}, {reason('refusal', language)}" in second


def test_how_an_answer_differs_from_the_teachers_is_said() -> None:
    from lab.ui import compare as tab

    teacher = {"who": "teacher", "name": "t", "reasons": ["too_long", "meta"], "text": "가" * 30, "judge": 4.5}
    arm = {"who": "arm", "name": "distilled", "reasons": ["meta", "too_short"], "text": "가" * 10, "judge": 2.0}
    told = tab.apart({"teacher": teacher, "arm distilled": arm}, "en")
    assert "Compared with: Teacher" in told and f"faults only here: {reason('too_short', 'en')} ·" in told
    assert f"faults not here: {reason('too_long', 'en')} ·" in told and "judge -2.5" in told and "length -20" in told
    assert "dotted" not in told, "one word in common is chance"
    assert tab.apart({"arm distilled": arm}, "en") == "" == tab.apart({"teacher": teacher}, "en")


def test_where_an_answer_goes_on_like_the_teachers_is_marked(run_: Run) -> None:
    from lab.ui import compare as tab

    told, own = "어느 날 토끼가 숲에서 곰을 만났어요.", "옛날에 토끼가  숲에서 곰을 만났어요. 끝."
    assert [own[a:b] for a, b in tab.same(own, told)] == ["토끼가  숲에서 곰을 만났어요."]
    assert tab.same("토끼가 숲에서 곰을 봤어요.", told) == [], "three words are chance"
    shared = {"character": "", "keywords": [], "reasons": [], "finish": "stop", "judge": None, "sample": 0}
    rows = (("teacher", told), ("base", told), ("arm", own))
    append_rows(run_.answers_file, [shared | {"who": w, "name": w, "instruction": "부탁", "text": t} for w, t in rows])
    shown = tab.answers(run_, "en")[0]
    assert shown.count('<mark class="same">') == 2, "not in the teacher's own"
    assert '<mark class="same">토끼가  숲에서 곰을 만났어요.</mark>' in shown
    assert "same as there (dotted) 100%" in shown and f"same as there (dotted) {17 / 24:.0%}" in shown


def test_what_is_kept_stands_axis_by_axis_with_its_target(compared: Run) -> None:
    report = read_json(compared.report_file)
    for language, target in (("en", "Target"), ("ko", "목표")):
        heads, rows = rendering.kept_rows(report, language)
        assert heads[1:] == [rendering.label(report["models"][2], language), target]
        found = {row[0][0]: row[1:] for row in rows}
        bits, band = found[rendering.BY_KEY["bits_per_byte"].name(language)]
        around = report["retention_intervals"]["distilled"]["bits_per_byte"]
        assert bits[0] == f"{report['retention']['distilled']['bits_per_byte']:.0%}" and band[0] == "90% – 95%"
        assert bits[1] == f"{around['low']:.0%} – {around['high']:.0%}"
        speed, goal = found[rendering.BY_KEY["tokens_per_second"].name(language)]
        assert speed[0] == f"×{report['retention']['distilled']['tokens_per_second']:.2f}" and goal[0] == "≥ ×3.00"
        table = rendering.html_kept(report, language)
        assert table.count("<tr>") == 1 + len(rows) and bits[1] in table
        assert f"{bits[0]} [{bits[1]}]" in (compared.report_file.parent / "report.md").read_text("utf-8")
    assert rendering.html_kept(report | {"retention": {}}, "en") == ""


def test_two_runs_are_shown_together_and_other_tasks_are_said_so(compared: Run) -> None:
    from lab.ui import compare as tab

    other = new_run("mini", "둘째 실험")
    report = read_json(compared.report_file) | {"title": "둘째 실험"}
    write_json(other.report_file, report)
    note, *plots, table = tab.beside(compared, "ko", other.id)
    assert say("same_tasks", "ko") in note and all(p["visible"] for p in plots)
    assert "둘째 실험 · distilled" in table and "작은 실험 · distilled" in table
    write_json(other.report_file, report | {"same_tasks": "other"})
    assert say("other_tasks", "ko") in tab.beside(compared, "ko", other.id)[0]
    other.finish("compare", {})
    assert [x[1] for x in tab.others(compared.id)["choices"]] == [other.id]


def test_the_tab_shows_the_list_when_leaks_stopped_it(run_: Run) -> None:
    from lab.ui import compare as tab

    leak = {"set": "reference", "id": "gp-04", "span": "꽃게 집게는 <b>", "share": 1.0, "kind": "passage"}
    said = {"en": "stopped", "ko": "멈춤"}
    write_json(run_.report_file, {"models": [], "leaks": [leak], "leak_counts": {"reference": 1}, "verdict": said})
    first = tab.view(run_, "ko")[0]
    assert say("leak_share", "ko") in first
    assert "멈춤" in first and "gp-04" in first and "꽃게 집게는 &lt;b&gt;" in first


def test_the_report_is_packed_for_downloading(compared: Run) -> None:
    from lab.ui import compare as tab

    with ZipFile(tab.written(compared.id, "ko")["value"]) as archive:
        names = archive.namelist()
    assert {"report.html", "report.md", "report.json", "charts/quality.png", "charts/quality.ko.svg"} <= set(names)
