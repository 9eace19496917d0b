"""Models: tokens are drawn from the distribution that was asked for; batches, memory, GGUF files and 4-bit weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from lab import domain, fit, models
from lab.models import LocalModel, Sampling, open_model
from lab.problems import Problem
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tiny: str) -> LocalModel:
    opened = open_model(tiny)
    assert isinstance(opened, LocalModel)
    return opened


def shares(logits: list[float], sampling: Sampling, draws: int = 40_000) -> list[float]:
    """How often each token is drawn with evenly spread chances: exact to 1 / draws."""
    chances = (torch.arange(draws) + 0.5) / draws
    tokens = models._draw(torch.tensor(logits).expand(draws, -1), sampling, chances)
    return [float((tokens == i).float().mean()) for i in range(len(logits))]


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = [1.0, 2.0, -1.0, 0.5, float("-inf")]
    wanted = (torch.tensor(logits) / 0.7).softmax(-1).tolist()
    assert shares(logits, Sampling(0.7)) == pytest.approx(wanted, abs=1e-4)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    wanted = torch.tensor([2.0, 1.0, 0.0, -3.0]).softmax(-1)
    kept = wanted[:2] / wanted[:2].sum()  # 0.66 and 0.24 reach 0.85
    assert shares([2.0, 1.0, 0.0, -3.0], Sampling(1.0, 0.85)) == pytest.approx([*kept.tolist(), 0, 0], abs=1e-4)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0], ids=["flat", "mixed", "sharp"])
def test_top_p_draws_what_sorting_the_whole_vocabulary_draws(sharpness: float) -> None:
    """Nuclei of every size, rows that need more than the likeliest few, and equals as half precision makes them."""
    torch.manual_seed(0)
    logits = (torch.randn(200, 1000) * sharpness).to(torch.bfloat16).float()
    chances, sampling = torch.rand(200), Sampling(0.8, 0.9)
    best, index = (logits / 0.8).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sharpness < 4:
        assert ((best.cumsum(-1) < 0.9).sum(-1) > models.NUCLEI[-1]).any(), "some rows are sorted whole"
    best[best.cumsum(-1) - best >= 0.9] = 0
    summed = best.cumsum(-1)
    wanted = index.gather(-1, torch.searchsorted(summed, chances[:, None] * summed[:, -1:], right=True))[:, 0]
    drawn = models._draw(logits, sampling, chances)
    assert torch.equal(drawn, wanted)
    alone = torch.cat([models._draw(logits[i : i + 1], sampling, chances[i : i + 1]) for i in range(20)])
    assert torch.equal(alone, drawn[:20]), "whatever its neighbours"


def test_the_last_chance_never_draws_an_impossible_token() -> None:
    logits = torch.tensor([[0.3, 1.7, float("-inf"), float("-inf")]])
    token = models._draw(logits, Sampling(1.0), torch.tensor([1 - 2**-24]))
    assert token.item() == 1


def test_a_seed_draws_the_same_story_whatever_its_neighbours(model: LocalModel) -> None:
    asked = [p.instruction for p in domain.prompts(6, 1)]
    sampling = Sampling(0.9, 1.0, 16)
    together = dict(model.write(asked, sampling, range(6), 6))
    alone = {i: next(model.write([asked[i]], sampling, [i], 1))[1] for i in range(6)}
    assert {i: a.text for i, a in together.items()} == {i: a.text for i, a in alone.items()}


@pytest.mark.parametrize(("rows", "small", "used"), [(4, True, 1), (5, True, 2), (4, False, 2)])
def test_one_thread_computes_a_few_rows_of_a_small_model(
    model: LocalModel,
    monkeypatch: pytest.MonkeyPatch,
    threads: Callable[[int], None],
    rows: int,
    small: bool,
    used: int,
) -> None:
    """A second thread makes them no faster, and on a busy machine both would wait for one another."""
    seen: set[int] = set()
    monkeypatch.setattr(models, "SMALL", 50_000_000 if small else 0)
    threads(2)
    with model.model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads())):
        list(model.stream([[5, 6, 7]] * rows, Sampling(1.0, 1.0, 4), range(rows)))
    assert seen == {used} and torch.get_num_threads() == 2


def test_a_batch_tells_how_much_of_its_work_is_done_before_its_rows_are(model: LocalModel) -> None:
    told: list[tuple[int, float]] = []
    asked = [p.instruction for p in domain.prompts(6, 1)]
    list(model.write(asked, Sampling(0.9, 1.0, 40), range(6), 6, tick=lambda *at: told.append(at)))
    shares = [share for _, share in told]
    assert told[0] == (0, 0.0) and shares == sorted(shares) and 3 < shares[-1] <= 6


def test_work_under_way_is_stories_by_their_usual_length_and_steps() -> None:
    assert models._done_of([[1] * 10] * 4, 10, 100) == pytest.approx(4 * (10 / 50 + 10 / 100) / 2)
    looping = [[1] * 40, [1] * 10, [1] * 10]  # two have ended, the third is far beyond their length
    assert models._done_of(looping, 40, 100) == pytest.approx((3 + 3 * 40 / 100) / 2)
    assert models._done_of([[1] * 100, [1] * 10], 100, 100) == 2


class Cramped(LocalModel):
    """Memory for two rows and not one more; says so as CUDA or as the CPU's allocator does."""

    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")

    def stream(self, prompts, sampling, seeds):
        if len(prompts) > 2:
            raise self.error
        return super().stream(prompts, sampling, seeds)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate")])
