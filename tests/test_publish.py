"""Publishing, against a loopback stand-in of the Hub that is spoken to by the stock client."""

import json
import os
import subprocess
import sys
import time

os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import pyarrow.parquet as pq
import pytest
import yaml

from lab.config import PublishConfig
from lab.domain import DATA
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, Verdict, append_rows, read_json, write_json
from lab.run import new_run
from lab.stages import publish
from lab.stages.filter import set_manual
from tests.fakehub import FakeHub

TOKEN = "hf_aliceSecretToken0123456789"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny base (with a card that says apache-2.0) and an adapter on it."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("trained")
    base = folder / "base"
    config = Qwen2Config(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(base)
    for path in (DATA / "mini" / "student").glob("*oken*"):
        (base / path.name).write_bytes(path.read_bytes())
    (base / "chat_template.jinja").write_bytes((DATA / "mini/student/chat_template.jinja").read_bytes())
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n", "utf-8")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def make_run(trained, tmp_path, monkeypatch):
    """A run by hand: six pairs, two of them rejected, one trained arm, a report and answers."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setenv("LAB_OFFLINE", "1")

    def make(teacher="mini:teacher", student=None, title="호랑이 이야기", story="옛날 옛적에 호랑이가 살았어요."):
        run = new_run("mini", title)
        pairs = [
            Pair(
                f"id{i}",
                f"호랑이 이야기 {i}",
                f"{story} {i}",
                "호랑이",
                ("떡",),
                teacher,
                split="test" if i == 0 else "train",
            )
            for i in range(6)
        ]
        append_rows(run.pairs_file, [p.row() for p in pairs])
        append_rows(
            run.verdicts_file, [Verdict(f"id{i}", i < 4, () if i < 4 else ("too_short",)).row() for i in range(6)]
        )
        place = run.stage_folder("train", "distilled")
        write_json(place / "config.json", {"student": student or str(trained / "base")})
        (place / "adapter").mkdir(parents=True)
        for path in (trained / "adapter").iterdir():
            (place / "adapter" / path.name).write_bytes(path.read_bytes())
        write_json(place / "done.json", {"steps": 3, "train_loss": 1.5, "inputs": ""})
        row = {"who": "arm", "name": "distilled", "perplexity": 5.0, "bits_per_byte": 1.25, "rule_pass_rate": 0.5}
        row |= {"intervals": {"perplexity": {"value": 5.0, "low": 4.0, "high": 6.0, "n": 4}}, "judge": None}
        teacher_row = {"who": "teacher", "name": "t", "perplexity": 3.0, "rule_pass_rate": 0.6}
        counts = {"reference": 0, "probes": 0, "general": 0, "test": 3}
        report = {"prompts": 4, "models": [teacher_row, row], "leak_counts": counts, "test_pairs_left_out": 2}
        report |= {"verdict": {"ko": "판정입니다.", "en": "The verdict."}}
        report |= {"retention": {"distilled": {"rule_pass_rate": 0.83, "size_bytes": 0.3}}}
        write_json(run.report_file, report)
        (run.report_file.parent / "charts").mkdir()
        (run.report_file.parent / "charts" / "quality.png").write_bytes(b"\x89PNG")
        answer = {
            "who": "arm",
            "name": "distilled",
            "sample": 0,
            "instruction": "호랑이",
            "text": "옛날에 | 호랑이가",
            "reasons": [],
        }
        others = [
            answer | {"who": "teacher", "name": "t", "text": "교사의 글"},
            answer | {"sample": 1, "text": "둘째 답"},
        ]
        append_rows(run.answers_file, [answer, answer | {"text": "끝", "reasons": ["too_short"]}, *others])
        return run

    return make


@pytest.fixture
def hub():
    with FakeHub() as hub:
        hub.add_user(TOKEN, "alice").add_user("hf_reader", "alice", role="read")
        yield hub


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Waits keep their order, not their length."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda s: sleep(min(s, 0.005)))


def go(run, hub, token=TOKEN, **options):
    return publish.run(run, PublishConfig(**options), Progress(run, "publish", []), token=token, endpoint=hub.url)


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def test_prepare_writes_exactly_what_would_leave(make_run):
    run = make_run()
    ready = publish.prepare(run, PublishConfig(), "alice")
    assert ready["verdict"] == "ok" and ready["model"] == "alice/horangi-iyagi"
    data, model = run.publish_folder("dataset"), run.publish_folder("model")
    assert {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()} == {
        "README.md", "LICENSE", "NOTICE", "data/train.parquet", "data/test.parquet", "rejected/train.parquet",
    }  # fmt: skip
    assert pq.read_table(data / "data/train.parquet").num_rows == 3
    assert pq.read_table(data / "rejected/train.parquet").to_pylist()[0]["reasons"] == ["too_short"]
    card = front(data)
    assert card["license"] == "apache-2.0" and card["language"] == ["ko"] and card["size_categories"] == ["n<1K"]
    card = front(model)
    assert card["library_name"] == "transformers" and card["datasets"] == [ready["dataset"]]
    metrics = card["model-index"][0]["results"][0]["metrics"]
    assert {m["type"]: m["value"] for m in metrics} == {"perplexity": 5.0, "bits_per_byte": 1.25, "rule_pass_rate": 0.5}
    text = (model / "README.md").read_text("utf-8")
    assert "5.00 [4.00 – 6.00]" in text and "The verdict." in text and "판정입니다." in text
    assert "![quality](charts/quality.png)" in text and (model / "charts/quality.png").exists()
    assert "옛날에" in text and "교사의 글" not in text and "둘째 답" not in text
    assert "0 reference stories and 0 probes" in text and "3 test stories do, 2 of them" in text
    assert "url = {https://huggingface.co/alice/horangi-iyagi}" in text
    assert f"https://huggingface.co/datasets/{ready['dataset']}" in (data / "README.md").read_text("utf-8")
    assert "bad: 너무 짧음 / too short (`too_short`)" in text and "merged into the base" in text
    for path in (data / "README.md", model / "README.md", model / "NOTICE", model / "config.json"):
        assert run.config("train", "distilled").student not in path.read_text("utf-8"), "no local path leaves"
    assert not (model / "adapter_config.json").exists(), "a base without a Hub id is merged"


def test_the_loading_snippet_works(make_run):
    run = make_run()
    publish.prepare(run, PublishConfig(), "alice")
    folder = run.publish_folder("model")
    text = (folder / "README.md").read_text("utf-8")
    code = (
        text.split("```python\n")[1].split("```")[0].replace("alice/horangi-iyagi", str(folder)).replace("=300", "=4")
    )
    exec(code, {})


def test_no_place_of_this_machine_and_no_endpoint_leaves(make_run, trained, tmp_path):
    """A local teacher's folder, a judge's, own stories' and an endpoint's address are nobody's business."""
    own, judge = tmp_path / "own.jsonl", tmp_path / "judges" / "mine"
    own.write_text("{}\n", "utf-8")
    judge.mkdir(parents=True)
    (judge / "README.md").write_text("---\nlicense: apache-2.0\n---\n", "utf-8")
    run = make_run(teacher=f"{trained / 'base'}@0123456789ab")
    write_json(run.stage_folder("generate") / "config.json", {"teacher": str(trained / "base"), "base_url": "http://10.0.0.7/v1"})  # fmt: skip
    write_json(run.stage_folder("filter") / "config.json", {"judge": str(judge)})
    config = read_json(run.stage_folder("train", "distilled") / "config.json") | {"human_file": str(own)}
    write_json(run.stage_folder("train", "distilled") / "config.json", config)
    publish.prepare(run, PublishConfig(), "alice")
    for kind in ("dataset", "model"):
        for path in run.publish_folder(kind).rglob("*"):
            text = path.read_bytes() if path.is_file() else b""
            for secret in (str(trained), str(tmp_path), "10.0.0.7"):
                assert secret.encode() not in text, (path, secret)
    rows = pq.read_table(run.publish_folder("dataset") / "data/train.parquet").to_pylist()
    assert {r["teacher"] for r in rows} == {"base@0123456789ab"}
    assert '"judge": "mine"' in (run.publish_folder("dataset") / "README.md").read_text("utf-8")


def test_the_dataset_card_counts_the_grid_of_requests(make_run):
    run = make_run()
    publish.prepare(run, PublishConfig(), "alice")
    text = (run.publish_folder("dataset") / "README.md").read_text("utf-8")
    assert "6 different ones over 1 characters and 1 groups of key words." in text


ADAPTER = """
import re, sys
from huggingface_hub import hf_hub_download

card = open(hf_hub_download(sys.argv[1], "README.md"), encoding="utf-8").read()
code = re.search(r"```python\\n(.*?)```", card, re.DOTALL)[1].replace("=300", "=4")
assert "AutoPeftModelForCausalLM" in code
exec(code)
assert model.base_model.model.config.vocab_size
"""


@pytest.mark.slow
def test_the_snippet_of_an_adapter_fetches_its_base_and_works(make_run, hub, trained, tmp_path):
    from huggingface_hub import CommitOperationAdd, HfApi

    base = "Qwen/Qwen2.5-0.5B-Instruct"
    hub.add_user("hf_qwen", "Qwen")
    api = HfApi(endpoint=hub.url, token="hf_qwen")
    api.create_repo(base)
    files = [CommitOperationAdd(p.name, str(p)) for p in (trained / "base").iterdir()]
    api.create_commit(base, files, commit_message="base")
    run = make_run(student=base)
    for path in (*(trained / "base").glob("*oken*"), trained / "base" / "chat_template.jinja"):
        # As training leaves them beside the adapter.
        (run.stage_folder("train", "distilled") / "adapter" / path.name).write_bytes(path.read_bytes())
    facts = go(run, hub)
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}  # fmt: skip
    command = [sys.executable, "-c", ADAPTER, facts["model"]["repo"]]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_adapter_names_its_base_on_the_hub(make_run):
    run = make_run(student="Qwen/Qwen2.5-0.5B-Instruct")
    publish.prepare(run, PublishConfig(), "alice")
    folder = run.publish_folder("model")
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B-Instruct"
    card = front(folder)
    assert (card["base_model"], card["base_model_relation"]) == ("Qwen/Qwen2.5-0.5B-Instruct", "adapter")
    assert card["library_name"] == "peft" and "Copyright Alibaba Cloud" in (folder / "NOTICE").read_text("utf-8")


