"""The licence chain: which teacher, student and data may become which licence."""

import json
import re
from functools import partial

import pytest

from lab import domain, hub, licenses
from lab.records import Pair, append_rows, write_json
from lab.run import new_run
from tests.fakehub import FakeHub

QWEN = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize(
    ("teacher", "student", "data", "verdict", "licence"),
    [
        ("mini:teacher", "mini:student", (), "ok", "apache-2.0"),
        ("mini:teacher@9b8fadc7e264", "mini:student", (), "ok", "apache-2.0"),
        ("Qwen/Qwen2.5-1.5B-Instruct", QWEN, (), "ok", "apache-2.0"),
        ("Qwen/Qwen2.5-1.5B-Instruct@0123abc", QWEN, (), "ok", "apache-2.0"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "scratch:30m", (), "ok", "apache-2.0"),
        ("api:gpt-oss-20b", QWEN, (), "ok", "apache-2.0"),
        ("Qwen/Qwen2.5-3B-Instruct", QWEN, (), "conditional", "other: qwen-research"),
        ("Qwen/Qwen2.5-72B-Instruct", QWEN, (), "conditional", "other: qwen"),
        ("Qwen/Qwen1.5-7B-Chat", QWEN, (), "conditional", "other: tongyi-qianwen"),
        ("Qwen/Qwen1.5-7B-Chat", "mini:student", (), "blocked", None),
        ("meta-llama/Meta-Llama-3-8B-Instruct", QWEN, (), "blocked", None),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-8B", (), "conditional", "llama3"),
        ("meta-llama/Llama-3.1-8B-Instruct", QWEN, (), "conditional", "llama3.1"),
        ("google/gemma-2-9b-it", QWEN, (), "conditional", "gemma"),
        ("api:gpt-4o", QWEN, (), "blocked", None),
        ("openai/gpt-4o-mini", "mini:student", (), "blocked", None),
        ("api:claude-sonnet-4", QWEN, (), "blocked", None),
        ("api:gemini-2.5-pro", QWEN, (), "blocked", None),
        ("LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct", QWEN, (), "blocked", None),
        ("somebody/unheard-of", QWEN, (), "unknown", None),
        ("mini:teacher", "somebody/unheard-of", (), "unknown", None),
        ("mini:teacher", "mini:student", ("cc-by-nc-4.0",), "conditional", "cc-by-nc-4.0"),
        ("mini:teacher", "mini:student", ("cc-by-sa-4.0",), "conditional", "cc-by-sa-4.0"),
        ("mini:teacher", "mini:student", ("cc-by-sa-4.0", "cc-by-nc-4.0"), "blocked", None),
        ("mini:teacher", "mini:student", ("cc-by-nc-sa-4.0", "cc-by-nc-4.0"), "conditional", "cc-by-nc-sa-4.0"),
        ("meta-llama/Llama-3.1-8B", "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B", (), "blocked", None),
        ("meta-llama/Llama-3.1-8B", QWEN, ("cc-by-sa-4.0",), "blocked", None),
        ("", "mini:student", ("cc0-1.0",), "ok", "apache-2.0"),
        ("", "mini:student", ("cc-by-4.0",), "conditional", "cc-by-4.0"),
        ("", "mini:student", (), "unknown", None),
        ("", "mini:student", ("aihub",), "blocked", None),
        # A router's or a cloud's name before the model's changes no provider.
        ("api:ft:gpt-4o-mini:me::1", QWEN, (), "blocked", None),
        ("api:azure/gpt-4o", QWEN, (), "blocked", None),
        ("api:us.anthropic.claude-3-5-sonnet", QWEN, (), "blocked", None),
        ("api:models/gemini-2.5-pro", QWEN, (), "blocked", None),
        ("api:EleutherAI/gpt-neo-1.3B", QWEN, (), "unknown", None),
        ("api:mistral-large-latest", QWEN, (), "unknown", None),
        ("api:deepseek-chat", QWEN, (), "ok", "apache-2.0"),
        # Open weights under the names that servers give them.
        ("api:llama3.1:8b", QWEN, (), "conditional", "llama3.1"),
        ("api:meta.llama3-3-70b-instruct-v1:0", QWEN, (), "conditional", "llama3.3"),
        ("api:llama3:8b", QWEN, (), "blocked", None),
        ("api:gemma2:9b", QWEN, (), "conditional", "gemma"),
        ("api:gemma4:e2b", QWEN, (), "ok", "apache-2.0"),
        ("api:qwen/qwen3-max", QWEN, (), "unknown", None),
        # Names that only look like a family's.
        ("LGAI-EXAONE/K-EXAONE-236B-A23B", QWEN, (), "unknown", None),
        ("google/medgemma-27b-it", QWEN, (), "unknown", None),
        ("skt/A.X-4.0", QWEN, (), "unknown", None),
        ("skt/A.X-4.0-Light", QWEN, (), "ok", "apache-2.0"),
        (
            "nvidia/Llama-3.1-Nemotron-Nano-8B-v1",
            QWEN,
            (),
            "conditional",
            "other: llama3.1-and-nvidia-open-model-license",
        ),
        # Terms of the weights bind what is made of them, not what is made of the outputs.
        ("moonshotai/Kimi-K2-Instruct", QWEN, (), "ok", "apache-2.0"),
        ("mini:teacher", "moonshotai/Kimi-K2-Instruct", (), "conditional", "other: modified-mit"),
        # Licences as people write them, and rows that a model wrote before they were brought along.
        ("", "mini:student", ("CC BY-NC 4.0",), "conditional", "cc-by-nc-4.0"),
        ("", "mini:student", ("공공누리 제1유형",), "conditional", "cc-by-4.0"),
        ("", "mini:student", ("GPL-3.0",), "conditional", "gpl-3.0"),
        ("", "mini:student", ("llama3.1",), "conditional", "llama3.1"),
        ("", "mini:student", ("qwen-research",), "conditional", "other: qwen-research"),
        ("", "mini:student", ("openai",), "blocked", None),
    ],
)
def test_verdict(teacher, student, data, verdict, licence):
    found = licenses.chain(teacher, student, data)
    assert (found["verdict"], found["licence"]) == (verdict, licence), found["conditions"]