def test_out_of_memory_halves_the_batch_and_says_so(model: LocalModel, error: RuntimeError) -> None:
    cramped = Cramped(model.spec, model.model, model.tokenizer, model.revision)
    cramped.error = error
    asked = [p.instruction for p in domain.prompts(9, 1)]
    notes: list[str] = []
    found = dict(cramped.write(asked, Sampling(0.0, 1.0, 8), [0] * 9, 8, lambda en, ko: notes.append(en)))
    plain = dict(model.write(asked, Sampling(0.0, 1.0, 8), [0] * 9, 8))
    assert {i: a.text for i, a in found.items()} == {i: a.text for i, a in plain.items()}
    assert notes == ["Out of memory: batch halved to 4.", "Out of memory: batch halved to 2."]


def test_another_fault_is_no_lack_of_memory(model: LocalModel) -> None:
    cramped = Cramped(model.spec, model.model, model.tokenizer, model.revision)
    cramped.error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(cramped.write(["토끼"] * 3, Sampling(0.0, 1.0, 4), [0] * 3, 3))


def test_a_model_that_fits_not_even_once_is_a_problem(model: LocalModel) -> None:
    class Full(Cramped):
        def stream(self, prompts, sampling, seeds):
            raise self.error

    full = Full(model.spec, model.model, model.tokenizer, model.revision)
    with pytest.raises(Problem, match="smaller model"):
        list(full.write(["토끼"] * 3, Sampling(0.0, 1.0, 4), [0] * 3, 3))


def test_the_probe_tries_growing_batches_and_keeps_to_memory(model: LocalModel, monkeypatch) -> None:
    steps = model.step_seconds("토끼 이야기", Sampling(max_new_tokens=32))
    assert [*steps][:2] == [1, 4] and all(s > 0 for s in steps.values()) and max(steps) <= models.MOST_ROWS
    monkeypatch.setattr(LocalModel, "default_batch", lambda self, tokens=0: 2)
    assert max(model.step_seconds("토끼 이야기", Sampling(max_new_tokens=32))) <= 2


def test_4_bit_weights_write_too_and_are_told_apart(tiny: str, model: LocalModel) -> None:
    pytest.importorskip("bitsandbytes")
    packed = open_model(tiny, four_bit=True)
    assert isinstance(packed, LocalModel)
    assert packed.parameters == model.parameters and packed.size_bytes < model.size_bytes
    assert packed.revision == f"{model.revision}-4bit"
    answers = list(packed.write(["토끼 이야기"] * 3, Sampling(0.8, 1.0, 8), [1, 2, 3], 3))
    assert len(answers) == 3


