"""Builds the mini pair: a small teacher and a smaller student base, trained from scratch on our templates.

    python -m lab.mini tokenizer
    python -m lab.mini teacher
    python -m lab.mini student

The teacher learns from clean stories. The student base learns from noisier text of the same kind: part of its
stories answer another request, loop, break off or mix up their words. It therefore knows the chat format and
the language, and distillation has something real to teach it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from lab import domain

MINI = domain.DATA / "mini"
VOCABULARY = 4096
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen's own pattern: AutoTokenizer rebuilds a Qwen2Tokenizer with it whatever the folder says, so the
# vocabulary is learned under exactly these cuts.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Recipe:
    """Shape and schedule of one of the two models."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    tokens_per_batch: int
    phases: tuple[tuple[int, float, float], ...]
    """(steps, share of copying exercises, Muon learning rate) one after another, each with its own cosine."""
    adam_lr: float
    noise: float
    """Share of training stories that are spoilt on purpose."""
    seed: int


RECIPES = {
    "teacher": Recipe(320, 6, 5, 1024, 4096, ((1500, 0.0, 0.02), (130, 0.8, 0.02)), 3e-3, 0.0, 1),
    "student": Recipe(160, 4, 4, 448, 4096, ((250, 0.1, 0.02),), 4e-3, 0.6, 2),
}
TEMPLATES_HELD_OUT = 40


@cache
def _template_split() -> tuple[tuple[dict, ...], tuple[dict, ...]]:
    """(training templates, held-out templates): the latter show generalisation to plots never seen."""
    shuffled = list(domain.templates())
    random.Random(0).shuffle(shuffled)
    return tuple(shuffled[TEMPLATES_HELD_OUT:]), tuple(shuffled[:TEMPLATES_HELD_OUT])


@cache
def _kinds() -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(c.split()[:-1]) for c in domain.characters() if " " in c))


@cache
def _name_syllables() -> tuple[str, ...]:
    """Syllables of the names and nouns; random names are made from them so that copying is learned as copying."""
    text = "".join(domain.short_name(c) for c in domain.characters()) + "".join(sum(domain.words().values(), ()))
    return tuple(sorted({ch for ch in text if "가" <= ch <= "힣"}))


def _random_character(rng: random.Random) -> str:
    if rng.random() < 0.35:
        return rng.choice(domain.characters())
    syllables = _name_syllables()
    name = "".join(rng.choice(syllables) for _ in range(rng.choice((1, 2, 2, 2, 3))))
    if rng.random() < 0.15:
        name = name[0] * 2
    if domain.has_final_consonant(name) and rng.random() < 0.4:
        name += "이"
    return f"{rng.choice(_kinds())} {name}"


@cache
def _all_words() -> tuple[str, ...]:
    from_templates = (w for t in domain.templates() for w in (*t["k1"], *t["k2"]))
    return tuple(dict.fromkeys([*sum(domain.words().values(), ()), *from_templates]))


@cache
def _kin(words: tuple[str, ...]) -> tuple[str, ...]:
    """The category of words.json that shares most with a template's own list, if two or more."""
    best = max(domain.words().values(), key=lambda category: len(set(category) & set(words)))
    return best if len(set(best) & set(words)) >= 2 else words