def test_a_model_from_scratch_leaves_whole_and_without_a_base(make_run, trained):
    run = make_run(student="scratch:30m")
    place = run.stage_folder("train", "distilled")
    (place / "adapter").rename(place / "old")
    (place / "model").mkdir()
    for path in (trained / "base").iterdir():
        (place / "model" / path.name).write_bytes(path.read_bytes())
    (place / "model" / "optimizer.pt").write_bytes(b"not to leave")
    publish.prepare(run, PublishConfig(), "alice")
    folder = run.publish_folder("model")
    assert (folder / "model.safetensors").exists() and not (folder / "optimizer.pt").exists()
    assert "base_model" not in front(folder) and front(folder)["library_name"] == "transformers"


def test_imported_rows_need_their_licence(make_run):
    run = make_run(teacher="")
    with pytest.raises(Problem, match="data_licence"):
        publish.prepare(run, PublishConfig())
    publish.prepare(run, PublishConfig(data_licence="cc-by-sa-4.0"))
    assert front(run.publish_folder("dataset"))["license"] == "cc-by-sa-4.0"


def test_the_dataset_card_says_how_people_agreed_and_what_leaked(make_run):
    run = make_run()
    publish.prepare(run, PublishConfig(), "alice")
    text = (run.publish_folder("dataset") / "README.md").read_text("utf-8")
    assert "not reviewed by people" in text and "0 reference stories and 0 probes share 30 characters" in text
    for i in range(4):
        set_manual(run, f"id{i}", i < 3, "reader")
    publish.prepare(run, PublishConfig(), "alice")
    text = (run.publish_folder("dataset") / "README.md").read_text("utf-8")
    assert "4 pairs reviewed by people" in text