def gguf_of(model: LocalModel, path: Path) -> None:
    """The tiny model as a GGUF file, written by ggml's own library, as llama.cpp's converter would."""
    import gguf

    config, tokenizer = model.model.config, model.tokenizer
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.get)
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if t in special else 1 for t in tokens])
    import json

    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.layers.": "blk.",
    }
    for name, tensor in model.model.state_dict().items():
        if name == "lm_head.weight":
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_writes_the_same_stories(model: LocalModel, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    gguf_of(model, path)
    opened = open_model(str(path))
    assert isinstance(opened, LocalModel)
    asked = [p.instruction for p in domain.prompts(3, 2)]
    greedy = Sampling(0.0, 1.0, 12)
    assert opened.chat_ids(asked[0]) == model.chat_ids(asked[0])
    theirs, ours = (dict(m.write(asked, greedy, [0] * 3, 3)) for m in (opened, model))
    assert {i: a.text for i, a in theirs.items()} == {i: a.text for i, a in ours.items()}
    assert len(opened.revision) == 12 and opened.revision != model.revision


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"none\.gguf"):
        open_model(str(tmp_path / "none.gguf"))


@pytest.mark.parametrize("spec", ["/nowhere/model", "./model", "models/teacher/best"])
def test_a_path_that_is_not_there_is_said_to_be_a_path(spec: str) -> None:
    with pytest.raises(Problem, match=rf"There is no file or folder {spec}\."):
        open_model(spec)


def test_precision_follows_the_device() -> None:
    cuda = torch.device("cuda")
    assert models.pick_dtype(cuda, (7, 5)) == torch.float16  # a T4 only emulates bf16
    assert models.pick_dtype(cuda, (8, 0)) == models.pick_dtype(cuda, (9, 0)) == torch.bfloat16
    assert models.pick_dtype(torch.device("cpu")) == torch.float32


def spoil(folder: Path, what: str) -> None:
    """Make a folder with a model one that does not open."""
    weights, settings = folder / "model.safetensors", folder / "config.json"
    config = json.loads(settings.read_text("utf-8"))
    if what == "no model":
        settings.unlink()
    elif what == "broken settings":
        settings.write_text("{broken", "utf-8")
    elif what == "no weights":
        weights.unlink()
    elif what == "pickled weights":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
    elif what == "torn weights":
        weights.write_bytes(weights.read_bytes()[:500])
    elif what == "code of its own":
        remote = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
        settings.write_text(json.dumps(config | {"model_type": "its-own", "auto_map": remote}), "utf-8")
        (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n", "utf-8")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("no model", "holds no config.json"),
        ("broken settings", "not a valid JSON"),
        ("no weights", "no safetensors weights"),
        ("pickled weights", "no safetensors weights"),
        ("torn weights", "is broken"),
        ("code of its own", "never executed"),
    ],
)
def test_a_model_that_does_not_open_says_why_in_both_languages(tmp_path: Path, what: str, why: str) -> None:
    """And nothing of it is run: with a terminal, transformers would ask whether it may."""
    spec = tiny_model(tmp_path / "m")
    spoil(tmp_path / "m", what)
    with pytest.raises(Problem) as told:
        open_model(spec)
    assert why in told.value.en and spec in told.value.en
    assert re.search("[가-힣]", told.value.ko) and not (tmp_path / "m" / "ran").exists()


@pytest.mark.parametrize(("offline", "why"), [("1", "LAB_OFFLINE=1"), ("0", "does not answer")])
def test_without_a_network_a_hub_model_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, offline, why) -> None:
    """The client itself would try each of its files for half a minute."""
    monkeypatch.setenv("LAB_OFFLINE", offline)
    monkeypatch.setattr(models.hub, "_answers", lambda endpoint, minute: False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s to try again"))
    for look in (open_model, fit.look_up):
        with pytest.raises(Problem, match=why):
            look("somebody/tales")


def test_the_clients_own_offline_mode_is_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def forbidden() -> None:
        raise OfflineModeIsEnabled("offline mode is enabled")

    monkeypatch.setattr("huggingface_hub.utils.get_session", forbidden)
    models.hub._answers.cache_clear()
    with pytest.raises(Problem, match="HF_HUB_OFFLINE=1 forbids"):
        open_model("somebody/tales")
    models.hub._answers.cache_clear()


def test_a_hub_that_knows_no_such_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = OSError("somebody/tales is not a local folder")
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/somebody/tales"))
    error.__cause__ = RepositoryNotFoundError("404", response=response)
    assert "no such model" in models.cannot_open("somebody/tales", "somebody/tales", error).en
    error.__cause__ = GatedRepoError("403", response=response)
    assert "consent" in models.cannot_open("somebody/tales", "somebody/tales", error).en
