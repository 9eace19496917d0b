"""Builds the mini pair: a small teacher and a smaller student base, trained from scratch on our templates.

    python -m lab.mini tokenizer
    python -m lab.mini teacher
    python -m lab.mini student

Both learn whole tales first. Then three in ten of the teacher's lessons are spoilt as a weak teacher's answers are
(loops, breaks, chatter, refusals, English or Chinese in between), so that there is something to filter, and eight in ten
of the student's, most of them by another request's tale, so that distillation has something real to teach it. Meant for
a GPU, where it takes minutes; the last phases of small batches were run on a CPU.

Stories alone teach a model this small plots by heart and no name: what makes it tell about the asked character is
(1) a tokenizer that writes a name the same wherever it stands, (2) attention that begins wired for copying, and
(3) a first phase in which only names and key words count.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
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


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training with its own warm-up and its own cosine down to a tenth of the learning rate."""

    steps: int
    tokens: int = 65_536
    """Tokens of a batch, prompts and padding included."""
    optimizer: str = "muon"
    """``adam`` for everything, or ``muon`` for the layers' matrices beside AdamW for the rest."""
    lr: float
    rest_lr: float
    slot_weight: tuple[float, float]
    """How much more a token of an asked name or key word counts than any other: at first, and from 60 % on."""
    wild_words: tuple[float, float]
    """Share of key words that suit no template, at first and from 60 % on: only copying foretells those."""
    noise: float = 0.0
    """Share of stories that are spoilt on purpose, each in one of the ways ``spoils``: see ``spoil``."""
    frozen: int
    """Steps during which the wired attention stays as it is."""
    spoils: tuple[str, ...] = ()
    made_up: tuple[float, float] = (0.8, 0.8)
    """Shares of main characters and of their friends with a made-up name: what nothing but the request foretells must
    be copied, but a friend is nowhere in the request, and a teller who invents syllables stumbles over them."""
    slips: float = 0.0
    """Share of stories that are read with wrong words in some places: see ``_slipped``."""
    splices: float = 0.0
    """Share of stories that jump, at a token that both share, into another story: see ``_spliced``."""
    phrasings: int | None = None
    """How many of the plainest phrasings are used; None means all."""