def test_openai_teacher_is_answered_with_no_clause_and_source():
    found = licenses.chain("api:gpt-4o", QWEN)
    assert "No." in found["answer"]["en"] and "아니요" in found["answer"]["ko"]
    assert "compete with OpenAI" in found["answer"]["en"] and "OpenAI Terms of Use" in found["answer"]["en"]
    assert found["dataset"]["verdict"] == "blocked"


def test_explain_prints_the_chain_in_both_languages():
    found = licenses.chain("google/gemma-2-9b-it", QWEN)
    assert json.dumps(found)
    for language in ("en", "ko"):
        text = licenses.explain(found, language)
        assert "ai.google.dev/gemma/terms" in text and licenses.NOT_ADVICE[language] in text


def test_duties_are_named():
    found = licenses.chain("meta-llama/Llama-3.1-8B-Instruct", QWEN)
    text = " ".join(found["must_state"])
    assert "Built with Llama" in text and "begins with 'Llama'" in text and "Copyright © Meta" in text
    korean = " ".join(found["must_state_ko"])
    assert "이름은 'Llama'(으)로 시작" in korean and f"바탕 학생 밝히기: {QWEN}" in korean
    assert len(found["must_state_ko"]) == len(found["must_state"])
    assert found["prefix"] == "Llama"
    assert licenses.chain("Qwen/Qwen2.5-3B-Instruct", QWEN)["card"]["license_name"] == "qwen-research"


