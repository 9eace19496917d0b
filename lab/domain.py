"""The domain: characters, key words, instruction phrasings, story templates and probes.

All text lives in ``data/``; this module only loads it and fills slots with correct Korean particles.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lab.problems import Problem
from lab.records import Probe, Prompt

DATA = Path(__file__).resolve().parent.parent / "data"

# {A} main character, {a} its short name, {B} {b} a friend, {k1} {k2} key words; after a bar stands
# the particle pair, the form after a consonant first: {a|은/는}.
SLOT = re.compile(r"\{(A|a|B|b|k1|k2|place|moral|tone|opening|age|length)(?:\|([^/{}]*)/([^{}]*))?\}")

ATTRIBUTES = {
    "장소": "place",
    "교훈": "moral",
    "분위기": "tone",
    "첫머리": "opening",
    "나이": "age",
    "길이": "length",
}
"""What a prompt may say besides its character and words, in Korean and as the slots are called."""

IN_WORDS = ("age", "length")
"""Attributes that a phrasing states in words of its own ("네 살이 된 딸아이") until somebody brings other values."""

MISSES = 1000
"""Prompts dealt in a row that were there already, after which a grid counts as used up."""

HELD_OUT_SHARE = 0.1
"""Share of the character-and-key-words groups that form the test split."""


def has_final_consonant(word: str) -> bool:
    """Whether the last Hangul syllable of ``word`` ends in a consonant; False for anything else."""
    code = ord(word[-1]) - 0xAC00
    return 0 <= code < 11172 and code % 28 != 0


def particle(word: str, after_consonant: str, after_vowel: str) -> str:
    """The particle form that follows ``word``; 으로/로 takes 로 after ㄹ as well (길로)."""
    if after_consonant.startswith("으로") and (ord(word[-1]) - 0xAC00) % 28 == 8:
        return after_vowel
    return after_consonant if has_final_consonant(word) else after_vowel


def fill(text: str, slots: dict[str, str]) -> str:
    """Replace every slot of ``text`` and inflect the particle that is bound to it."""

    def replace(match: re.Match[str]) -> str:
        word = slots[match[1]]
        return word if match[2] is None else word + particle(word, match[2], match[3])

    return SLOT.sub(replace, text)


def short_name(character: str) -> str:
    """``토끼 토토`` is called ``토토`` in the story."""
    return character.split()[-1]


def split_of(character: str, keywords: tuple[str, ...] | list[str]) -> str:
    """``train`` or ``test``, decided by a hash of the group so that no group is in both."""
    group = "\t".join([character, *sorted(keywords)])
    bucket = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") / 2**32
    return "test" if bucket < HELD_OUT_SHARE else "train"


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSON-lines file of the project's own data."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


@cache
def templates() -> tuple[dict, ...]:
    """The hand-written story templates: id, theme, place, k1, k2 and text with slots."""
    return tuple(read_jsonl(DATA / "templates.jsonl"))


@cache
def phrasings() -> tuple[dict, ...]:
    """The instruction phrasings: id, text with slots, the slots it uses, register.

    ``says`` names the age and length that the text states: their value in the grid, the words in the text that say so,
    and the slot that takes the place of these words when somebody brings ages or lengths of their own.
    """
    return tuple(read_jsonl(DATA / "instructions.jsonl"))


@cache
def characters() -> tuple[str, ...]:
    """Main characters, each a kind and a name."""
    return tuple((DATA / "characters.txt").read_text("utf-8").split("\n")[:-1])


@cache
def words() -> dict[str, tuple[str, ...]]:
    """Nouns that a small child knows, by category."""
    return {k: tuple(v) for k, v in json.loads((DATA / "words.json").read_text("utf-8")).items()}


@cache
def choices() -> dict[str, tuple[str, ...]]:
    """Morals, tones, openings and places."""
    return {k: tuple(v) for k, v in json.loads((DATA / "choices.json").read_text("utf-8")).items()}


@cache
def keyword_pairs() -> tuple[tuple[str, str], ...]:
    """Pairs of key words that can meet in one story: every pair that some template allows."""
    pairs = {(a, b): None for t in templates() for a in t["k1"] for b in t["k2"] if a != b}
    return tuple(pairs)


@cache
def reference_stories() -> tuple[dict, ...]:
    """Complete stories of a good author, for evaluation only; never trained on."""
    return tuple(read_jsonl(DATA / "reference_stories.jsonl"))


@cache
def probes() -> tuple[Probe, ...]:
    """Four-choice continuation probes of everyday knowledge."""
    return tuple(
        Probe(p["id"], p["type"], p["context"], tuple(p["choices"]), p["answer"])
        for p in read_jsonl(DATA / "probes.jsonl")
    )


@dataclass(frozen=True)
class Grid:
    """The attributes that prompts are made of; a person may bring lists of their own."""

    characters: tuple[str, ...] = field(default_factory=characters)
    pairs: tuple[tuple[str, str], ...] = field(default_factory=keyword_pairs)
    phrasings: tuple[dict, ...] = field(default_factory=phrasings)
    choices: dict[str, tuple[str, ...]] = field(default_factory=choices)
    """Ages and lengths stand here only when they are somebody's own; else each phrasing states its own."""

    @staticmethod
    def of(characters_text: str = "", words_text: str = "", lists_text: str = "") -> Grid:
        """A grid with own characters (one a line), words (one a line, or a pair ``a, b``) and lists (``place: a beach`` a line).

        An attribute of ``lists_text`` takes the place of the built-in values. Raises Problem for one that does not exist,
        and for words that make no pair.
        """
        grid = Grid()
        own = tuple(dict.fromkeys(x.strip() for x in characters_text.splitlines() if x.strip()))
        return Grid(
            own or grid.characters, _own_pairs(words_text) or grid.pairs, choices=grid.choices | _own_lists(lists_text)
        )

    def decks(self) -> dict[str, tuple[str, ...]]:
        """Every attribute with all its values, as ``attributes`` of a prompt names them."""
        stated = {
            name: tuple(dict.fromkeys(p["says"][name]["value"] for p in self.phrasings if name in p.get("says", {})))
            for name in IN_WORDS
        }
        return {
            "character": self.characters,
            "keyword": tuple(dict.fromkeys(word for pair in self.pairs for word in pair)),
            "pair": tuple(dict.fromkeys(map(", ".join, self.pairs))),
            **{name: (stated | self.choices)[name] for name in ATTRIBUTES.values()},
            "phrasing": tuple(p["id"] for p in self.phrasings),
        }