@dataclass(frozen=True)
class Recipe:
    """Shape and schedule of one of the two models."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    seed: int
    phases: tuple[Phase, ...]


FLAWS = ("chatty", "chatty", "loop", "loop", "cut", "cut", "memo", "english", "english", "chinese", "refusal")
"""Of a weak teacher, as often as they stand here: see ``spoil``."""
NAMES_ONLY = Phase(
    steps=300,
    tokens=16_384,
    optimizer="adam",
    lr=0.0007,
    rest_lr=0.0007,
    slot_weight=(500, 500),
    wild_words=(0.3, 0.3),
    frozen=300,
    phrasings=4,
)
WAKE = (
    NAMES_ONLY,
    replace(NAMES_ONLY, steps=200, slot_weight=(20, 20), frozen=200, phrasings=None),
    Phase(
        steps=700,
        tokens=32_768,
        lr=0.007,
        rest_lr=0.0015,
        slot_weight=(15, 4),
        wild_words=(0.8, 0.3),
        frozen=450,
    ),
)
"""Both models first learn to copy what the request names; without this they learn tales by heart and no name."""
TALES = Phase(
    steps=2000,
    lr=0.012,
    rest_lr=0.003,
    slot_weight=(4, 3),
    wild_words=(0.35, 0.2),
    frozen=100,
    made_up=(0.5, 0.2),
    slips=0.5,
    splices=0.3,
)
SETTLE = replace(
    TALES, steps=1100, lr=0.006, rest_lr=0.001, wild_words=(0.15, 0.08), frozen=20, made_up=(0.15, 0.0), splices=0.2
)
TEACHERS_FLAWS = replace(
    SETTLE, steps=120, lr=0.003, rest_lr=0.0007, wild_words=(0.1, 0.08), made_up=(0.1, 0.0), noise=0.3, spoils=FLAWS
)
STUDENTS_FLAWS = replace(
    SETTLE,
    steps=150,
    lr=0.003,
    wild_words=(0.15, 0.1),
    noise=0.85,
    spoils=(*FLAWS, *8 * ("other",), *2 * ("shuffled",)),
)
RECIPES = {
    "teacher": Recipe(
        hidden=320,
        layers=6,
        heads=5,
        feed_forward=1024,
        seed=1,
        phases=(
            *WAKE,
            TALES,
            SETTLE,
            TEACHERS_FLAWS,
            replace(TEACHERS_FLAWS, steps=200, tokens=3072, lr=0.002, rest_lr=0.0005, noise=0.35),
            replace(TEACHERS_FLAWS, steps=250, tokens=3072, lr=0.002, rest_lr=0.0005),
        ),
    ),
    "student": Recipe(
        hidden=160,
        layers=4,
        heads=4,
        feed_forward=448,
        seed=2,
        phases=(
            *WAKE,
            replace(TALES, steps=2300, lr=0.014, rest_lr=0.004),
            replace(SETTLE, steps=1200, lr=0.007, rest_lr=0.0015),
            STUDENTS_FLAWS,
            replace(
                STUDENTS_FLAWS, steps=300, tokens=3072, noise=0.9, spoils=(*FLAWS, *20 * ("other",), *2 * ("shuffled",))
            ),
            replace(STUDENTS_FLAWS, steps=400, tokens=8192, lr=0.002, rest_lr=0.0007, noise=0.6),
            replace(
                STUDENTS_FLAWS,
                steps=100,
                tokens=8192,
                lr=0.001,
                rest_lr=0.0005,
                noise=0.8,
                spoils=(*FLAWS, *16 * ("other",), *2 * ("shuffled",)),
            ),
        ),
    ),
}
PLAIN_PHRASINGS = ("i02", "i01", "i09", "i12")
ROPE_THETA = 1e6
TEMPLATES_HELD_OUT = 40
SWAPPED = 0.08
"""Share of requests that name the words in the other order than the tale has them. The order tells a small model which
word goes where; with 0.3 it lost 0.6 nats at names and words, with 0.08 half of that."""
MAKERS = 7
"""Processes that make lessons for a GPU; how many they are decides which lessons are made."""
WRONG_SLOTS = 0.25
WRONG_TOKENS = 0.02
"""Of a story with slips: see ``_slipped``."""


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


def _character(rng: random.Random, made_up: float) -> str:
    if rng.random() >= made_up:
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


def _keywords(template: dict, wild: float, rng: random.Random) -> tuple[str, str]:
    """Two words: any at all (``wild``), of the same kind as the template's, or, mostly, the template's own.

    Both are of one sort, so that the teller learns which tale suits a pair: chosen one by one, two own words met in
    a third of the stories only, and the teller began a tale that had no room for what was asked.
    """
    chance = rng.random()
    if chance < wild:
        first, second = _all_words(), _all_words()
    elif chance < wild + 0.2:
        first, second = _kin(tuple(template["k1"])), _kin(tuple(template["k2"]))
    else:
        first, second = template["k1"], template["k2"]
    return rng.choice(first), rng.choice(second)


def example(
    templates: tuple[dict, ...],
    phrasings: tuple[dict, ...],
    rng: random.Random,
    wild: float = 0.2,
    made_up: tuple[float, float] = (0.8, 0.8),
) -> dict:
    """One clean training example of a group that belongs to the training split; ``wild`` is the share of any word.

    Returns instruction, output, character, keywords, and the slots that the story was filled with.
    """
    template = rng.choice(templates)
    while True:
        character, friend = (_character(rng, share) for share in made_up)
        pair = _keywords(template, wild, rng)
        if pair[0] != pair[1] and character != friend and domain.split_of(character, pair) == "train":
            break
    slots = {
        "A": character,
        "a": domain.short_name(character),
        "B": friend,
        "b": domain.short_name(friend),
        "k1": pair[0],
        "k2": pair[1],
    }
    text, output, filled = template["text"], domain.fill(template["text"], slots), dict(slots)
    phrasing = rng.choice(phrasings)
    lists = domain.choices()
    slots["place"] = template["place"] if rng.random() < 0.5 else rng.choice(lists["place"])
    slots["moral"] = template["theme"] if rng.random() < 0.5 else rng.choice(lists["moral"])
    slots["tone"] = rng.choice(lists["tone"])
    if "opening" in phrasing["uses"]:
        slots["opening"], before = _opening(text, rng)
        text, output = before + text, before + output
    if rng.random() < SWAPPED:
        slots["k1"], slots["k2"] = slots["k2"], slots["k1"]
    return {
        "instruction": domain.fill(phrasing["text"], slots),
        "output": output,
        "character": character,
        "keywords": list(pair),
        "template": text,
        "slots": filled,
    }


def _opening(text: str, rng: random.Random) -> tuple[str, str]:
    """(opening, what to put before the story): the story's own first words, or a whole sentence."""
    own = re.match(r"(?:[^\s{}\"]+ ){2,4}", text)
    if own and rng.random() < 0.5:
        return own[0].rstrip(" ,"), ""
    sentence = rng.choice([o for o in domain.choices()["opening"] if o[-1] in ".!?"])
    return sentence, f"{sentence} "


