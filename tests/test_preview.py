"""Look before you leap: the estimate against hand computation, and teachers that must be flagged are flagged."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from lab import domain, preview
from lab.config import GenerateConfig
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_json, write_json
from lab.run import Run, new_run
from lab.stages import generate
from tests.fakeapi import serving
from tests.fakehub import FakeHub
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def progress(run: Run, command: str = "preview") -> Progress:
    return Progress(run, command, [])


def items(found: dict) -> dict[str, dict]:
    return {f["name"]: f for f in found["findings"]}


def test_the_preview_writes_the_runs_own_first_stories_and_leaves_its_pairs_alone(tiny: str) -> None:
    run = new_run()
    config = GenerateConfig(pairs=8, teacher=tiny, max_new_tokens=12)
    found = preview.preview(run, config, progress(run))
    assert found == read_json(run.preview_file) and not run.pairs_file.exists() and run.state("generate") == "empty"
    generate.run(run, config, progress(run, "generate"))
    rows = list(run.pairs())
    assert [s["pair"]["output"] for s in found["stories"]] == [
        next(p.output for p in rows if p.id == s["pair"]["id"]) for s in found["stories"]
    ]
    assert len(found["stories"]) == preview.PREVIEWED
    for story in found["stories"]:
        assert story["verdict"]["kept"] == (not story["verdict"]["reasons"])


def test_the_estimate_counts_what_is_still_to_do(tiny: str) -> None:
    run = new_run()
    config = GenerateConfig(pairs=6, teacher=tiny, max_new_tokens=8)
    generate.run(run, config, progress(run, "generate"))
    more = preview.preview(run, GenerateConfig(pairs=10, teacher=tiny, max_new_tokens=8), progress(run))
    assert more["there"] == 6 and more["foreign"] == 0 and 0 < more["estimate"]["tokens"] <= 4 * 8
    assert more["estimate"]["people_dollars"] == 50 and more["estimate"]["dollars"] == 0
    other = preview.preview(run, GenerateConfig(pairs=6, teacher=tiny, max_new_tokens=8, seed=3), progress(run))
    assert other["foreign"] == 6 and other["there"] == 0


def test_a_batch_takes_what_its_rows_still_going_take() -> None:
    # Two stories of 1 and 3 tokens, a batch of 4: one step with 4 rows, two with 2; 8 rows are twice the largest tried.
    steps = {1: 1.0, 4: 4.0}
    assert preview.batch_seconds([1, 3], steps, 4) == pytest.approx(4 + 2 + 2)
    assert preview.batch_seconds([1, 3], steps, 8) == pytest.approx(8 + 4 + 4)
    pairs = [Pair("1", "", "", tokens=1), Pair("2", "", "", tokens=3)]
    found = preview.local_estimate(pairs, steps, 4, 80)
    assert found["tokens"] == 160 and found["minutes"] == round(20 * 8 / 60, 2) and found["dollars"] == 0


def test_an_endpoint_is_estimated_in_requests_and_money() -> None:
    run = new_run()
    config = GenerateConfig(pairs=1000, teacher="api:tale", batch_size=10, price_in=1.0, price_out=2.0)
    with serving() as served:
        found = preview.preview(run, GenerateConfig(**{**vars(config), "base_url": served.url}), progress(run))
        e = found["estimate"]
        assert served.requests == 5 and e["tokens"] == 20_000 and e["prompt_tokens"] == 10_000
        assert e["dollars"] == pytest.approx(0.05) and e["minutes"] > 0 and e["batch"] == 10
        assert read_json(run.usage_file) == {"prompt_tokens": 50, "completion_tokens": 100}
        free = GenerateConfig(pairs=10, teacher="api:tale", base_url=served.url)
        assert preview.preview(run, free, progress(run))["estimate"]["dollars"] is None


def test_expected_pairs_come_with_their_doubt() -> None:
    kept = preview._kept([Verdict("1", True), Verdict("2", True), Verdict("3", False)], 300)
    assert kept["kept"] == 200 and kept["kept_low"] < 120 < 260 < kept["kept_high"]


def test_a_teacher_that_knows_no_korean_is_refused_with_its_worst_sample(tiny: str) -> None:
    run = new_run()
    write_json(run.stage_folder("train") / "config.json", {"student": tiny})
    config = GenerateConfig(teacher=tiny, max_new_tokens=40)
    found = preview.check(run, config, progress(run, "check"))
    assert found == read_json(run.check_file) and found["verdict"] == "cannot"
    told = items(found)
    assert told["stories"]["state"] == "fail" and told["language_model"]["state"] != "ok"
    assert told["chat_template"]["state"] == "ok" and told["size_ratio"]["state"] == "warn"
    assert told["chain"]["state"] == "unknown"
    reasons = [len(s["verdict"]["reasons"]) for s in found["stories"]]
    assert len(reasons) == preview.CHECKED and reasons[0] >= reasons[-1] > 0
    assert "cannot write" in preview.told_check(found)


def rule_verdicts(texts: list[str]) -> list[Verdict]:
    story = domain.reference_stories()[0]
    pairs = [
        Pair(str(i), story["instruction"], t, story["character"], tuple(story["keywords"])) for i, t in enumerate(texts)
    ]
    return preview.rule_verdicts(pairs, new_run().config("filter"))


GOOD = domain.reference_stories()[0]["output"]
WEAK = {
    "loops": "토끼 토토는 당근과 비를 좋아하는 거죠. " + "그래서 토토는 아주 기쁜 거죠. " * 20,
    "refusals": "죄송합니다. 저는 인공지능 언어 모델이라 동화를 쓸 수 없습니다. 다른 도움이 필요하시면 말씀해 주세요.",
    "languages": GOOD[:150] + "兔子很高兴地跑到了森林里。然后它看见了一个很大的胡萝卜。 " + GOOD[150:],
}


@pytest.mark.parametrize("habit", list(WEAK))
def test_a_weak_teachers_habit_is_named(habit: str) -> None:
    found = {f.name: f.state for f in preview.judge_sample(rule_verdicts([WEAK[habit]] * 4 + [GOOD] * 6))}
    assert found[habit] == "warn" and found["stories"] == "ok"
    assert set(found) & set(WEAK) == {habit}
    assert {f.name: f.state for f in preview.judge_sample(rule_verdicts([WEAK[habit]] * 9 + [GOOD]))}[habit] == "fail"


def test_the_most_frequent_reasons_are_said_in_words() -> None:
    first = preview.judge_sample([Verdict("a", False, ("near_duplicate",))])[0]
    assert "Most frequent: near-duplicate" in first.en and "가장 잦은 이유: 거의 같은 이야기" in first.ko


def test_a_good_teacher_passes() -> None:
    stories = domain.reference_stories()[:10]
    pairs = [Pair(s["id"], s["instruction"], s["output"], s["character"], tuple(s["keywords"])) for s in stories]
    found = preview.judge_sample(preview.rule_verdicts(pairs, new_run().config("filter")))
    assert [(f.name, f.state) for f in found] == [("stories", "ok")]


def test_a_model_without_a_chat_template_is_refused_before_it_writes(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    tiny_model(folder)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    run = new_run()
    found = preview.check(run, GenerateConfig(teacher=str(folder)), progress(run, "check"))
    assert found["verdict"] == "cannot" and items(found)["chat_template"]["state"] == "fail" and found["stories"] == []


@pytest.mark.parametrize(
    ("teacher", "student", "state", "word"),
    [
        (1_500_000_000, 500_000_000, "ok", "3.0 times"),
        (9_700_000, 1_900_000, "ok", "5.1 times"),
        (500_000_000, 400_000_000, "warn", "little to gain"),
        (7_000_000_000, 30_000_000, "warn", "cannot follow"),
        (None, 30_000_000, "unknown", "teacher"),
    ],
)
def test_the_size_ratio_says_why(teacher: int | None, student: int, state: str, word: str) -> None:
    found = preview.size_ratio(teacher, student)
    assert found.state == state and word in found.en


def test_sizes_are_read_from_files_or_names(tiny: str) -> None:
    from lab.models import open_model

    assert preview.parameters_of(tiny) == open_model(tiny).parameters
    assert preview.parameters_of("Qwen/Qwen2.5-1.5B-Instruct") == 1_500_000_000
    assert preview.parameters_of("api:gpt-oss-20b") == 20_000_000_000
    assert preview.parameters_of("scratch:30m") == 30_000_000
    assert preview.parameters_of("api:gpt-4o") is None and preview.parameters_of("run:20260101-000000-abcdef/x") is None


def test_a_distilled_teacher_is_told_by_run_card_or_name(tmp_path: Path) -> None:
    run = new_run()
    append_rows(run.pairs_file, [Pair("1", "a", "b").row()])
    assert preview.chain(f"run:{run.id}/distilled").state == "warn"
    assert "mini:teacher" in preview.chain(f"run:{run.id}/distilled").en
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntags: [distillation]\nbase_model: a/b\n---\n", "utf-8")
    assert preview.chain(str(folder)).state == "warn"
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen2.5-1.5B\n---\n", "utf-8")
    assert preview.chain(str(folder)).state == "ok" and "Qwen2.5-1.5B" in preview.chain(str(folder)).en
    assert preview.chain("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B").state == "warn"
    assert preview.chain("somebody/unknown").state == "unknown"
    assert preview.chain("mini:teacher").state == "ok"


def test_who_knows_which_letter_follows_which_needs_fewer_bits() -> None:
    letters, follows = preview.letter_bits()
    assert 1 < follows < letters < 4


def test_a_teacher_at_a_revision_is_judged_by_the_card_of_that_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with FakeHub() as hub:
        hub.add_user("hf_x", "somebody")
        api = huggingface_hub.HfApi(endpoint=hub.url, token="hf_x")
        api.create_repo("somebody/tales")
        cards = [f"---\nbase_model: {base}\n---\n# x\n".encode() for base in ("some/first", "some/Distilled-2")]
        old, _ = (api.upload_file(path_or_fileobj=c, path_in_repo="README.md", repo_id="somebody/tales") for c in cards)
        monkeypatch.setattr(preview.hub, "file", partial(preview.hub.file, endpoint=hub.url))
        assert preview.chain("somebody/tales").state == "warn"
        pinned = preview.chain("somebody/tales", old.oid)
    assert pinned.state == "ok" and "some/first" in pinned.en


def test_a_large_teacher_on_a_cpu_says_that_its_probes_come_later(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "LARGE", 0)
    found = preview.check(new_run(), GenerateConfig(teacher=tiny, max_new_tokens=8), progress(new_run(), "check"))
    assert items(found)["probes"]["state"] == "unknown" and "comparison" in items(found)["probes"]["en"]
    assert "for 4 stories" in items(found)["language_model"]["en"]