def _keyword(own: list[str], rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.60:
        return rng.choice(own)
    if chance < 0.82:
        return rng.choice(_kin(tuple(own)))
    return rng.choice(_all_words())


def example(templates: tuple[dict, ...], rng: random.Random) -> dict:
    """One clean training example of a group that belongs to the training split.

    Returns instruction, output, character, keywords.
    """
    template = rng.choice(templates)
    while True:
        character, friend = _random_character(rng), _random_character(rng)
        pair = (_keyword(template["k1"], rng), _keyword(template["k2"], rng))
        if pair[0] != pair[1] and domain.split_of(character, pair) == "train":
            break
    slots = {
        "A": character,
        "a": domain.short_name(character),
        "B": friend,
        "b": domain.short_name(friend),
        "k1": pair[0],
        "k2": pair[1],
    }
    output = domain.fill(template["text"], slots)
    phrasing = rng.choice(domain.phrasings())
    lists = domain.choices()
    slots["place"] = template["place"] if rng.random() < 0.5 else rng.choice(lists["place"])
    slots["moral"] = template["theme"] if rng.random() < 0.5 else rng.choice(lists["moral"])
    slots["tone"] = rng.choice(lists["tone"])
    if "opening" in phrasing["uses"]:
        slots["opening"], output = _opened(template["text"], output, rng)
    if rng.random() < 0.3:
        slots["k1"], slots["k2"] = slots["k2"], slots["k1"]
    return {
        "instruction": domain.fill(phrasing["text"], slots),
        "output": output,
        "character": character,
        "keywords": list(pair),
    }


def _opened(text: str, story: str, rng: random.Random) -> tuple[str, str]:
    """(opening, story that begins with it): the story's own first words, or a whole sentence put before it."""
    own = re.match(r"(?:[^\s{}\"]+ ){2,4}", text)
    if own and rng.random() < 0.5:
        return own[0].rstrip(" ,"), story
    sentence = rng.choice([o for o in domain.choices()["opening"] if o[-1] in ".!?"])
    return sentence, f"{sentence} {story}"


def spoil(row: dict, templates: tuple[dict, ...], rng: random.Random) -> dict:
    """The same request with an answer as a weak model gives it: another story, a loop, a break, mixed words."""
    sentences = re.split(r"(?<=[.!?])\s+", row["output"])
    kind = rng.choice(("other", "other", "other", "loop", "cut", "mixed", "shuffled"))
    if kind == "other":
        output = example(templates, rng)["output"]
    elif kind == "loop":
        at = rng.randrange(len(sentences))
        output = " ".join(sentences[:at] + [sentences[at]] * rng.randint(3, 8) + sentences[at + 1 : at + 3])
    elif kind == "cut":
        output = row["output"][: rng.randint(60, max(61, len(row["output"]) - 20))]
    elif kind == "mixed":
        pool = _all_words()
        output = " ".join(rng.choice(pool) if rng.random() < 0.15 else w for w in row["output"].split(" "))
    else:
        rng.shuffle(sentences)
        output = " ".join(sentences)
    return row | {"output": output}


def build_tokenizer() -> None:
    """Learn a byte-level BPE of Korean story text in which names, words and their particles stay apart."""
    pieces: list[str] = []
    for template in domain.templates():
        pieces += [p for p in re.split(r"\{[^{}]*\}", template["text"]) if p]
    pieces += [p for x in domain.phrasings() for p in re.split(r"\{[^{}]*\}", x["text"]) if p] * 3
    pieces += [f" {w}" for w in _all_words()] * 20
    pieces += [x for values in domain.choices().values() for x in values] * 2
    pieces += [f" {k}" for k in _kinds()] * 3
    pieces += ["".join(f" {s}" for s in _name_syllables())] * 30
    pieces += list(_name_syllables()) * 30
    pieces += [
        "은",
        "는",
        "이",
        "가",
        "을",
        "를",
        "과",
        "와",
        "으로",
        "로",
        "이랑",
        "랑",
        "아",
        "야",
        "에게",
        "도",
    ] * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    tokenizer.train_from_iterator(
        pieces,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    model = json.loads(tokenizer.to_str())["model"]
    wrapped = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(m) for m in model["merges"]],
        unk_token=None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=1024,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    for name in RECIPES:
        wrapped.save_pretrained(MINI / name)
    print(f"tokenizer: {len(wrapped)} entries")


def _encode(rows: list[dict], tokenizer: Qwen2Tokenizer) -> list[tuple[list[int], int]]:
    """(ids, where the answer begins) of each row in the chat format; one in ten is a story without a request."""
    encoded = []
    for row in rows:
        prompt = "" if row.get("bare") else f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n"
        before = tokenizer(prompt).input_ids
        encoded.append((before + tokenizer(row["output"] + "<|im_end|>").input_ids, len(before)))
    return encoded


def _batches(
    recipe: Recipe, tokenizer: Qwen2Tokenizer, templates: tuple[dict, ...], seed: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches (input ids, attention mask, labels), cut to similar length; labels only on answers."""
    rng = random.Random(seed)
    while True:
        rows = []
        for _ in range(128):
            row = example(templates, rng)
            if rng.random() < recipe.noise:
                row = spoil(row, templates, rng)
            row["bare"] = rng.random() < 0.1
            rows.append(row)
        encoded = sorted(_encode(rows, tokenizer), key=lambda x: len(x[0]))
        groups, group = [], []
        for item in encoded:
            if group and (len(group) + 1) * len(item[0]) > recipe.tokens_per_batch:
                groups.append(group)
                group = []
            group.append(item)
        groups.append(group)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            labels = torch.full((len(group), width), -100)
            for i, (row, start) in enumerate(group):
                ids[i, : len(row)] = torch.tensor(row)
                labels[i, max(start, 1) : len(row)] = torch.tensor(row[max(start, 1) :])
            yield ids, labels


def _loss(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the answer tokens; right padding needs no mask under causal attention."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    kept = target != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]).float(), target[kept])


def _copying(rng: random.Random, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of random token strings that stand twice; only the second time is learned.

    Stories alone never taught the models to copy: 1,500 steps memorised every plot and still named the asked
    character in 5 of 100 stories. These strings can be foretold in no other way.
    """
    length = rng.choice((8, 12, 16, 24, 32, 40))
    generator = torch.Generator().manual_seed(rng.getrandbits(48))
    half = torch.randint(3, VOCABULARY, (tokens // (2 * length), length), generator=generator)
    ids = torch.cat([half, half], dim=1)
    labels = ids.clone()
    labels[:, : length + 1] = -100
    return ids, labels


def train(name: str, phase: int) -> None:
    """Train ``teacher`` or ``student`` from ``phase`` (0 is from scratch) on; print time, loss, held-out loss; save.

    Hidden matrices are trained by Muon, the rest by AdamW; each phase has a short warm-up and a cosine to a tenth.
    """
    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    tokenizer = Qwen2Tokenizer.from_pretrained(MINI / name)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    model = Qwen2ForCausalLM.from_pretrained(MINI / name, dtype=torch.float32) if phase else Qwen2ForCausalLM(config)
    known, held_out = _template_split()
    batches = _batches(recipe, tokenizer, known, f"{name}-{recipe.seed}-{phase}")
    clean = replace(recipe, noise=0.0)
    checks = {
        "known": next(_batches(clean, tokenizer, known, "check-known")),
        "held-out": next(_batches(clean, tokenizer, held_out, "check-held-out")),
        "copying": _copying(random.Random(0), 2048),
    }
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    for number, (steps, copy_share, muon_lr) in enumerate(recipe.phases[phase:], phase):
        _train_phase(model, name, recipe, steps, copy_share, muon_lr, batches, checks, number)
        save(model, name)


def _train_phase(
    model: Qwen2ForCausalLM,
    name: str,
    recipe: Recipe,
    steps: int,
    copy_share: float,
    muon_lr: float,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    checks: dict[str, tuple[torch.Tensor, torch.Tensor]],
    number: int,
) -> None:
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=0.0, ns_steps=4),
        torch.optim.AdamW(rest, lr=recipe.adam_lr * muon_lr / 0.02, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def schedule(step: int) -> float:
        return min(1.0, (step + 1) / 40) * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / steps)))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
    rng = random.Random(f"copying-{name}-{number}")
    started, seen, running = time.time(), 0, None
    model.train()
    for step in range(steps):
        copying = rng.random() < copy_share
        ids, labels = _copying(rng, recipe.tokens_per_batch // 2) if copying else next(batches)
        loss = _loss(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        seen += ids.numel()
        if not copying:
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            with torch.no_grad():
                report = {k: _loss(model, *batch).item() for k, batch in checks.items()}
            spent = time.time() - started
            print(
                f"phase {number} step {step + 1}/{steps} {spent:.0f} s {seen / spent:,.0f} tokens/s "
                f"loss {running or math.nan:.3f} " + " ".join(f"{k} {v:.3f}" for k, v in report.items()),
                flush=True,
            )


def save(model: Qwen2ForCausalLM, name: str) -> None:
    """Write the weights as bf16 shards under 10 MB, beside the tokenizer that is already there."""
    folder = MINI / name
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    copy = Qwen2ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config.eos_token_id = model.config.eos_token_id
    copy.generation_config.pad_token_id = model.config.pad_token_id
    copy.save_pretrained(folder, max_shard_size="9MB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.mini", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["tokenizer", "teacher", "student"])
    parser.add_argument("--phase", type=int, default=0, help="go on with this phase from the saved weights")
    arguments = parser.parse_args()
    what = arguments.what
    MINI.mkdir(parents=True, exist_ok=True)
    if what == "tokenizer":
        for name in RECIPES:
            shutil.rmtree(MINI / name, ignore_errors=True)
        build_tokenizer()
    else:
        train(what, arguments.phase)


if __name__ == "__main__":
    main()