def _own_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs as they stand, and every two of the words that stand alone."""
    pairs: list[tuple[str, str]] = []
    single: dict[str, None] = {}
    for line in filter(str.strip, text.splitlines()):
        found = [word.strip() for word in line.split(",")]
        if len(found) > 2 or not all(found) or len(set(found)) < len(found):
            raise Problem(
                f"Own key words: {line.strip()!r} is neither one word nor a pair of two words, like `lantern, lake`.",
                f"직접 정한 낱말: {line.strip()!r} 줄을 읽을 수 없습니다. 한 줄에 낱말 하나 또는 `등불, 호수`처럼 서로 다른 두 낱말을 적어 주세요.",
            )
        if len(found) == 2:
            pairs.append((found[0], found[1]))
        else:
            single[found[0]] = None
    if len(single) == 1 and not pairs:
        raise Problem(
            "Own key words: every story needs two of them. Add a second word, or write a pair like `lantern, lake`.",
            "직접 정한 낱말: 이야기마다 낱말이 두 개 필요합니다. 낱말을 하나 더 적거나 `등불, 호수`처럼 한 쌍으로 적어 주세요.",
        )
    return (*pairs, *itertools.combinations(single, 2))


def _own_lists(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for line in filter(str.strip, text.splitlines()):
        name, _, value = line.partition(":")
        name = ATTRIBUTES.get(name.strip(), name.strip())
        if name not in ATTRIBUTES.values() or not value.strip():
            raise Problem(
                f"Own lists: {line.strip()!r} is not understood. Write one value a line, like `place: by the sea`, of {', '.join(ATTRIBUTES.values())}.",
                f"직접 정한 목록: {line.strip()!r} 줄을 읽을 수 없습니다. 한 줄에 하나씩 `장소: 바닷가`처럼 적어 주세요. 쓸 수 있는 이름: {', '.join(ATTRIBUTES)}",
            )
        found.setdefault(name, {})[value.strip()] = None
    return {name: tuple(values) for name, values in found.items()}


def attributes(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """(attribute, value) of everything that the grid put into a prompt."""
    yield "character", prompt.character
    for word in prompt.keywords:
        yield "keyword", word
    yield "pair", ", ".join(prompt.keywords)
    yield "phrasing", prompt.phrasing
    yield from prompt.says


def prompts(count: int, seed: int, grid: Grid | None = None) -> list[Prompt]:
    """``count`` different prompts; a longer list begins with the shorter one of the same seed.

    Each attribute walks through its own shuffled deck, so coverage stays balanced: after n prompts
    no character has been asked for more than once oftener than another. Fewer than ``count`` when the grid gives no more.
    """
    grid = grid or Grid()
    rng = random.Random(f"prompts-{seed}")
    decks: dict[str, list] = {}

    def deal(name: str, values: tuple[Any, ...]) -> Any:
        deck = decks.setdefault(name, [])
        if not deck:
            deck.extend(rng.sample(values, len(values)))
        return deck.pop()

    made: dict[tuple, Prompt] = {}
    misses = 0
    while len(made) < count and misses < MISSES:
        character = deal("character", grid.characters)
        pair = deal("pair", grid.pairs)
        phrasing = deal("phrasing", grid.phrasings)
        text, said = phrasing["text"], dict[str, str]()
        for name in ATTRIBUTES.values():
            if name in phrasing["uses"]:
                said[name] = deal(name, grid.choices[name])
            elif stated := phrasing.get("says", {}).get(name):
                if name in grid.choices:
                    said[name] = deal(name, grid.choices[name])
                    text = text.replace(stated["words"], stated["own"])
                else:
                    said[name] = stated["value"]
        text = fill(text, {"A": character, "k1": pair[0], "k2": pair[1]} | said)
        if text in made:
            misses += 1
            continue
        misses = 0
        made[text] = Prompt(text, character, pair, phrasing["id"], split_of(character, pair), tuple(said.items()))
    return list(made.values())