def test_a_missing_report_is_no_obstacle(make_run):
    run = make_run()
    run.report_file.unlink()
    run.answers_file.unlink()
    publish.prepare(run, PublishConfig(), "alice")
    assert "Not measured" in (run.publish_folder("model") / "README.md").read_text("utf-8")


def test_a_blocked_teacher_is_refused_with_clause_and_source(make_run):
    with pytest.raises(Problem, match=r"compete with OpenAI.*OpenAI Terms of Use"):
        publish.prepare(make_run(teacher="api:gpt-4o"), PublishConfig())


def test_an_unknown_teacher_needs_a_statement_and_stays_private(make_run):
    run = make_run(teacher="somebody/unheard-of")
    with pytest.raises(Problem, match="data_licence"):
        publish.prepare(run, PublishConfig())
    with pytest.raises(Problem, match="NAME https"):
        publish.prepare(run, PublishConfig(data_licence="my-licence"))
    said = "my-licence https://example.org/terms"
    with pytest.raises(Problem, match="private"):
        publish.prepare(run, PublishConfig(data_licence=said, private=False))
    ready = publish.prepare(run, PublishConfig(data_licence=said))
    assert ready["verdict"] == "unknown" and "my-licence" in ready["licence"]
    card = front(run.publish_folder("dataset"))
    assert card["license_name"] == "my-licence" and card["license_link"] == "https://example.org/terms"