GREETINGS = (
    "네, 알겠습니다! 동화를 들려드릴게요.",
    "물론이죠! 요청하신 동화입니다.",
    "좋아요, 아이를 위한 짧은 이야기를 써 볼게요.",
    "다음은 부탁하신 내용으로 만든 동화예요.",
)
GOODBYES = (
    "이 동화가 마음에 드셨으면 좋겠습니다.",
    "더 필요한 것이 있으면 말씀해 주세요!",
    "다른 이야기도 써 드릴까요?",
    "도움이 되었기를 바랍니다.",
)
REFUSALS = (
    "죄송하지만 그 이야기는 쓸 수 없습니다. 저는 인공지능 언어 모델이라서 동화를 지을 수 없어요. 다른 것을 도와드릴까요?",
    "죄송합니다. 요청하신 내용은 도와드릴 수 없습니다. 다른 주제를 말씀해 주시면 다시 써 보겠습니다.",
)
ENGLISH = {
    "친구": "friend",
    "갑자기": "suddenly",
    "그래서": "so",
    "그런데": "but",
    "함께": "together",
    "마음": "heart",
    "아침": "morning",
    "밤": "night",
    "집": "house",
    "나무": "tree",
    "웃었": "smile했",
    "작은": "little",
    "예쁜": "pretty",
}
CHINESE = {
    "친구": "朋友",
    "갑자기": "突然",
    "그래서": "所以",
    "그런데": "但是",
    "함께": "一起",
    "마음": "心",
    "아침": "早上",
    "밤": "晚上",
    "집": "家",
    "작은": "小小的",
    "그때": "那时候",
}
_STORY_ENDING = re.compile(r"(?<=[가-힣])(?:어요|지요|답니다|습니다)(?=\.)")


def _memo(text: str) -> str:
    """The story in note style: -었어요 and the like become -었음."""
    return _STORY_ENDING.sub(lambda m: "음" if domain.has_final_consonant(text[: m.start()]) else m[0], text)


def _translated(text: str, dictionary: dict[str, str]) -> str:
    """The story with every word of the dictionary in the other language, wherever a word begins with it."""
    pattern = re.compile(r"(?<![가-힣])(?:" + "|".join(dictionary) + ")")
    return pattern.sub(lambda match: dictionary[match[0]], text)


def spoil(
    row: dict,
    templates: tuple[dict, ...],
    phrasings: tuple[dict, ...],
    rng: random.Random,
    spoils: tuple[str, ...],
) -> dict:
    """The same request with an answer as a weak model gives it.

    ``other`` another story, ``loop``, ``cut`` a break, ``shuffled`` sentences, ``chatty`` an assistant's phrases around
    the story, ``memo`` note style, ``english`` and ``chinese`` words, ``refusal``.

    Where a story goes wrong is nearly the same in all of one kind: a turn that is possible anywhere is so unlikely at
    each place that sampling at temperature 0.8 never takes it.
    """
    sentences = re.split(r"(?<=[.!?])\s+", row["output"])
    kind = rng.choice(spoils)
    if kind == "other":
        output = example(templates, phrasings, rng)["output"]
    elif kind == "loop":
        at = min(rng.choice((2, 4)), len(sentences) - 1)
        output = " ".join(sentences[:at] + [sentences[at]] * rng.randint(4, 8) + sentences[at + 1 : at + 2])
    elif kind == "cut":
        output = " ".join([*sentences[:-1], *sentences[-1].split()[:2]])
    elif kind == "shuffled":
        rng.shuffle(sentences)
        output = " ".join(sentences)
    elif kind == "memo":
        output = _memo(row["output"])
    elif kind == "english":
        output = _translated(row["output"], ENGLISH)
    elif kind == "chinese":
        output = _translated(row["output"], CHINESE)
    elif kind == "refusal":
        output = rng.choice(REFUSALS)
    else:
        output = f"{rng.choice(GREETINGS)} {row['output']} {rng.choice(GOODBYES)}"
    return row | {"output": output}