def test_a_folder_is_traced_through_its_adapter_configuration(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2.5-3B"}))
    assert licenses.chain("mini:teacher", str(tmp_path))["licence"] == "other: qwen-research"
    (tmp_path / "adapter_config.json").unlink()
    assert licenses.chain("mini:teacher", str(tmp_path))["verdict"] == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# x\n")
    assert licenses.chain("mini:teacher", str(tmp_path))["licence"] == "cc-by-nc-4.0"


def test_a_base_without_derivatives_is_blocked(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\n---\n# x\n")
    found = licenses.chain("mini:teacher", str(tmp_path))
    assert (found["verdict"], found["licence"]) == ("blocked", None)


def test_a_folder_that_names_a_licence_of_its_own_is_bound_by_it(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n# x\n")
    assert licenses.chain("mini:teacher", str(tmp_path))["licence"] == "other: qwen-research"


def test_folders_that_name_each_other_end_as_unknown(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(tmp_path / other)})
        )
    assert licenses.chain("mini:teacher", str(tmp_path / "a"))["verdict"] == "unknown"


def test_the_longest_prefix_holds_and_clashing_ones_do_not():
    found = licenses.chain("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-8B")
    assert found["prefix"] == "Llama 3"
    assert licenses.chain("naver-hyperclovax/HyperCLOVAX-SEED-Think-14B", QWEN)["prefix"] == "HyperCLOVA X"
    two = licenses.chain("meta-llama/Llama-3.1-8B", "upstage/Solar-Open-100B")
    assert two["verdict"] == "blocked" and "One name cannot begin with all of" in " ".join(two["conditions"])


def test_a_dataset_is_not_asked_for_a_models_name():
    found = licenses.chain("meta-llama/Llama-3.1-8B-Instruct", QWEN)
    assert "a model trained on this dataset has a name that begins with 'Llama'" in found["dataset"]["must_state"]
    assert "the name begins with 'Llama'" in found["model"]["must_state"]


def test_a_trained_arm_inherits_base_teacher_and_the_licence_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))

    def arm(teacher, licence=""):
        run = new_run("mini", "t")
        append_rows(run.pairs_file, [Pair("a", "i", "o", "c", (), teacher).row()])
        write_json(run.stage_folder("train", "distilled") / "config.json", {"student": QWEN})
        write_json(run.stage_folder("publish") / "config.json", {"data_licence": licence})
        return f"run:{run.id}/distilled"

    assert licenses.chain("mini:teacher", arm("meta-llama/Llama-3.1-8B"))["licence"] == "llama3.1"
    assert licenses.chain(arm("api:gpt-4o"), QWEN)["verdict"] == "blocked"
    assert licenses.chain("mini:teacher", arm("meta-llama/Meta-Llama-3-8B-Instruct"))["verdict"] == "blocked"
    assert licenses.chain(arm(""), QWEN)["verdict"] == "unknown"
    assert licenses.chain(arm("", "cc-by-nc-4.0"), QWEN)["licence"] == "cc-by-nc-4.0"


def test_the_terms_of_the_judge_that_chose_the_rows_bind_as_a_teachers_do():
    """Its scores are outputs that select what a model learns from, and they stand in the dataset."""
    found = licenses.chain("mini:teacher", QWEN, judge="api:gpt-4o")
    assert found["dataset"]["verdict"] == "blocked" and "mini or none" in found["conditions"][0]
    assert [row["who"] for row in found["chain"] if row["what"] == "judge"] == ["api:gpt-4o"]
    assert licenses.chain("mini:teacher", QWEN, judge="meta-llama/Llama-3.1-8B-Instruct")["prefix"] == "Llama"
    free = licenses.chain("mini:teacher", QWEN, judge="Qwen/Qwen2.5-1.5B-Instruct")
    assert (free["verdict"], free["licence"]) == ("ok", "apache-2.0")
    assert "judge: Qwen/Qwen2.5-1.5B-Instruct" in free["must_state"]
    for own in ("mini", "none", "mini:teacher"):
        assert not [row for row in licenses.chain("mini:teacher", QWEN, judge=own)["chain"] if row["what"] == "judge"]


