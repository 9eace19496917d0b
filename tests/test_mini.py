"""The embedded pair: its tokenizer, its wiring and its training text."""

import itertools
import random
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Tokenizer

from lab import checks, domain, mini
from lab.config import FilterConfig
from lab.records import Pair


@pytest.fixture(scope="module")
def tokenizer():
    return Qwen2Tokenizer.from_pretrained(mini.MINI / "teacher")


def tokens_of(word, text, tokenizer):
    encoded = tokenizer(text, return_offsets_mapping=True)
    return [
        tuple(i for i, (a, b) in zip(encoded.input_ids, encoded.offset_mapping, strict=True) if a < end and b > begin)
        for begin, end in (match.span() for match in re.finditer(re.escape(word), text))
    ]


def test_names_are_the_same_tokens_in_the_request_and_in_the_story(tokenizer):
    rng = random.Random(0)
    same = []
    for _ in range(100):
        row = mini.example(domain.templates(), domain.phrasings(), rng)
        name = domain.short_name(row["character"])
        asked = tokens_of(name, row["instruction"], tokenizer)
        same += [written in asked for written in tokens_of(name, row["output"], tokenizer)]
    assert sum(same) / len(same) > 0.95


def test_no_syllable_is_cut_between_tokens(tokenizer):
    text = domain.fill(domain.templates()[0]["text"], dict.fromkeys(("A", "a", "B", "b", "k1", "k2"), "버드나무"))
    assert all("\ufffd" not in tokenizer.decode([i]) for i in tokenizer(text).input_ids)


def test_teacher_and_student_share_the_tokenizer():
    text = '토끼 하루가 3시에 "안녕!" 하고 웃었어요. 꿈틀★'
    ids = [AutoTokenizer.from_pretrained(mini.MINI / name)(text).input_ids for name in mini.RECIPES]
    assert ids[0] == ids[1] and max(ids[0]) < mini.VOCABULARY


@pytest.mark.parametrize("name", list(mini.RECIPES))
def test_the_wired_model_copies_before_any_training(name, tokenizer):
    model = mini._new_model(mini.RECIPES[name], tokenizer)
    half = torch.randint(3, mini.VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(torch.cat([half, half], dim=1)).logits
    right = logits[:, 32:-1].argmax(-1) == half[:, 1:]
    assert right.float().mean() > 0.5


def test_training_text_never_shows_a_held_out_group():
    rng = random.Random(1)
    rows = [mini.example(domain.templates(), domain.phrasings(), rng) for _ in range(300)]
    assert {domain.split_of(row["character"], row["keywords"]) for row in rows} == {"train"}


@pytest.mark.parametrize("kind", sorted({*mini.FLAWS, "other"}))
def test_the_rules_see_every_flaw_that_lessons_carry(kind):
    rng, rules = random.Random(2), FilterConfig()
    seen = 0
    for _ in range(20):
        clean = mini.example(domain.templates(), domain.phrasings(), rng, wild=0.0, made_up=(0.0, 0.0))
        row = mini.spoil(clean, domain.templates(), domain.phrasings(), rng, (kind,))
        assert row["instruction"] == clean["instruction"]
        pair = Pair("p", row["instruction"], row["output"], row["character"], tuple(row["keywords"]))
        seen += bool(checks.check_pair(pair, rules)[0])
    assert seen >= 16


def test_shuffled_sentences_are_the_same_sentences():
    rng = random.Random(6)
    clean = mini.example(domain.templates(), domain.phrasings(), rng)
    row = mini.spoil(clean, domain.templates(), domain.phrasings(), rng, ("shuffled",))
    assert row["output"] != clean["output"]
    assert sorted(row["output"].split()) == sorted(clean["output"].split())


def test_lessons_made_by_several_processes_are_not_the_same(tokenizer):
    phase = replace(mini.RECIPES["student"].phases[-1], tokens=2048)
    lessons = mini._Lessons(phase, tokenizer, domain.templates()[:50], "test")
    batches = torch.utils.data.DataLoader(lessons, None, num_workers=2)
    first, second = itertools.islice(batches, 2)
    assert not torch.equal(first.ids, second.ids)


def test_most_pairs_of_key_words_are_one_templates_own():
    rng, template = random.Random(3), domain.templates()[0]
    pairs = [mini._keywords(template, 0.1, rng) for _ in range(300)]
    own = sum(a in template["k1"] and b in template["k2"] for a, b in pairs)
    assert own / len(pairs) > 0.6
    assert len({word for pair in pairs for word in pair}) > len(template["k1"]) + len(template["k2"])


def test_a_spliced_story_still_tells_about_both_key_words(tokenizer):
    rng = random.Random(4)
    phase = replace(mini.RECIPES["teacher"].phases[-1], splices=0.8, slips=0.0)
    rows = [
        mini.example(domain.templates(), domain.phrasings(), rng) | {"bare": True, "spoilt": False} for _ in range(60)
    ]
    told = [
        tokenizer.decode(mini._encode(row, phase, tokenizer, domain.templates(), 1.0, rng)[0], skip_special_tokens=True)
        for row in rows
    ]
    assert sum(text != row["output"] for text, row in zip(told, rows, strict=True)) > 30
    assert all(word in text for text, row in zip(told, rows, strict=True) for word in row["keywords"])


def test_what_slipped_into_a_story_is_read_and_not_learned(tokenizer):
    rng = random.Random(5)
    for _ in range(30):
        row = mini.example(domain.templates(), domain.phrasings(), rng)
        right, slipped = mini._answer(row, tokenizer, 4.0), mini._slipped(row, tokenizer, 4.0, rng)
        learned = {token for token, weight in zip(*slipped, strict=True) if weight > 1}
        wrong = sum(weight == 0 for weight in slipped[1])
        assert wrong == 0 or slipped[0] != right[0]
        assert learned <= {token for token, weight in zip(*right, strict=True) if weight > 1}
        assert wrong < len(slipped[0]) / 3 and slipped[0][-1] == right[0][-1]