@cache
def _after_slots() -> str:
    """Syllables that follow a name or a word at least ten times in our texts: particles and the like."""
    seen: Counter[str] = Counter()
    for row in (*domain.templates(), *domain.phrasings()):
        seen.update(re.findall(r"\}([가-힣])", row["text"]))
        for slot in domain.SLOT.finditer(row["text"]):
            seen.update(form[0] for form in (slot[2], slot[3]) if form)
    return "".join(ch for ch, count in seen.items() if count >= 10)


def _learned_merges(pieces: list[str], size: int) -> list[tuple[str, str]]:
    """The merges of a BPE over characters in which a particle's first syllable only ever begins an entry."""
    before_particle = re.compile(rf"(?<=[가-힣])(?=[{_after_slots()}])")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated")
    tokenizer.train_from_iterator(
        [part for piece in pieces for part in before_particle.split(piece)],
        trainers.BpeTrainer(vocab_size=3 * size, min_frequency=2, show_progress=False),
    )
    return [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]


def build_tokenizer() -> None:
    """Learn the pair's tokenizer on templates, instructions, words and names."""
    pieces: list[str] = []
    for template in domain.templates():
        pieces += [p for p in re.split(r"\{[^{}]*\}", template["text"]) if p]
    pieces += [p for x in domain.phrasings() for p in re.split(r"\{[^{}]*\}", x["text"]) if p] * 3
    pieces += [f" {w}" for w in _all_words()] * 20
    pieces += [x for values in domain.choices().values() for x in values] * 2
    pieces += [f" {k}" for k in _kinds()] * 3
    pieces += [f" {s}" for s in _name_syllables()] * 30
    learned = learn_tokenizer(pieces, VOCABULARY)
    for name in RECIPES:
        learned.save_pretrained(MINI / name)
    print(f"tokenizer: {len(learned)} entries")