def test_a_run_is_bound_by_the_judge_of_its_filter(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    run = new_run("mini", "t")
    write_json(run.stage_folder("filter") / "config.json", {"judge": "api:gpt-4o"})
    assert licenses.run_chain(run, run.config("train"), "")["verdict"] == "blocked"


def test_stated_licences_may_bring_their_links():
    said = licenses.stated("house-rules https://example.org/terms, cc0-1.0,")
    assert said == (("house-rules", "https://example.org/terms"), ("cc0-1.0", ""))


def test_every_text_that_a_licence_asks_for_is_named():
    found = licenses.chain("meta-llama/Llama-3.1-8B-Instruct", QWEN)
    assert found["dataset"]["texts"] == ["llama3.1"] and found["model"]["texts"] == ["llama3.1", "apache-2.0"]


@pytest.mark.parametrize("said", ["GPL 3.0", "gpl-2.0", "AGPL_3.0", "LGPL-2.1", "ODbL", "CC BY-SA 4.0"])
def test_a_licence_of_rows_is_spelt_as_the_hub_does_and_its_text_goes_along(said):
    found = licenses.chain("", "mini:student", (said,))["dataset"]
    assert found["card"]["license"] == found["licence"] == said.lower().replace(" ", "-").replace("_", "-")
    assert all((domain.DATA / "licences" / f"{name}.txt").exists() for name in found["texts"])


def test_sources_name_what_a_reader_can_look_up():
    """A row number of somebody's index is no source."""
    for row in licenses.families():
        assert not re.search(r"\bids?\b \d|\d{9,}|find_string|stored copy", row["source"] + row["conditions"]), row[
            "family"
        ]


def test_every_family_has_a_source_and_both_languages():
    for row in licenses.families():
        assert row["source"] and row["seen"] and row["conditions"] and row["conditions_ko"]


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Reads cards of a loopback Hub; ``card.put(name, text)`` publishes one."""
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub._file.cache_clear()
    with FakeHub() as fake:
        fake.add_user("hf_x", "somebody").add_user("hf_q", "Qwen")

        def put(name, front):
            api = HfApi(endpoint=fake.url, token="hf_q" if name.startswith("Qwen") else "hf_x")
            api.create_repo(name, exist_ok=True)
            text = f"---\n{front}\n---\n# x\n".encode()
            return api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=name).oid

        read = partial(licenses.hub_card, endpoint=fake.url)
        read.put = put
        yield read


def test_a_card_makes_an_unknown_model_known_at_its_revision(card):
    old = card.put("somebody/tales", "license: cc-by-nc-4.0")
    card.put("somebody/tales", "license: apache-2.0")
    assert licenses.chain("somebody/tales", "mini:student")["verdict"] == "unknown"
    found = licenses.chain("somebody/tales", "mini:student", card=card)
    assert (found["verdict"], found["licence"]) == ("ok", "apache-2.0")
    pinned = licenses.chain(f"somebody/tales@{old}", "mini:student", card=card)
    assert pinned["licence"] == "cc-by-nc-4.0" and old[:12] in pinned["chain"][0]["source"]


def test_a_card_that_differs_from_the_table_binds_too(card):
    card.put(QWEN, "license: apache-2.0")
    assert licenses.chain("mini:teacher", QWEN, card=card)["verdict"] == "ok"
    hub._file.cache_clear()
    card.put(QWEN, "license: cc-by-nc-4.0")
    found = licenses.chain("mini:teacher", QWEN, card=card)
    assert found["licence"] == "cc-by-nc-4.0" and found["verdict"] == "conditional"


def test_a_fine_tune_is_traced_to_its_base_and_own_terms_stay_unknown(card):
    card.put("somebody/tuned", "license: apache-2.0\nbase_model: meta-llama/Llama-3.1-8B")
    assert licenses.chain("somebody/tuned", QWEN, card=card)["licence"] == "llama3.1"
    card.put("somebody/own", "license: other\nlicense_name: house-rules\nlicense_link: https://example.org/x")
    found = licenses.chain("somebody/own", QWEN, card=card)
    assert found["verdict"] == "unknown" and "house-rules" in found["chain"][0]["terms"]


def test_without_a_card_the_table_stands(card):
    assert card("somebody/nothing") is None
    assert licenses.chain("Qwen/Qwen2.5-1.5B-Instruct", QWEN, card=card)["verdict"] == "ok"
    assert licenses.hub_card("Qwen/Qwen2.5-1.5B-Instruct") is None, "LAB_OFFLINE asks nobody"


def test_a_hub_that_does_not_answer_is_asked_once_and_not_waited_for(monkeypatch):
    def wait(seconds):
        raise AssertionError(f"waited {seconds} s to try again")

    monkeypatch.setattr("time.sleep", wait)
    assert licenses.hub_card("Qwen/Qwen2.5-1.5B-Instruct", endpoint="http://127.0.0.1:1") is None


def test_a_card_is_read_once_the_hub_answers_again(card, monkeypatch):
    card.put("somebody/tales", "license: apache-2.0")
    with monkeypatch.context() as away:
        away.setattr(hub, "_answers", lambda endpoint, minute: False)
        assert card("somebody/tales") is None
    monkeypatch.setattr(hub, "_minute", lambda: -1)
    assert card("somebody/tales")["license"] == "apache-2.0"