def test_a_repository_that_is_public_gets_nothing_under_an_unknown_licence(make_run, hub):
    run = make_run()
    go(run, hub, dataset_repo="alice/tales")
    publish.make_public(run, Progress(run, "publish", []), TOKEN, hub.url)
    append_rows(run.pairs_file, [Pair("new", "지시", "글", "호랑이", (), "somebody/unheard-of").row()])
    with pytest.raises(Problem, match="is public, but its licence is unknown now"):
        go(run, hub, dataset_repo="alice/tales", data_licence="x https://example.org/x")


def test_rows_brought_along_without_a_word_are_unknown_whoever_wrote_the_others(make_run):
    run = make_run()
    append_rows(run.pairs_file, [Pair("own", "지시", "글", "호랑이", (), "import").row()])
    with pytest.raises(Problem, match="imported rows: the licence is unknown"):
        publish.prepare(run, PublishConfig())
    publish.prepare(run, PublishConfig(data_licence="cc-by-nc-4.0"))
    assert front(run.publish_folder("model"))["license"] == "cc-by-nc-4.0"


def test_own_stories_of_an_arm_and_a_second_teacher_bind_too(make_run):
    run = make_run()
    place = run.stage_folder("train", "distilled") / "config.json"
    write_json(place, read_json(place) | {"data": "human", "human_file": "stories.jsonl"})
    with pytest.raises(Problem, match="imported rows"):
        publish.prepare(run, PublishConfig())
    write_json(place, read_json(place) | {"data": "distilled", "method": "soft", "teacher": "api:gpt-4o"})
    with pytest.raises(Problem, match="compete with OpenAI"):
        publish.prepare(run, PublishConfig())


def test_every_teacher_in_the_rows_is_named_and_the_strictest_wins(make_run):
    run = make_run()
    append_rows(run.pairs_file, [Pair("new", "지시", "글", "호랑이", (), "google/gemma-2-2b-it").row()])
    publish.prepare(run, PublishConfig())
    folder = run.publish_folder("dataset")
    assert front(folder)["license"] == "gemma" and "Gemma Terms of Use" in (folder / "LICENSE").read_text("utf-8")
    notice = (folder / "NOTICE").read_text("utf-8")
    assert "mini:teacher" in notice and "google/gemma-2-2b-it" in notice and "ai.google.dev/gemma/terms" in notice


def test_a_llama_teacher_asks_for_the_name(make_run):
    run = make_run(teacher="meta-llama/Llama-3.1-8B-Instruct")
    with pytest.raises(Problem, match="Llama"):
        publish.prepare(run, PublishConfig(model_repo="alice/tales"))
    publish.prepare(run, PublishConfig(model_repo="alice/Llama-tales"))
    assert front(run.publish_folder("model"))["license"] == "llama3.1"
    assert "Built with Llama" in (run.publish_folder("model") / "README.md").read_text("utf-8")
    assert publish.prepare(run, PublishConfig(), "alice")["model"].startswith("alice/Llama-"), (
        "the default name keeps it"
    )


def test_a_prefix_of_two_words_is_asked_for_whole(make_run):
    run = make_run("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-8B")
    with pytest.raises(Problem, match="'Llama 3'"):
        publish.prepare(run, PublishConfig(model_repo="alice/Llama-tales"))
    publish.prepare(run, PublishConfig(model_repo="alice/Llama-3-tales"))


def test_the_text_of_every_licence_goes_along(make_run):
    run = make_run("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")
    assert publish.prepare(run, PublishConfig(), "alice")["missing"] == []
    data, model = run.publish_folder("dataset"), run.publish_folder("model")
    for folder in (data, model):
        assert "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT" in (folder / "LICENSE").read_text("utf-8")
    assert "Apache License" in (model / "LICENSES" / "apache-2.0.txt").read_text("utf-8")
    assert not (data / "LICENSES").exists()
    card = (data / "README.md").read_text("utf-8")
    assert "| student |" not in card, "the base of a student says nothing about the rows"


def test_a_text_that_we_do_not_have_is_fetched_from_the_model_else_named_as_missing(make_run, monkeypatch):
    from lab import licenses

    run = make_run("Qwen/Qwen2.5-3B-Instruct@0123abc")
    assert publish.prepare(run, PublishConfig())["missing"] == ["qwen-research"]
    assert "Qwen2.5-3B LICENSE" in (run.publish_folder("dataset") / "LICENSE").read_text("utf-8")
    asked = []
    monkeypatch.setattr(licenses, "hub_licence", lambda *where: asked.append(where) or "The full text.")
    assert publish.prepare(run, PublishConfig())["missing"] == []
    assert set(asked) == {("Qwen/Qwen2.5-3B-Instruct", "0123abc")}
    assert (run.publish_folder("model") / "LICENSE").read_text("utf-8") == "The full text."