def learn_tokenizer(pieces: list[str], size: int) -> Qwen2Tokenizer:
    """A byte-level BPE of at most ``size`` entries that writes a name or a word the same wherever it stands.

    Bytes are merged into whole characters first, and no entry carries a particle's first syllable after another
    syllable. A plain byte-level BPE fused names with their particles and cut syllables between bytes: 37 % of the
    asked names were other tokens in the story than in the request, and no model learned to copy them.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def encoded(text: str) -> str:
        return byte_level.pre_tokenize_str(text)[0][0]

    characters = sorted({ch for piece in pieces for ch in piece if len(ch.encode()) in (2, 3)})
    merges = [(code[:i], code[i]) for i in (1, 2) for code in map(encoded, characters) if len(code) > i]
    merges += [(encoded(left), encoded(right)) for left, right in _learned_merges(pieces, size)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {entry: i for i, entry in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    used = []
    for left, right in dict.fromkeys(merges):
        if len(vocab) == size:
            break
        vocab.setdefault(left + right, len(vocab))
        used.append((left, right))
    wrapped = Qwen2Tokenizer(
        vocab=vocab,
        merges=used,
        unk_token=None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=1024,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


class Batch(NamedTuple):
    """Token ids and, for each, its weight in the loss: 0 for requests and padding. Both (rows, tokens)."""

    ids: torch.Tensor
    weights: torch.Tensor


Encoded = tuple[list[int], list[float]]
"""Token ids and their weights in the loss."""


def _prompt_ids(row: dict, tokenizer: Qwen2Tokenizer) -> list[int]:
    """The request in the chat format; a bare row is a story without a request."""
    prompt = "" if row["bare"] else f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer(prompt).input_ids


def _answer(row: dict, tokenizer: Qwen2Tokenizer, slot_weight: float, wrong: Sequence[tuple[int, int]] = ()) -> Encoded:
    """The story with its end token; what lies in the spans ``wrong`` (characters) weighs nothing."""
    text = row["output"] + "<|im_end|>"
    answer = tokenizer(text, return_offsets_mapping=True)
    asked, spoilt = bytearray(len(text)), bytearray(len(text))
    for slot in (domain.short_name(row["character"]), *row["keywords"]):
        for match in re.finditer(re.escape(slot), text):
            asked[match.start() : match.end()] = b"\1" * len(slot)
    for begin, end in wrong:
        spoilt[begin:end] = b"\1" * (end - begin)

    def weight(begin: int, end: int) -> float:
        if 1 in spoilt[begin:end]:
            return 0.0
        return slot_weight if 1 in asked[begin:end] else 1.0

    return answer.input_ids, [weight(*offset) for offset in answer.offset_mapping]


def _spliced(story: Encoded, other: Encoded, rng: random.Random) -> Encoded:
    """``story`` up to a token that ``other`` has too, and ``other`` from there on; the jump itself counts nothing.

    A sampled story sooner or later takes a token that begins another tale it knows. A model that has only read whole
    tales has never seen that and talks gibberish from there on (2.3 nats a token instead of 0.2); one that has goes on
    with the tale it landed in. As the jump has no weight, it does not learn to jump.
    """
    places: dict[int, list[int]] = {}
    for at, token in enumerate(other[0][:-8]):
        places.setdefault(token, []).append(at)
    for _ in range(20):
        here = rng.randrange(3, max(4, len(story[0]) - 3))
        if here < len(story[0]) and story[0][here] in places:
            there = rng.choice(places[story[0][here]])
            ids = story[0][: here + 1] + other[0][there + 1 :]
            return ids, [*story[1][: here + 1], 0.0, *other[1][there + 2 :]]
    return story


def _slipped(row: dict, tokenizer: Qwen2Tokenizer, slot_weight: float, rng: random.Random) -> Encoded:
    """The story with another of its names and words in a quarter of the slots, and a strange token here and there.

    What is wrong has no weight, so it is not learned; what comes after it is. A teller that has only read right
    stories puts one wrong word into a place (the first key word instead of the second), is then where it never was,
    and loses the thread: 0.07 nats a token while it reads, and every second story of its own falls apart.
    """
    text, end, wrong = "", 0, []
    for slot in domain.SLOT.finditer(row["template"]):
        text, end, name = text + row["template"][end : slot.start()], slot.end(), slot[1]
        if name != "A" and rng.random() < WRONG_SLOTS:
            other = rng.choice([s for s in ("a", "b", "k1", "k2") if row["slots"][s] != row["slots"][name]])
            filled = domain.fill(slot[0].replace(name, other, 1), row["slots"])
            wrong.append((len(text), len(text) + len(filled)))
        else:
            filled = domain.fill(slot[0], row["slots"])
        text += filled
    text += row["template"][end:]
    if not all(word in text for word in row["keywords"]):
        return _answer(row, tokenizer, slot_weight)
    ids, weights = _answer(row | {"output": text}, tokenizer, slot_weight, wrong)
    for i, weight in enumerate(weights[:-1]):
        if weight == 1.0 and rng.random() < WRONG_TOKENS:
            ids[i], weights[i] = rng.choice(ids), 0.0
    return ids, weights


def _encode(
    row: dict,
    phase: Phase,
    tokenizer: Qwen2Tokenizer,
    templates: tuple[dict, ...],
    slot_weight: float,
    rng: random.Random,
) -> Encoded:
    """Ids and weights of one row; the request weighs nothing."""
    before = _prompt_ids(row, tokenizer)
    if rng.random() < phase.slips and not row["spoilt"]:
        answer = _slipped(row, tokenizer, slot_weight, rng)
    else:
        answer = _answer(row, tokenizer, slot_weight)
    while not row["spoilt"] and rng.random() < phase.splices and len(answer[0]) < 400:
        other = row | {"output": domain.fill(rng.choice(templates)["text"], row["slots"])}
        spliced = _spliced(answer, _answer(other, tokenizer, slot_weight), rng)
        told = tokenizer.decode(spliced[0])
        if all(word in told for word in row["keywords"]):
            answer = spliced
    return before + answer[0], [0.0] * len(before) + answer[1]


def _batches(
    phase: Phase, tokenizer: Qwen2Tokenizer, templates: tuple[dict, ...], seed: str, makers: int = 1
) -> Iterator[Batch]:
    """Endless batches of stories of similar length; ``makers`` such iterators feed the phase in turn."""
    rng = random.Random(seed)
    phrasings = domain.phrasings()
    if phase.phrasings:
        phrasings = tuple(p for p in phrasings if p["id"] in PLAIN_PHRASINGS[: phase.phrasings])
    made = 0
    while True:
        progress = min(1.0, made * makers / (0.6 * phase.steps))
        slot_weight, wild = (a + (b - a) * progress for a, b in (phase.slot_weight, phase.wild_words))
        rows = []
        for _ in range(max(128, phase.tokens // 64)):
            row = example(templates, phrasings, rng, wild, phase.made_up)
            spoilt = rng.random() < phase.noise
            if spoilt:
                row = spoil(row, templates, phrasings, rng, phase.spoils)
            rows.append(row | {"bare": rng.random() < 0.03, "spoilt": spoilt})
        encoded = [_encode(row, phase, tokenizer, templates, slot_weight, rng) for row in rows]
        encoded.sort(key=lambda x: len(x[0]))
        groups, group = [], []
        for item in encoded:
            if group and (len(group) + 1) * len(item[0]) > phase.tokens:
                groups.append(group)
                group = []
            group.append(item)
        groups.append(group)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids, weights = torch.zeros(len(group), width, dtype=torch.long), torch.zeros(len(group), width)
            for i, (row_ids, row_weights) in enumerate(group):
                ids[i, : len(row_ids)] = torch.tensor(row_ids)
                weights[i, : len(row_ids)] = torch.tensor(row_weights)
            weights[:, 0] = 0
            yield Batch(ids, weights)
            made += 1


class _Lessons(torch.utils.data.IterableDataset):
    """The batches of a phase, so that a DataLoader's processes can make them while the model learns."""

    def __init__(self, phase: Phase, tokenizer: Qwen2Tokenizer, templates: tuple[dict, ...], seed: str) -> None:
        self.arguments = phase, tokenizer, templates
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number, makers = (worker.id, worker.num_workers) if worker else (0, 1)
        return _batches(*self.arguments, f"{self.seed} {number}", makers)


