"""The licence chain: which teacher, student and data may become which licence."""

import json
from functools import partial

import pytest

from lab import licenses
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
    assert found["prefix"] == "Llama"
    assert licenses.chain("Qwen/Qwen2.5-3B-Instruct", QWEN)["card"]["license_name"] == "qwen-research"


def test_a_folder_is_traced_through_its_adapter_configuration(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2.5-3B"}))
    assert licenses.chain("mini:teacher", str(tmp_path))["licence"] == "other: qwen-research"
    (tmp_path / "adapter_config.json").unlink()
    assert licenses.chain("mini:teacher", str(tmp_path))["verdict"] == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# x\n")
    assert licenses.chain("mini:teacher", str(tmp_path))["licence"] == "cc-by-nc-4.0"


def test_every_family_has_a_source_and_both_languages():
    for row in licenses.families():
        assert row["source"] and row["seen"] and row["conditions"] and row["conditions_ko"]


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Reads cards of a loopback Hub; ``card.put(name, text)`` publishes one."""
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    licenses.hub_card.cache_clear()
    with FakeHub().start() as hub:
        hub.add_user("hf_x", "somebody").add_user("hf_q", "Qwen")

        def put(name, front):
            api = HfApi(endpoint=hub.url, token="hf_q" if name.startswith("Qwen") else "hf_x")
            api.create_repo(name, exist_ok=True)
            text = f"---\n{front}\n---\n# x\n".encode()
            return api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=name).oid

        read = partial(licenses.hub_card, endpoint=hub.url)
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
    licenses.hub_card.cache_clear()
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