def test_the_cards_read_in_both_languages_and_parse_with_the_stock_classes(make_run):
    from huggingface_hub import DatasetCard, ModelCard

    run = make_run(title="호랑이 <b>| 이야기")
    publish.prepare(run, PublishConfig(), "alice", "c0ffee")
    texts = {k: (run.publish_folder(k) / "README.md").read_text("utf-8") for k in ("dataset", "model")}
    for text in texts.values():
        assert text.endswith("```\n") and "# 호랑이 &lt;b>\\| 이야기\n" in text
        assert "앞뒤가 맞지 않거나" in text and "may be incoherent" in text
        for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
            assert not line.startswith("## ") or before == "", f"a heading sticks to the text above it: {line}"
    assert "참고 동화 0편" in texts["model"] and "| 규칙" in texts["model"] and "| Rule pass rate" in texts["model"]
    assert "human_file" not in texts["model"].split("## 비교")[0], "options that say nothing are left out"
    assert DatasetCard(texts["dataset"]).data.license == "apache-2.0"
    card = ModelCard(texts["model"]).data
    result = {r.metric_type: r for r in card.eval_results}["perplexity"]
    assert (result.metric_value, result.dataset_revision) == (5.0, "c0ffee")
    assert "/tree/c0ffee" in texts["model"], "the data at its commit"


def test_an_adapter_is_pinned_to_the_base_that_it_was_trained_on(make_run):
    run = make_run(student="Qwen/Qwen2.5-0.5B-Instruct")
    done, commit = run.stage_folder("train", "distilled") / "done.json", "0123456789" * 4
    write_json(done, read_json(done) | {"student_revision": commit})
    publish.prepare(run, PublishConfig(), "alice")
    folder = run.publish_folder("model")
    assert read_json(folder / "adapter_config.json")["revision"] == commit
    assert f"at `{commit}`" in (folder / "README.md").read_text("utf-8")


def test_without_a_faulty_answer_the_one_judged_worst_is_shown_as_such(make_run):
    run = make_run()
    row = {"who": "arm", "name": "distilled", "sample": 0, "instruction": "지시", "reasons": []}
    run.answers_file.unlink()
    append_rows(run.answers_file, [row | {"text": f"글 {n}", "judge": n} for n in (4.0, 1.5, 5.0, 4.5)])
    publish.prepare(run, PublishConfig(), "alice")
    text = (run.publish_folder("model") / "README.md").read_text("utf-8")
    assert "judged worst: 지시\n\n> 글 1.5" in text


def test_own_characters_are_scanned_too(make_run):
    run = make_run()
    pair = Pair("mail", "호랑이 이야기", "옛날에 호랑이가 살았어요.", "me@example.com", ("떡",), "mini:teacher")
    append_rows(run.pairs_file, [pair.row()])
    append_rows(run.verdicts_file, [Verdict("mail", True).row()])
    with pytest.raises(Problem, match=r"mail \(e-mail\)"):
        publish.prepare(run, PublishConfig())


@pytest.mark.parametrize(
    "secret",
    [
        "me@example.com",
        "010-1234-5678",
        "02-123-4567",
        "+82 10-1234-5678",
        "900101-1234567",
        "900101-5234567",
        "1234-5678-9012-3456",
        "hf_abcdefghijklmnopqrstuv",
        "github_pat_" + "a1" * 20,
        "AIza" + "Ab1-" * 8 + "xyz",
        "xoxb-1234567890-abc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghij",
    ],
)
def test_personal_data_and_secrets_stay_here(make_run, secret):
    with pytest.raises(Problem, match="id0"):
        publish.prepare(make_run(story=f"옛날에 {secret} 호랑이"), PublishConfig())


@pytest.mark.parametrize("name", ["호랑이/이야기", "alice", "alice/a--b", "alice/x.git", "alice/" + "x" * 100])
def test_names_the_hub_refuses_are_explained(name):
    with pytest.raises(Problem, match="not usable"):
        publish.check_repo(name)


def test_hangul_titles_give_a_name_that_can_be_read():
    assert publish.slug("호랑이와 곶감 2", "r1") == "horangiwa-gotgam-2"
    assert publish.slug("햇님 달님: 어느 별의 꿈", "r1") == "haetnim-dalnim-eoneu-byeolui-kkum"
    assert publish.slug("昔話 2", "r1") == "fairytales-r1", "nothing to read remains"
    with pytest.raises(Problem, match="horangi"):
        publish.check_repo("alice/호랑이")