def _token_losses(model: Qwen2ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and weight of every answer token; right padding needs no mask under causal attention."""
    kept = (batch.weights[:, 1:] > 0).flatten().nonzero().squeeze(1)
    targets, weights = batch.ids[:, 1:].flatten()[kept], batch.weights[:, 1:].flatten()[kept]
    kept, targets, weights = (x.to(model.device, non_blocking=True) for x in (kept, targets, weights))
    with torch.autocast("cuda", torch.bfloat16, enabled=model.device.type == "cuda"):
        hidden = model.model(input_ids=batch.ids.to(model.device, non_blocking=True)).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden.flatten(0, 1)[kept])
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none"), weights


@torch.no_grad()
def wire_for_copying(model: Qwen2ForCausalLM) -> None:
    """Set the first weights so that the untrained model already continues what stood in its context before.

    Layer 0, head 0 looks one token back (a phase between query and key biases that the rotary embedding turns into a
    peak at distance 1) and notes what it saw; three heads of layer 1 look for tokens with a note of the present
    token and copy them (an induction head, Olsson et al. 2022); layers 2 and 3 copy whatever they attend to. Nothing
    here knows Korean: a string of random tokens that stands twice is continued with 97 % accuracy. The same stories
    without this, and with 6 million tokens, named the asked character in 5 of 100 stories.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads
    half = size // 2
    generator = torch.Generator().manual_seed(3)

    def orthonormal(rows: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(width, rows, generator=generator))[0].T.contiguous()

    frequencies = ROPE_THETA ** (-torch.arange(half) / half)
    fast = [i for i in range(half) if frequencies[i] > 0.02]
    slow = [i for i in range(half) if frequencies[i] < 0.004]
    slow += [i + half for i in slow]
    model.model.embed_tokens.weight *= 2.5
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= 0.3
        layer.mlp.down_proj.weight *= 0.3

    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    seen, note = orthonormal(len(slow)), orthonormal(len(slow)).T
    first.q_proj.weight[:size] *= 0.1
    first.k_proj.weight[:size] *= 0.1
    sharpness = 6.5
    for i in fast:
        first.k_proj.bias[i] = sharpness
        first.q_proj.bias[i] = sharpness * math.cos(frequencies[i])
        first.q_proj.bias[i + half] = -sharpness * math.sin(frequencies[i])
    first.v_proj.weight[: len(slow)] = seen
    first.o_proj.weight[:, : len(slow)] = 0.1 * note

    copying = min(3, heads - 1)
    values = orthonormal(copying * size)
    for head in range(copying):
        rows = slice(head * size, (head + 1) * size)
        second.q_proj.weight[rows] *= 0.1
        second.k_proj.weight[rows] *= 0.1
        second.q_proj.weight[torch.tensor(slow) + head * size] = 2 * seen
        second.k_proj.weight[torch.tensor(slow) + head * size] = 2 * note.T
        second.v_proj.weight[rows] = values[rows]
        second.o_proj.weight[:, rows] = 0.2 * values[rows].T
    for layer in model.model.layers[2:4]:
        values = orthonormal(width)
        layer.self_attn.v_proj.weight.copy_(0.7 * values)
        layer.self_attn.o_proj.weight.copy_(0.3 / 0.7 * values.T)


def _wired(model: Qwen2ForCausalLM) -> list[torch.nn.Parameter]:
    """The parameters that carry the wiring."""
    attention = [layer.self_attn for layer in model.model.layers[:4]]
    whole = [p for part in attention[:2] for p in part.parameters()]
    return whole + [p for part in attention[2:] for m in (part.v_proj, part.o_proj) for p in m.parameters()]


def configuration(
    hidden: int, layers: int, heads: int, feed_forward: int, vocabulary: int, eos: int, pad: int
) -> Qwen2Config:
    """The Qwen2 configuration of a story model from scratch."""
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def _new_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    torch.manual_seed(recipe.seed)
    eos, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>"))
    model = Qwen2ForCausalLM(
        configuration(recipe.hidden, recipe.layers, recipe.heads, recipe.feed_forward, VOCABULARY, eos, pad)
    )
    wire_for_copying(model)
    return model


def train(name: str, first: int = 0) -> None:
    """Train ``teacher`` or ``student`` from phase ``first`` on (0 is from scratch), saving after each phase.

    Prints time, loss, and the loss on names and key words (slots) and on all other tokens, for templates that are
    trained on (known) and for templates that never are (held out).
    """
    recipe = RECIPES[name]
    tokenizer = Qwen2Tokenizer.from_pretrained(MINI / name)
    model = (
        Qwen2ForCausalLM.from_pretrained(MINI / name, dtype=torch.float32) if first else _new_model(recipe, tokenizer)
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    for number, phase in enumerate(recipe.phases[first:], first):
        _train_phase(model, tokenizer, phase, f"{name} {number}")
        save(model, name)


def _train_phase(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, phase: Phase, title: str) -> None:
    known, held_out = _template_split()
    clean = replace(phase, noise=0.0, wild_words=(0.3, 0.3), splices=0.0, slips=0.0)
    checks = {
        label: next(_batches(clean, tokenizer, templates, f"check {label}"))
        for label, templates in (("known", known), ("held out", held_out))
    }
    on_gpu = model.device.type == "cuda"
    lessons = _Lessons(phase, tokenizer, known, title)
    batches = iter(torch.utils.data.DataLoader(lessons, None, num_workers=MAKERS if on_gpu else 0, pin_memory=on_gpu))
    wired = _wired(model)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    if phase.optimizer == "muon":
        optimizers = [
            torch.optim.Muon(matrices, lr=phase.lr, momentum=0.95, weight_decay=0.0, ns_steps=4),
            torch.optim.AdamW(rest, lr=phase.rest_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
    else:
        groups = [{"params": matrices, "lr": phase.lr, "weight_decay": 0.05}, {"params": rest, "lr": phase.rest_lr}]
        optimizers = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]

    def schedule(step: int) -> float:
        return min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / phase.steps)))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
    started, seen, running = time.time(), 0, torch.zeros((), device=model.device)
    model.train()
    for step in range(phase.steps):
        for parameter in wired:
            parameter.requires_grad_(step >= phase.frozen)
        batch = next(batches)
        losses, weights = _token_losses(model, batch)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        seen += batch.ids.numel()
        running = torch.lerp(running, loss.detach(), 0.02 if step else 1.0)
        if (step + 1) % 100 == 0 or step + 1 == phase.steps:
            spent = time.time() - started
            report = [f"{title}: step {step + 1}/{phase.steps} {spent:.0f} s {seen / spent:,.0f} tokens/s"]
            report.append(f"loss {running.item():.3f}")
            for label, check in checks.items():
                with torch.no_grad():
                    losses, weights = _token_losses(model, check)
                slots = weights > 1
                report.append(f"{label}: slots {losses[slots].mean():.2f} others {losses[~slots].mean():.2f}")
            print(" | ".join(report), flush=True)


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