def test_publish_is_whole_linked_private_and_repeatable(make_run, hub):
    run = make_run()
    facts = go(run, hub)
    data, model = facts["dataset"], facts["model"]
    for kind, part in (("dataset", data), ("model", model)):
        there = hub.files(kind, part["repo"])
        assert hub.repo(kind, part["repo"]).private
        for name, path in publish._files(run.publish_folder(kind)).items():
            assert there[name] == path.read_bytes()
    assert data["commit"] in hub.files("model", model["repo"])["README.md"].decode()
    assert go(run, hub)["model"]["commit"] == model["commit"], "nothing new, no commit"
    publish.make_public(run, Progress(run, "publish", []), TOKEN, hub.url)
    assert not hub.repo("model", model["repo"]).private
    assert run.state("publish") == "done"
    for path in run.folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_a_stop_is_heard_between_large_files_and_nothing_of_them_is_sent_again(make_run, hub, monkeypatch):
    monkeypatch.setattr(publish, "LARGE", 1000)
    run = make_run()

    class Stopping(Progress):
        def step(self, done, under_way=0.0, stop=True, **facts):
            self.interrupted |= facts.get("file", "").endswith(".safetensors")
            super().step(done, under_way, stop, **facts)

    def sent():
        return [r[1] for r in hub.requests if r[0] == "PUT"]

    with pytest.raises(Stopped):
        publish.run(run, PublishConfig(), Stopping(run, "publish", []), token=TOKEN, endpoint=hub.url)
    model = f"alice/{publish.slug(run.meta()['title'], run.id)}"
    assert sent() and set(hub.files("model", model)) <= {".gitattributes"}, "sent, but not committed"
    before = len(sent())
    facts = go(run, hub)
    assert set(publish._files(run.publish_folder("model"))) <= set(hub.files("model", facts["model"]["repo"]))
    assert len(sent()) == before, "the Hub had the bytes already"


NOISY = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from lab.config import PublishConfig
from lab.progress import Progress
from lab.run import find_run
from lab.stages import publish

run = find_run(sys.argv[1])
publish.run(run, PublishConfig(), Progress(run, "publish", []), token=sys.stdin.read(), endpoint=sys.argv[2])
"""


@pytest.mark.parametrize("fault", ["", "commit"])
def test_no_token_in_the_loudest_log_nor_in_a_traceback_nor_anywhere_on_disk(make_run, hub, tmp_path, fault):
    run = make_run()
    if fault:
        hub.fail("POST", r"/commit/", status=403, times=-1)
    home = tmp_path / "home"
    env = os.environ | {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "HF_HOME": str(home / "hf"), "HOME": str(home)}
    env |= {"HF_HUB_OFFLINE": "0", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", NOISY, run.id, hub.url]
    done = subprocess.run(command, env=env, input=TOKEN, capture_output=True, text=True)
    assert (done.returncode != 0) == bool(fault), done.stderr[-2000:]
    assert len(done.stderr) > 1000, "the log is loud"
    assert TOKEN not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "POST", "path": r"/commit/", "status": 500, "times": 2},
        {"method": "POST", "path": r"/commit/", "status": 503},
        {"method": "POST", "path": r"/commit/", "status": 429, "headers": {"Retry-After": "3"}},
        {"method": "POST", "path": r"/commit/", "drop": "before"},
        {"method": "POST", "path": r"/commit/", "drop": "response"},
        {"method": "PUT", "path": r"/_lfs/", "drop": "body", "after": 500},
        {"method": "POST", "path": r"repos/create", "status": 503},
        {"method": "GET", "path": r"/resolve/", "drop": "download", "after": 100},
        {"method": "HEAD", "path": r"/resolve/", "status": 503, "times": 2},
        {"method": "HEAD", "path": r"/resolve/", "drop": "before"},
        {"method": "*", "path": r"whoami", "delay": 0.5},
    ],
    ids=lambda f: " ".join(str(v) for v in f.values()),
)
def test_a_passing_fault_still_ends_whole(make_run, hub, fault):
    run, fault = make_run(), dict(fault)
    hub.fail(fault.pop("method"), fault.pop("path"), **fault)
    facts = go(run, hub)
    for kind in ("dataset", "model"):
        assert set(publish._files(run.publish_folder(kind))) <= set(hub.files(kind, facts[kind]["repo"]))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 409, 412, 429, 500])
def test_a_lasting_fault_is_explained_and_can_be_gone_on_from(make_run, hub, status):
    run = make_run()
    hub.fail("POST", r"/commit/", status=status, times=-1)
    with pytest.raises(Problem, match=str(status)) as caught:
        go(run, hub)
    assert TOKEN not in caught.value.en + caught.value.ko and run.done("publish") is None
    hub.faults.clear()
    assert go(run, hub)["verdict"] == "ok"


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"status": 403}, {"status": 429, "headers": {"Retry-After": "2"}}, {"drop": "before"}],
    ids=lambda f: " ".join(map(str, f.values())),
)
def test_a_hub_that_goes_away_while_files_are_read_back_loses_nothing(make_run, hub, fault):
    """The upload is told to be whole, the next try goes on with the comparison and makes no second commit."""
    run = make_run()
    hub.fail("HEAD", r"/resolve/", times=-1, **fault)
    with pytest.raises(Problem, match="is whole at commit") as caught:
        go(run, hub)
    assert "Publish again" in caught.value.en and "올리기는 끝났습니다" in caught.value.ko
    assert TOKEN not in caught.value.en + caught.value.ko and run.done("publish") is None
    name = "alice/horangi-iyagi-data"
    before = len(hub.repo("dataset", name).commits)
    assert set(hub.files("dataset", name)) >= set(publish._files(run.publish_folder("dataset")))
    hub.faults.clear()
    facts = go(run, hub)
    assert len(hub.repo("dataset", name).commits) == before
    assert facts["dataset"]["commit"][:12] in caught.value.en and facts["model"]["commit"]


def test_rows_may_change_between_a_cut_read_back_and_the_next_try(make_run, hub):
    run = make_run()
    hub.fail("HEAD", r"/resolve/", times=-1, drop="before")
    with pytest.raises(Problem, match="is whole at commit"):
        go(run, hub)
    hub.faults.clear()
    append_rows(run.verdicts_file, [Verdict("id4", True).row()])
    facts = go(run, hub)
    there = hub.files("dataset", facts["dataset"]["repo"])
    assert there["data/train.parquet"] == (run.publish_folder("dataset") / "data/train.parquet").read_bytes()


def test_wrong_tokens_are_explained(make_run, hub):
    with pytest.raises(Problem, match="401"):
        go(make_run(), hub, token="hf_nobody")
    with pytest.raises(Problem, match="403"):
        go(make_run(), hub, token="hf_reader")


def test_somebody_elses_commits_are_never_overwritten(make_run, hub):
    from huggingface_hub import HfApi

    run = make_run()
    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo("alice/tales", repo_type="dataset", private=True)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="alice/tales", repo_type="dataset")
    with pytest.raises(Problem, match="did not make"):
        go(run, hub, dataset_repo="alice/tales")
    assert set(hub.files("dataset", "alice/tales")) >= {"notes.txt"}
    api.create_repo("alice/open", repo_type="dataset", private=False)
    with pytest.raises(Problem, match="public"):
        go(run, hub, dataset_repo="alice/open")


STOCK = """
import sys
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

data = load_dataset(sys.argv[1])
assert {k: v.num_rows for k, v in data.items()} == {"train": 3, "test": 1}, data
assert load_dataset(sys.argv[1], "rejected")["train"][0]["reasons"] == ["too_short"]
AutoModelForCausalLM.from_pretrained(sys.argv[2])
assert AutoTokenizer.from_pretrained(sys.argv[2]).chat_template
"""


@pytest.mark.slow
def test_the_stock_libraries_load_what_was_published(make_run, hub, tmp_path):
    facts = go(make_run(), hub)
    env = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-c", STOCK, facts["dataset"]["repo"], facts["model"]["repo"]]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


XET = """
import sys
from lab.config import PublishConfig
from lab.progress import Progress
from lab.run import find_run
from lab.stages import publish
from lab.stages.filter import set_manual

run = find_run(sys.argv[1])
publish.run(run, PublishConfig(), Progress(run, "publish", []), token=sys.stdin.read(), endpoint=sys.argv[2])
"""


@pytest.mark.slow
def test_the_xet_transport(make_run, tmp_path):
    run = make_run()
    with FakeHub(xet_dir=tmp_path / "cas") as hub:
        hub.add_user(TOKEN, "alice")
        env = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "0",
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-c", XET, run.id, hub.url]
        done = subprocess.run(command, env=env, input=TOKEN, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not [r for r in hub.requests if "/_lfs/" in r[1]], "the bytes went through Xet"
        name = "alice/horangi-iyagi"
        assert (
            hub.files("model", name)["model.safetensors"]
            == (run.publish_folder("model") / "model.safetensors").read_bytes()
        )


def test_offline_and_dry_run(make_run):
    run = make_run()
    progress = Progress(run, "publish", [])
    with pytest.raises(Problem, match="LAB_OFFLINE"):
        publish.run(run, PublishConfig(), progress, token=TOKEN, endpoint="https://huggingface.co")
    facts = publish.run(run, PublishConfig(dry_run=True), progress)
    assert facts["dataset"]["commit"] is None and json.dumps(facts)


def test_the_tab_draws_the_chain_and_a_blocked_teacher_switches_the_upload_off(make_run):
    from lab.ui import publish as tab

    drawn, why, button = tab.drawing(make_run(), "en")
    assert why == ""
    assert 'class="link made ok"' in drawn and "May the student be Apache-2.0? Yes." in drawn and button["interactive"]
    drawn, why, button = tab.drawing(make_run(teacher="api:gpt-4o"), "ko")
    assert "공개할 수 없음" in why and "OpenAI Terms of Use" in why, "clause and source stand above the button"
    assert 'class="link made blocked"' in drawn and "OpenAI Terms of Use" in drawn and not button["interactive"]
    assert "아니요" in drawn and "법률 자문이 아닙니다" in drawn
    drawn, why, _ = tab.drawing(make_run(teacher="somebody/unheard-of"), "en")
    assert why == ""
    assert "not verified" in drawn


def test_the_tab_lists_exactly_the_files_that_would_leave(make_run):
    from lab.ui import publish as tab

    run = make_run()
    assert tab.view(run, "ko")[0] != ""
    publish.prepare(run, PublishConfig(), "alice")
    empty, listed, card, yaml_front, *_ = tab.view(run, "ko")
    assert empty == "" and "# 호랑이 이야기" in card and "language:" in yaml_front["value"]
    for path in publish._files(run.publish_folder("dataset")):
        assert path in listed
    assert "This dataset was generated by" in listed


def test_upload_from_the_tab_is_private_first_and_leaves_no_token(make_run, hub, monkeypatch):
    from lab.ui import publish as tab

    run = make_run()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with pytest.raises(Exception, match="Make the cards first"):
        list(tab.upload(run.id, "en", TOKEN, ""))
    publish.run(run, PublishConfig(dry_run=True), Progress(run, "publish", []))
    append_rows(run.verdicts_file, [Verdict("id4", True).row()])
    with pytest.raises(Exception, match="Make the cards again"):
        list(tab.upload(run.id, "en", TOKEN, ""))
    publish.run(run, PublishConfig(dry_run=True), Progress(run, "publish", []))
    assert tab.namespaces(TOKEN)["choices"] == ["alice"]
    card = run.publish_folder("model") / "README.md"
    assert "your-name/" in card.read_text("utf-8")
    tab.name_cards(run.id, "alice")
    read = card.read_text("utf-8")
    assert "your-name" not in read and '"alice/' in read
    shown = list(tab.upload(run.id, "en", TOKEN, "alice"))[-1]
    done = run.done("publish")
    assert done["dataset"]["url"] in shown and "Only you can see it" in shown
    assert hub.repo("model", done["model"]["repo"]).private
    assert read_json(run.job_file)["state"] == "done"
    assert "Everybody can see it" in list(tab.make_public(run.id, "en", TOKEN))[-1]
    assert not hub.repo("model", done["model"]["repo"]).private
    for path in run.folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_the_tab_asks_for_an_account_and_on_a_space_never_takes_the_servers(make_run, hub, monkeypatch):
    from lab.ui import publish as tab

    run = make_run()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with pytest.raises(Exception, match="needs your Hugging Face account"):
        list(tab.upload(run.id, "en", "", ""))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert tab.local_token("") == TOKEN and tab.local_token(" hf_typed ") == "hf_typed"
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    assert tab.local_token("") == ""


def test_on_a_space_the_visitors_own_token_comes_by_sign_in(tmp_path):
    """Gradio reads the sign-in's settings when it is imported, so each case has a process of its own."""
    space = {"SPACE_ID": "somebody/space", "SYSTEM": "spaces", "SPACE_HOST": "somebody-space.hf.space"}
    oauth = {
        "OAUTH_CLIENT_ID": "id",
        "OAUTH_CLIENT_SECRET": "secret",
        "OAUTH_SCOPES": "openid profile contribute-repos",
    }
    oauth |= {"OPENID_PROVIDER_URL": "https://huggingface.co"}

    def expects_oauth(**env):
        command = [sys.executable, "-c", "import app; print(app.build().expects_oauth)"]
        return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True).stdout.strip()

    assert expects_oauth(**space, **oauth) == "True"
    assert expects_oauth() == "False", "elsewhere it would refuse to start"
