"""The deterministic checks of the filter: each is a function ``(pair, config) -> Finding | None``.

A finding carries its reason and the offending span of ``pair.output`` or the words that are missing there. All
thresholds stand at the top with their source, phrases in ``lab.wording``, what takes words apart in ``lab.morphemes``.
"Calibrated" means: on the filled templates, the reference stories and the good rows of the two labelled fixtures (1017 in
all) the threshold flags none or next to none.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import ne
from typing import Any

from lab import wording
from lab.config import FilterConfig
from lab.domain import has_final_consonant, short_name
from lab.morphemes import (
    REMEMBERED,
    WORD,
    Morpheme,
    garbled,
    known,
    last_called,
    misfits,
    morphemes,
    starts,
    stuttered,
    uses,
)
from lab.records import Pair
from lab.scan import finditer, may_match, search

REASONS: dict[str, tuple[str, str]] = {
    "too_short": ("너무 짧음", "too short"),
    "too_long": ("너무 김", "too long"),
    "truncated": ("끝맺지 못함", "cut off"),
    "repetition": ("되풀이", "repetition"),
    "refusal": ("거절", "refusal"),
    "meta": ("이야기 밖의 말", "talk about the task"),
    "prompt_echo": ("지시문 베낌", "prompt echo"),
    "foreign_script": ("외국 글자", "foreign script"),
    "english_mix": ("영어 섞임", "English mixed in"),
    "broken_text": ("깨진 글", "broken text"),
    "missing_character": ("주인공 빠짐", "character missing"),
    "missing_keyword": ("낱말 빠짐", "key word missing"),
    "unsafe": ("아이에게 해로움", "unsafe"),
    "bias": ("편견", "bias"),
    "pii": ("개인 정보", "personal data"),
    "not_a_story": ("이야기가 아님", "not a story"),
    "incoherent": ("앞뒤가 안 맞음", "incoherent"),
    "ungrammatical": ("문법 오류", "ungrammatical"),
    "wrong_register": ("말투가 다름", "wrong register"),
    "off_prompt": ("부탁과 다름", "off the prompt"),
    "near_duplicate": ("거의 같은 이야기", "near-duplicate"),
    "low_score": ("낮은 점수", "low score"),
    "below_cut": ("순위 밖", "below the cut"),
    "reviewer": ("사람이 뺌", "a person's word"),
}
"""Every reason that a verdict may give and what people read for it, in Korean and English; the set is stable."""

SAME_WORD_RUN = 6
"""The same word this often in a row is a loop; storytellers stop at four or five ("아주 아주 아주")."""
SAME_PHRASE_RUN = 4
"""A phrase of two to six words this often in a row; a chorus repeats two or three times."""
REPEATED_NARRATION = 0.30
"""Share of the narration (outside quotes, sentences of 8 or more characters) that repeats an earlier sentence
word by word. Calibrated: 0.20 is the most in a good story."""
REPEATED_GRAMS = 0.42
"""Share of character 6-grams (spaces left out) that occurred before; after Rae et al. 2021 (Gopher), table A1,
which counts word n-grams. Calibrated on characters, as Korean words carry their particles."""
COMPRESSION = 0.40
"""zlib size over UTF-8 size. Calibrated: good stories of 150 characters or more stay above."""
NEW_WORDS = 0.42
"""Different words over words, their particles cut off; calibrated, below it the story circles in itself."""
ALIKE = 5
"""Sentences of the narration, of 9 or more characters, that are the same but for one word (토토는 두 번째 사과를 땄어요).
Calibrated: at most three in a good story."""
ECHOED = 20
"""Characters of a sentence of the narration that stands twice in a row, word by word; a teller repeats a call or a sound (한 걸음, 또
한 걸음). Calibrated: seven characters at most in a good story."""
CHANGED = 4
"""Different words in the same place between the same three words (소소는 * 가서 빛나고), numbers aside, outside quotes.
Calibrated: three at most in a good story."""
DOUBLED = 2
"""Different words with a subject or object particle that stand twice in a row (코를 코를); calibrated, none in a good story."""
HANGING = 2
"""Sentences of the narration that stop after a subject, an object or "because"; calibrated, one at most in a good story."""
MIXED = 3
"""Sentences of the narration in plain style and as many in polite style; calibrated, one at most in a good story."""
MIXED_TALK = 2
"""The same for past tense in the intimate style (했어, 했지, 했단다) and polite style; calibrated, none in a good story."""
ADDRESSED = 3
"""Times that the reader is addressed (섞어 주세요, 오시면, 드립니다) in a text where next to nothing happened."""
STATED = 15
"""Characters a sentence, on average, from which a text without voices, events and a main character states facts; verses
that look like it have shorter ones."""
REASONED = 3
"""Turns of an essay in such a text."""
EVENTS = 3
"""Words of a plot that was asked for, none of which comes up. Calibrated: in a good story at least one does."""
TITLE = 30
"""Characters of a title at most."""
GONE = 0.2
"""The part of the story after which the character is named no more. Calibrated: 0.25 in a good story."""
ECHO = 16
"""Characters (spaces left out, character and key words blanked) copied from the instruction."""
ALMOST = 0.5
"""Words that two sentences of the narration share (by their first two syllables, over all of both, the main character's
name aside) to count as one said again in other words."""
SAID_AGAIN = (0.4, 4, 6)
"""Sentences that say an earlier one again: this share and number of them, or this number anywhere. Calibrated: 0.33 and 3
are the most in a good story, a cumulative tale."""
TALK_KINDS = 3
"""Kinds of ``wording.TALK`` in one sentence, or in the first or the last two. Calibrated: two in a good story."""
TASK_WORDS = 2
"""Different words of ``wording.TASK`` in one sentence of the narration. Calibrated: none of 9,300 sentences of good stories has
two, which tells talk about a text, its readers and its making from a text whatever its wording."""
EMOJI = 3
"""Emoji in a story for reading aloud; one or two are taken for decoration."""
RARE_SYLLABLES = 2
"""Different Hangul syllables outside the 2,350 of KS X 1001, which hold nearly all of everyday Korean (not 얘 with a past)."""
RUN_TOGETHER = 11
"""Different syllables in one word; calibrated: 나뭇가지투성이였지요 has nine, and sounds drawn out repeat theirs."""
LISTED_ITEMS = 12
"""Short items in a row between commas; a teller names three to eight things."""
COUNTED_ITEMS = 20
"""The same where they are counted (머루 셋, 다래 넷); who counts for children stops at ten or twenty."""
CLIPPED_ENDINGS = 0.34
"""Share of sentences that end in -음/-함 (memo style)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason, and the span of ``pair.output`` that gave it or the words that are missing there."""

    reason: str
    start: int | None = None
    end: int | None = None
    missing: tuple[str, ...] = ()

    def shown(self) -> list[int] | list[str] | None:
        """What the ledger stores: start and end, or the missing words; None where there is nothing to point at."""
        return [self.start, self.end] if self.start is not None and self.end is not None else [*self.missing] or None


QUOTED = re.compile(r"“[^”]*”|‘[^’]*’|\"[^\"\n]*\"|'[^'\n]*'|「[^」]*」|『[^』]*』")
_QUOTE = re.compile(r"[“”\"]")
SENTENCE = re.compile(r"[^.!?…\n]+[.!?…]*[”\"’']?")


@lru_cache(maxsize=8)
def narration(text: str) -> str:
    """``text`` with everything in quotes blanked, so that offsets stay: characters may say what a narrator may not."""
    return QUOTED.sub(lambda m: " " * len(m[0]), text)


@lru_cache(maxsize=8)
def _told(text: str) -> tuple[tuple[re.Match[str], list[str]], ...]:
    """The sentences of a text and the words of each."""
    return tuple((m, words) for m in SENTENCE.finditer(text) if (words := WORD.findall(m[0])))


@lru_cache(maxsize=8)
def sentences(text: str) -> tuple[str, ...]:
    """Sentences by their final marks; a line break ends one too."""
    return tuple(m[0].strip() for m, _ in _told(text))


def _syllables(finals: Iterable[int], vowels: Iterable[int] = range(21)) -> str:
    """The Hangul syllables with one of these final consonants (0: none) and vowels, as a class for patterns."""
    codes = {0xAC00 + (c * 21 + v) * 28 + f for c, v, f in itertools.product(range(19), [*vowels], [*finals])}
    first = sorted(code for code in codes if code - 1 not in codes)
    last = sorted(code for code in codes if code + 1 not in codes)
    # As ranges: a class of 10,000 syllables would be longer than a pattern may be for hyperscan.
    spans = zip(first, last, strict=True)
    return "[" + "".join(chr(a) if a == b else f"{chr(a)}-{chr(b)}" for a, b in spans) + "]"


_OPEN, _CLOSED_SYLLABLE = _syllables([0]), _syllables(range(1, 28))
_SS, _B = _syllables([20]), _syllables([17])


def _shown(reason: str, match: re.Match[str]) -> Finding:
    """A finding at ``match`` without the spaces around it."""
    return Finding(reason, match.end() - len(match[0].lstrip()), match.start() + len(match[0].rstrip()))


def _first(reason: str, pattern: re.Pattern[str], text: str) -> Finding | None:
    match = search(pattern, text)
    return _shown(reason, match) if match else None


def _several(reason: str, hits: Iterable[re.Match[str]], least: int, different: bool = True) -> Finding | None:
    """The first of ``hits`` where there are ``least`` of them, each wording counted once if they must be ``different``."""
    found: dict[Any, re.Match[str]] = {}
    for match in hits:
        found.setdefault(match[0] if different else match.start(), match)
    return _shown(reason, next(iter(found.values()))) if len(found) >= least else None


@dataclass(frozen=True, slots=True)
class _Ending:
    """The last word of a sentence: where it stands, its morphemes, whether it is all that there is."""

    start: int
    end: int
    parts: tuple[Morpheme, ...]
    alone: bool


@lru_cache(maxsize=8)
def _endings(text: str) -> tuple[_Ending, ...]:
    """How the sentences of a narration end, those with a full stop, an exclamation or a question mark."""
    found = []
    for sentence, words in _told(text):
        if sentence[0].rstrip().endswith((".", "!", "?")):
            at = text.rindex(words[-1], sentence.start(), sentence.end())
            found.append(_Ending(at, at + len(words[-1]), morphemes(words[-1]), len(words) == 1))
    return tuple(found)


@lru_cache(maxsize=8)
def _unpaired(text: str) -> tuple[int, bool] | None:
    """The first quotation mark without its other half, and whether it opens; a mark between two letters may do either."""
    opened: int | None = None
    for mark in _QUOTE.finditer(text):
        at, end = mark.span()
        before, after = text[at - 1 : at].strip(), text[end : end + 1].strip()
        opens = mark[0] == "“" or (mark[0] == '"' and not before and bool(after))
        closes = mark[0] == "”" or (mark[0] == '"' and bool(before) and not after)
        if opened is not None and opens:
            return opened, True
        if opened is None and closes:
            return at, False
        opened = at if opened is None else None
    return None if opened is None else (opened, True)


def too_short(pair: Pair, config: FilterConfig) -> Finding | None:
    """Fewer characters than asked for."""
    return Finding("too_short") if len(pair.output.strip()) < config.min_chars else None


def too_long(pair: Pair, config: FilterConfig) -> Finding | None:
    """More characters than a child of three to five sits through."""
    over = len(pair.output.strip()) > config.max_chars
    return Finding("too_long", config.max_chars, len(pair.output)) if over else None


_CLOSED = re.compile(r"[.!?…~♪♬♡♥][\s)\]”\"’'」』*♪♬♡♥~\W]*$")
_ENDING = re.compile(
    r"(?:[가-힣]요|니다|란다|[았었였했갔왔났랐렀렸졌쳤셨겠됐섰샀탔폈컸꼈켰췄줬뒀웠]다|끝|[다지야네])[\s)”\"’'」』-]*$"
)
_NOUN_ENDING = re.compile(
    r"(?:바다|소다|판다|수다|강아지|아버지|돼지|편지|먼지|망아지|송아지|반지|바지|가지|휴지|간지|그네|동네|썰매네)\s*$"
)
_DOTTED = re.compile(r"([가-힣]+)\s?(?:\.{2,}|…+)\.?$")
# Dots after a word that must go on: 그런데..., 토토는…
_HANGING_DOTS = re.compile(
    r"(?:그런데|그리고|그래서|하지만|그러나|그러자|그때|그러면|왜냐하면|[가-힣](?:는|은|를|을|에게|에서|지만|는데|면서|려고))\s?(?:\.{2,}|…+)\.?$"
)


_SIGNED = re.compile(r"[.!?~…][\s\W]*\n\s*[^\n.!?]{1,24}(?:올림|드림|씀|보냄|적음)$")
"""The last line of a letter: 고양이 참깨 올림."""


def _goes_on(text: str) -> bool:
    """Whether the text ends in dots after an ending that joins two clauses (올라왔고…)."""
    match = search(_DOTTED, text)
    return bool(match) and morphemes(match[1])[-1].tag in ("EC", "ETM", "MAJ")


def truncated(pair: Pair, config: FilterConfig) -> Finding | None:
    """The token limit cut the story, or it breaks off in a word, a sentence or a quotation."""
    text = pair.output.rstrip()
    if not text:
        return None
    last = text.rfind("\n") + 1
    tail = Finding("truncated", max(last, len(text) - 12), len(text))
    if pair.finish == "length":
        return tail
    if (lone := _unpaired(text)) and lone[1] and lone[0] < len(text) - 1 and not _QUOTE.search(text, lone[0] + 1):
        return Finding("truncated", lone[0], len(text))
    if text.count("「") > text.count("」") or text.count("『") > text.count("』"):
        return Finding("truncated", max(text.rfind("「"), text.rfind("『")), len(text))
    if text.count("‘") > text.count("’") and text.rfind("‘") > text.rfind("’") and not _CLOSED.search(text):
        return Finding("truncated", text.rfind("‘"), len(text))
    if search(_HANGING_DOTS, text) or _goes_on(text):
        return tail
    if _CLOSED.search(text):
        return None
    bare = text.rstrip("”\"’'」』)")
    if bare != text and WORD.search(bare[-1:]):
        # A closing quote without a mark: a quoted title or sound may end a story, a half word may not.
        return None
    if (_ENDING.search(text) and not _NOUN_ENDING.search(text)) or _SIGNED.search(text):
        return None
    if (word := WORD.findall(bare)) and morphemes(word[-1])[-1].form in ("ᆫ다", "는다"):
        return None
    return tail


_STUTTER = re.compile(r"(?=[가-힣]{12})(?:([가-힣])\1{11,}|([가-힣]{2,4})\2{7,})")
"""A sound drawn out longer than any storyteller would (하하하하, 데굴데굴데굴데굴 are short). The look ahead skips short words fast."""
_STUCK = re.compile(
    r"([가-힣]{1,8}(?:는|은|을|를|에게|에서|으로))(?:\s+\1(?![가-힣])){2,}|[가-힣](?:는는|를를)(?![가-힣])"
)
"""A word with its particle three times running, a particle twice."""
_TWICE = re.compile(r"(?<![가-힣])([가-힣]+[을를이가])\s+\1(?![가-힣])")
_NUMERAL = re.compile(r"\d|(?:한|두|세|네|하나|둘|셋|넷|다섯|여섯|일곱|여덟|아홉|열|스물|서른|첫)")
_PARTICLE = re.compile(
    r"(?<=[가-힣]{2})(?:에게서|에게|한테|에서|까지|부터|처럼|보다|마다|으로|이랑|하고|은|는|이|가|을|를|에|의|도|만|로|와|과|랑|네|들)$"
)


@lru_cache(maxsize=REMEMBERED)
def _stem(word: str) -> str:
    return _PARTICLE.sub("", word)


@lru_cache(maxsize=8)
def repetition_scores(text: str) -> dict[str, float]:
    """What the repetition check weighs: shares between 0 and 1, ``run`` a number of repeats, ``echoed`` the
    letters of the longest sentence that stands twice in a row."""
    words = WORD.findall(text)
    run = best = 1
    for a, b in itertools.pairwise(words):
        run = run + 1 if a == b else 1
        best = max(best, run)
    phrase = 1
    for n in range(2, 7):
        for start in range(len(words) - 2 * n + 1):
            if words[start] != words[start + n]:
                continue
            times = 1
            while words[start + times * n : start + (times + 1) * n] == words[start : start + n]:
                times += 1
            # The same word all along is the other measure's business.
            if times > phrase and len(set(words[start : start + n])) > 1:
                phrase = times
    plain = [words for _, words in _told(narration(text))]
    seen: set[str] = set()
    all_chars = repeated = 0
    for parts in plain:
        key = "".join(parts)
        all_chars += len(key)
        if len(key) >= 8:
            repeated += len(key) if key in seen else 0
            seen.add(key)
    # One sentence that comes again is a refrain or the share's business.
    long: dict[int, dict[tuple[str, ...], None]] = {}
    for parts in plain:
        if len("".join(parts)) >= 9:
            long.setdefault(len(parts), {})[tuple(parts)] = None
    alike = max((sum(sum(map(ne, a, b)) < 2 for b in same) for same in long.values() for a in same), default=0)
    dense = "".join(words)
    grams = {dense[i : i + 6] for i in range(len(dense) - 5)}
    stems = [_stem(word) for word in WORD.findall(narration(text))]
    raw = text.encode()
    return {
        "run": best,
        "phrase": phrase,
        "narration": round(repeated / max(1, all_chars), 3),
        "grams": round(1 - len(grams) / max(1, len(dense) - 5), 3),
        "compression": round(len(zlib.compress(raw, 6)) / max(1, len(raw)), 3),
        "new_words": round(len(set(stems)) / max(1, len(stems)), 3),
        "words": len(stems),
        "alike": alike,
        "changed": max(map(len, _changed(_prose(text)).values()), default=0),
        "echoed": max((len("".join(a)) for a, b in itertools.pairwise(plain) if a == b), default=0),
    }


@lru_cache(maxsize=8)
def _said_again(text: str, name: str) -> tuple[tuple[int, int], ...]:
    """Where sentences of a narration say an earlier one again in other words; ``name`` stands in most and counts for none.

    The very same sentence may be a refrain; ``narration`` in the scores weighs those.
    """
    told: list[set[str]] = []
    again: list[tuple[int, int]] = []
    exact: list[list[str]] = []
    for sentence, whole in _told(text):
        words = {w[:2] for w in whole if len(w) > 1 and not (name and w.startswith(name))}
        if len(words) < 3 or whole in exact:
            continue
        exact.append(whole)
        shared = ((len(words & other), len(other)) for other in told)
        if any(both >= ALMOST * (len(words) + size - both) for both, size in shared):
            again.append((sentence.end() - len(sentence[0].lstrip()), sentence.end()))
        told.append(words)
    share, least, anywhere = SAID_AGAIN
    return tuple(again) if len(again) >= anywhere or len(again) >= max(least, share * len(told)) else ()


def _prose(text: str) -> str:
    """The narration without the lines of a song in it, which sing one thing after the other: lines without an end, as long as
    they are the smaller part. As long as the text, so that places stay places.
    """
    told = narration(text)
    lines = [m for m in re.finditer(r"[^\n]+", told) if WORD.search(m[0]) and not _CLOSED.search(m[0].strip())]
    if 2 * sum(len(m[0]) for m in lines) > len(told):
        return told
    for line in lines:
        told = told[: line.start()] + " " * len(line[0]) + told[line.end() :]
    return told


@lru_cache(maxsize=8)
def _changed(text: str) -> dict[tuple[str, ...], dict[str, tuple[int, int]]]:
    """Three words of a narration around a gap -> the words that fill it and where they stand; counting is no loop.

    The gap is inside, as what stands before and after a refrain always differs.
    """
    said = WORD.findall(text)
    # Most stories have no two words so often, and are done with after one count.
    if sum(times >= CHANGED for times in Counter(said).values()) < 2:
        return {}
    often = Counter(zip(said, said[2:], said[3:], strict=False)) + Counter(zip(said, said[1:], said[3:], strict=False))
    frames = {frame for frame, times in often.items() if times >= CHANGED and len(set(frame)) > 1}
    found: dict[tuple[str, ...], dict[str, tuple[int, int]]] = {}
    words = list(WORD.finditer(text)) if frames else []
    for a, b, c, d in zip(words, words[1:], words[2:], words[3:], strict=False):
        for frame, gap in (((a[0], "", c[0], d[0]), b), ((a[0], b[0], "", d[0]), c)):
            if tuple(filter(None, frame)) in frames and not _NUMERAL.match(gap[0]):
                found.setdefault(frame, {}).setdefault(gap[0], (a.start(), d.end()))
    # In a cumulative tale the next one takes hold of the last (손자가 와서 할머니를 잡아당겨요): each stands elsewhere too.
    return {
        frame: gaps
        for frame, gaps in found.items()
        if len(gaps) < CHANGED or sum(text.count(_PARTICLE.sub("", gap)) > 1 for gap in gaps) < len(gaps) - 1
    }


def repeats(scores: dict[str, float]) -> bool:
    """Whether the measures of ``repetition_scores`` make a loop."""
    return (
        scores["run"] >= SAME_WORD_RUN
        or scores["phrase"] >= SAME_PHRASE_RUN
        or scores["narration"] >= REPEATED_NARRATION
        or scores["grams"] >= REPEATED_GRAMS
        or scores["compression"] < COMPRESSION
        or scores["alike"] >= ALIKE
        or scores["changed"] >= CHANGED
        or scores["echoed"] >= ECHOED
        or (scores["words"] >= 25 and scores["new_words"] < NEW_WORDS)
    )


def repetition(pair: Pair, config: FilterConfig) -> Finding | None:
    """A loop, exact or slightly varied; refrains, sounds and repeated lines of dialogue pass."""
    text = pair.output
    if stutter := _STUTTER.search(text) or _STUCK.search(text) or stuttered(text):
        return Finding("repetition", *stutter.span())
    twice = (m for m in _TWICE.finditer(narration(text)) if morphemes(m[1])[-1].tag in ("JKO", "JKS"))
    if found := _several("repetition", twice, DOUBLED):
        return found
    if repeats(repetition_scores(text)):
        return Finding("repetition", *_loop(text))
    again = _said_again(narration(text), _called(pair))
    return Finding("repetition", *again[0]) if again else None


def _loop(text: str) -> tuple[int, int]:
    """What shows a loop best: a sentence that comes again, words with one of them changed, the longest words that return."""
    seen: set[str] = set()
    for match in SENTENCE.finditer(text):
        key = "".join(WORD.findall(match[0]))
        if len(key) >= 6 and key in seen:
            return match.end() - len(match[0].lstrip()), match.end()
        seen.add(key)
    for places in _changed(_prose(text)).values():
        if len(places) >= CHANGED:
            return [*places.values()][1]
    words = list(WORD.finditer(text))
    for length in range(min(8, len(words)), 1, -1):
        before: set[tuple[str, ...]] = set()
        for part in zip(*(words[i:] for i in range(length)), strict=False):
            key = tuple(m[0] for m in part)
            if key in before:
                return part[0].start(), part[-1].end()
            before.add(key)
    return 0, len(text)


@lru_cache(maxsize=8)
def _about_the_task(text: str) -> list[re.Match[str]]:
    """Sentences of a narration that speak of the text itself instead of telling."""
    found = [m for m, kinds in _talk(text) if len(kinds) >= TALK_KINDS]
    if len({m[0] for m in finditer(wording.TASK, text)}) >= TASK_WORDS:
        found += [m for m, _ in _told(text) if len(set(wording.TASK.findall(m[0]))) >= TASK_WORDS]
    return found


_REPORTED = re.compile(r"(?:하고|[라다냐자]고) (?:[가-힣]+ )?(?:말|물|외|소리|속삭|소곤|부탁|대답|생각|빌|졸)")
"""Speech without quotation marks: 내 이야기를 들어 주세요, 하고 바람이 말했어요."""


@lru_cache(maxsize=8)
def _talk(text: str) -> tuple[tuple[re.Match[str], set[str]], ...]:
    """The sentences of a narration with the kinds of ``wording.TALK`` in them; the first two and the last two share theirs,
    as comments stand at the edges and in more than one sentence.
    """
    reported = may_match(_REPORTED, text)
    told = [m for m, _ in _told(text) if not (reported and _REPORTED.search(m[0]))]
    kinds: list[set[str]] = [set() for _ in told]
    starts_at = [m.start() for m in told]
    for kind, pattern in wording.TALK.items():
        for match in finditer(pattern, text):
            at = bisect_right(starts_at, match.start()) - 1
            if at >= 0 and match.start() < told[at].end():
                kinds[at].add(kind)
    for a, b in ((0, 1), (-2, -1)) if len(told) > 3 else ():
        if kinds[a] and kinds[b]:
            kinds[a] = kinds[b] = kinds[a] | kinds[b]
    return tuple(zip(told, kinds, strict=True))


def refusal(pair: Pair, config: FilterConfig) -> Finding | None:
    """The model declines instead of telling."""
    text = narration(pair.output)
    found = _first("refusal", wording.REFUSAL, text) or _first("refusal", wording.SORRY_START, text)
    for said, kinds in () if found else _talk(text):
        if len(kinds) >= TALK_KINDS and "no" in kinds and kinds & {"make", "text"} and kinds & {"me", "you"}:
            return _shown("refusal", said)
    aside = [] if found else _about_the_task(text)
    # Reasons why there is no story, and nothing happens.
    if aside and len(_PAST.findall(text)) <= 0.25 * len(sentences(text)):
        return _shown("refusal", aside[0])
    return found


_PARAGRAPH = re.compile(r"(?:[^\n]|\n(?!\s*\n|-{3,}|[(\[]))+")
_MARKDOWN = re.compile(r"\*\*|```|^#+ ", re.MULTILINE)


def meta(pair: Pair, config: FilterConfig) -> Finding | None:
    """Talk about the task around the story: a greeting, a title in Markdown, a comment, an offer."""
    text = narration(pair.output)
    found = _first("meta", wording.META, text) or _first("meta", _MARKDOWN, pair.output) or _title(pair)
    if found:
        return found
    if aside := _about_the_task(text):
        return _shown("meta", aside[0])
    if apart := _set_apart(text, _called(pair)):
        return apart
    # Honorific questions to the reader come at the very end.
    for last in sentences(text)[-3:]:
        if wording.ASKS_READER.search(last) and "께서" not in last:
            at = text.rfind(last)
            return Finding("meta", at, at + len(last))
    return None


def _set_apart(text: str, name: str) -> Finding | None:
    """A first or last paragraph where nothing happens, the main character is not named, and two kinds of talk meet."""
    parts = [m for m in _PARAGRAPH.finditer(text) if WORD.search(m[0])]
    for part in (parts[0], parts[-1]) if len(parts) > 1 else ():
        kinds = {kind for kind, pattern in wording.TALK.items() if pattern.search(part[0])}
        # Who asks the reader may say what was done: 이렇게 끝맺어 봤는데 괜찮은가요?
        told = len(_PAST.findall(part[0])) > ("you" in kinds)
        if len(kinds) >= TALK_KINDS - 1 and not told and not (name and name in part[0]):
            return _shown("meta", part)
    return None


def _title(pair: Pair) -> Finding | None:
    """A title, a line without an end that names character or key word, set apart or twice. Verses have more such lines."""
    lines = [m for m in re.finditer(r"[^\n]+", pair.output) if m[0].strip()]
    bare = [m for m in lines if not _CLOSED.search(m[0].strip())]
    names = [w for w in (_called(pair), *pair.keywords) if w]
    # Or one over an empty line, where all other lines have an end.
    head = bare[0] if len(bare) == 1 and bare[0] is lines[0] and len(lines) > 1 else None
    apart = head and len(head[0].strip()) <= TITLE and pair.output[head.end() : lines[1].start()].count("\n") > 1
    if head and apart and any(n in head[0] for n in names):
        return Finding("meta", *head.span())
    for a, b in itertools.combinations(bare if 2 * len(bare) <= len(lines) + 3 else [], 2):
        if a[0].strip() == b[0].strip() and any(n in a[0] for n in names):
            return Finding("meta", *b.span())
    return None


def _called(pair: Pair) -> str:
    """The short name of the main character, empty where there is none."""
    return short_name(pair.character) if pair.character.strip() else ""


_LIST_MARK = re.compile(r"[/|+=;:]|,[^,\n]*,")


def prompt_echo(pair: Pair, config: FilterConfig) -> Finding | None:
    """The instruction comes back. An opening line that the instruction quotes is asked for and may come back."""
    text = narration(pair.output)
    found = _first("prompt_echo", wording.ECHO_LABEL, text)
    if found:
        return found
    blanks = [w for w in (pair.character, _called(pair), *pair.keywords) if w]
    # A line that lists name and key words before the story: [퐁퐁 / 대나무, 북].
    head = re.search(r"[^\n]*\S[^\n]*", text)
    listed = head and _called(pair) and all(w in head[0] for w in (_called(pair), *pair.keywords))
    if head and listed and _LIST_MARK.search(head[0]) and not _CLOSED.search(head[0].strip("[]() ")):
        return _shown("prompt_echo", head)
    asked = QUOTED.sub("\0", pair.instruction)
    dense, wanted = "".join(text.split()), "".join(asked.split())
    for i in range(len(wanted) - ECHO + 1):
        piece = wanted[i : i + ECHO]
        if "\0" not in piece and piece in dense:
            rest = piece
            for word in blanks:
                rest = rest.replace("".join(word.split()), "")
            if len(rest) >= ECHO - 6:
                places = [i for i, c in enumerate(text) if not c.isspace()]
                at = dense.index(piece)
                return Finding("prompt_echo", places[at], places[at + ECHO - 1] + 1)
    return None


_FOREIGN = re.compile(
    r"[\u0370-\u052f\u0530-\u058f\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff\u0f00-\u10ff\u1200-\u137f\u1400-\u167f\u1780-\u18af\u1e00-\u1fff"
    r"\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\ufb1d-\ufdff\ufe70-\ufefc\uff66-\uff9f\U00020000-\U0002fa1f。、！？，：；]+"
)
_ACCENTED = re.compile(r"[A-Za-z]*[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f][A-Za-z\u00c0-\u024f]*")


def foreign_script(pair: Pair, config: FilterConfig) -> Finding | None:
    """Hanja, kana, Cyrillic and the like, one character of which a child cannot read; also full-width marks of Chinese text."""
    found = _first("foreign_script", _FOREIGN, pair.output)
    return found or (None if _MOJIBAKE.search(pair.output) else _first("foreign_script", _ACCENTED, pair.output))


_LATIN = re.compile(r"[A-Za-zＡ-Ｚａ-ｚ][A-Za-zＡ-Ｚａ-ｚ'’]*")
_LATIN_OK = re.compile(r"[A-Z]{1,4}|[a-z]|cm|mm|km|kg|ml|im_end|im_start")
_LATIN_ROW = re.compile(r"(?<![A-Za-z])[A-Za-z]{2,}[,!]? [A-Za-z]{2,}(?![A-Za-z])")
_MACHINE = re.compile(
    r"<\|?/?[A-Za-z_][^<>\n]{0,30}\|?>|&[a-z]{2,6};|\\[a-z]|\S+@\S+|https?://\S+|www\.\S+|\S+\.(?:com|net|org|kr)\b"
)


def english_mix(pair: Pair, config: FilterConfig) -> Finding | None:
    """Latin words; initials (TV), units and what the instruction itself says may stand."""
    allowed = set(_LATIN.findall(pair.instruction + " " + pair.character))
    text = pair.output
    if may_match(_MACHINE, text):
        text = _MACHINE.sub(lambda m: " " * len(m[0]), text)
    for match in _LATIN.finditer(text):
        word = match[0].rstrip("'’")  # a closing quotation mark is no part of it
        if not _LATIN_OK.fullmatch(word) and not {word, match[0]} & allowed:
            return Finding("english_mix", *match.span())
    for match in _LATIN_ROW.finditer(text):
        if not set(match[0].split()) <= allowed:
            return Finding("english_mix", *match.span())
    return None


_MOJIBAKE = re.compile(
    r"[\u00c0-\u00ff][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]|[\u0080-\u009f]|占쏙|쏙옙|(?:Ã|Â|ì|ë|í|ê)[^\sA-Za-z가-힣]"
)
_EMOJI = re.compile(r"[\U0001f000-\U0001faff\u2600-\u2604\u2607-\u2638\u2702-\u27bf\u2b50\u2b55]\ufe0f?")
_BROKEN = re.compile(
    r"[\ufffd\ufffe\uffff\ue000-\uf8ff\u200b-\u200f\u202a-\u202e\u2060-\u2064\u00ad\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+"
    r"|<\|[^|>]*\|?>|</?(?:s|p|br|div|b|i|pad|unk|eos|bos|user|assistant|system|html|body|span|INST|think|sep|cls|mask)\s*/?>|\[/?(?:INST|UNK|PAD|SEP|CLS|MASK|BOS|EOS)\]|<unk>"
    r"|&(?:nbsp|amp|lt|gt|quot|#\d+);|\\+(?:n|t|r|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|\")|%[0-9A-F]{2}%[0-9A-F]{2}"
    r"|<0x[0-9A-Fa-f]{2}>|[\u0300-\u036f]|(?<![가-힣])(?:[가-힣] ){7,}|[ㄱ-ㅎㅏ-ㅣ]{2,}|(?<=[가-힣])[ㄱ-ㅎㅏ-ㅣ]|[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff\uffa0-\uffdc]|[{}]|</?[A-Za-z][^<>\n]{0,80}>|[!?]{6,}|[.,]{8,}|[;:#@$%^&*_=+|~\\/<>-]{5,}|[□■◆◇▒▓█�]{2,}|[가-힣]{30,}|▁|Ġ|##[가-힣]"
)


# Syllables lost to a question mark (숲?에), a particle on a line of its own.
_LOST = re.compile(r"[가-힣]\?[가-힣]")
_LOOSE = re.compile(r"(?<=[가-힣])\n(?:은|는|을|를|의|에게|에서) ")
_LONG_WORD = re.compile(rf"[가-힣]{{{RUN_TOGETHER},}}")


@cache
def _everyday_syllables() -> frozenset[str]:
    return frozenset(c for code in range(0xAC00, 0xD7A4) if len((c := chr(code)).encode("euc-kr")) == 2)


def broken_text(pair: Pair, config: FilterConfig) -> Finding | None:
    """Wrong decoding, control tokens, escapes, lone letters of Hangul, scattered emoji, syllables that are none, half a
    pair of quotation marks, lost or stray spaces.
    """
    text = pair.output
    found = _first("broken_text", _BROKEN, text) or _first("broken_text", _MOJIBAKE, text)
    found = found or _several("broken_text", _EMOJI.finditer(text), EMOJI, different=False)
    if found:
        return found
    strange = {c for c in set(text) - _everyday_syllables() if "가" <= c <= "힣"}
    if len(strange) >= RARE_SYLLABLES:
        at = min(map(text.index, strange))
        return Finding("broken_text", at, at + 1)
    for run in _LONG_WORD.finditer(text):
        if len(set(run[0])) >= RUN_TOGETHER:
            return Finding("broken_text", *run.span())
    for pattern in (_LOST, _LOOSE):
        if found := _several("broken_text", pattern.finditer(text), 2, different=False):
            return found
    for ending in _endings(narration(text)):
        if garbled(text[ending.start : ending.end]):
            return Finding("broken_text", ending.start, ending.end)
    if (lone := _unpaired(text)) and not (lone[1] and truncated(pair, config)):
        start, end = next((s.span() for s in SENTENCE.finditer(text) if s.end() > lone[0]), (lone[0], lone[0] + 1))
        return Finding("broken_text", lone[0] if lone[1] else start, end)
    words = text.split()
    if len(words) > 20 and sum(len(w) == 1 for w in words) > 0.5 * len(words):
        return Finding("broken_text", 0, len(text))
    # Counting them is for the few texts that have no spaces to speak of.
    glued = 9 * len(words) < len(text) and 9 * len(words) < sum("가" <= c <= "힣" for c in text)
    if len(text) > 60 and (glued or not unicodedata.is_normalized("NFC", text)):
        return Finding("broken_text", 0, len(text))
    return None


_ACTS = re.compile(r"(?<![가-힣])([가-힣]{2,})(?:은|는|이|가)(?![가-힣])")
_I = re.compile(r"(?<![가-힣])(?:나는|난|내가|나를|나의|나도|저는|제가|저를|저도|우리는|우리가)(?![가-힣])")


def missing_character(pair: Pair, config: FilterConfig) -> Finding | None:
    """The main character does not appear under its name, or only where the story begins and then another one's does."""
    if not pair.character.strip():
        return None
    text = pair.output
    last = last_called(pair.character, text)
    if last is None:
        return Finding("missing_character", missing=(pair.character.strip(),))
    return Finding("missing_character", *last) if last[0] < GONE * len(text) and _succeeded(pair, last[1]) else None


def _succeeded(pair: Pair, end: int) -> bool:
    """Whether somebody new acts twice after ``end``, and nobody who may be the main character: 나는, 임금님은."""
    told = narration(pair.output)
    kinds = [kind[-2:] for kind in pair.character.split()[:-1]]
    if _I.search(told) or any(kind in told[end:] for kind in kinds):
        return False
    acting = Counter(m[1] for m in _ACTS.finditer(told, end))
    return any(n > 1 and who not in told[:end] and who not in pair.keywords for who, n in acting.items())


def missing_keyword(pair: Pair, config: FilterConfig) -> Finding | None:
    """Key words that the story does not use in any form."""
    missing = tuple(w.strip() for w in pair.keywords if w.strip() and not uses(w.strip(), pair.output))
    return Finding("missing_keyword", missing=missing) if missing else None


def unsafe(pair: Pair, config: FilterConfig) -> Finding | None:
    """Not for small children."""
    found = _first("unsafe", wording.UNSAFE, pair.output)
    if found:
        return found
    for match in () if wording.NO_CHILD.search(pair.character) else finditer(wording.HAZARD, pair.output):
        start, end = pair.output.rfind(".", 0, match.start()) + 1, pair.output.find(".", match.end())
        # The sentence itself and the next one, where a warning would stand.
        after = pair.output.find(".", end + 1) if end >= 0 else -1
        # The main character may itself be a grandmother.
        near = pair.output[start : after if after >= 0 else None].replace(pair.character or " ", "")
        if not wording.CAREFUL.search(near):
            return Finding("unsafe", *match.span())
    if all(pattern.search(pair.output) for pattern in wording.LURED) and not wording.REFUSES.search(pair.output):
        return _first("unsafe", wording.LURED[-1], pair.output)
    return None


def bias(pair: Pair, config: FilterConfig) -> Finding | None:
    """A prejudice that the story lets stand. One that it answers (an apology, "아니야") is a theme, not a fault."""
    text = pair.output
    resigned = bool(wording.RESIGNED.search(text))
    for pattern in (wording.BIAS_SURE, wording.BIAS, *([wording.BIAS_RESIGNED] if resigned else [])):
        for match in finditer(pattern, text):
            if resigned or not wording.REFUTED.search(text, match.end()):
                return Finding("bias", *match.span())
    return None


def pii(pair: Pair, config: FilterConfig) -> Finding | None:
    """Telephone, e-mail, web and postal addresses, numbers of people, accounts, cards and cars."""
    return _first("pii", wording.PII, pair.output) if wording.PII_SIGNS.search(pair.output) else None


_LISTED = re.compile(r"^\s*(?:\d{1,2}[.)]|[-•*·▶✔①-⑳]|[가나다라마바사][.)]|(?:첫|둘|셋|넷)째[,:]|\d단계)\s*\S", re.M)
_NUMBERED = re.compile(r"(?<!\d)(\d{1,2})[.)]\s+(?=[가-힣“\"‘'])")
_ITEMS = re.compile(rf"(?:[가-힣 ]{{1,8}},\s?){{{LISTED_ITEMS},}}")
_QA = re.compile(r"^\s*(?:질문|문제|문|물음|답|대답|답변|정답|Q|A|문답)\s?\d?\s?[:：.)]", re.M)
_SCRIPT = re.compile(r"(?:^|(?<=[.!?…)”\"]) )\s*[가-힣A-Z ]{1,8}\s?(?:\([^)]{1,20}\)\s?)?[:：]\s*\S", re.M)
_PAST = re.compile(rf"(?![있겠]){_SS}(?:어요|지요|답니다|습니다|다|죠|단다|어|지|고|는데|지만|네|거든|을)")
_FORMAL_PRESENT = re.compile(rf"{_B}니다[.\s]")


def not_a_story(pair: Pair, config: FilterConfig) -> Finding | None:
    """A recipe, a lexicon entry, questions and answers, a list, an advertisement, a play script, code."""
    text = narration(pair.output)
    for pattern, least in ((_QA, 2), (_LISTED, 3), (_SCRIPT, 3)):
        if found := _several("not_a_story", finditer(pattern, text), least, different=False):
            return found
    steps = [*itertools.islice(finditer(_NUMBERED, text), 3)]
    if [int(m[1]) for m in steps] == [1, 2, 3]:
        return Finding("not_a_story", steps[0].start(), steps[2].end())
    for items in finditer(_ITEMS, text):
        if "셋" not in items[0] or items[0].count(",") >= COUNTED_ITEMS:
            return Finding("not_a_story", *items.span())
    count = len(sentences(text))
    past = len(_PAST.findall(text))
    still = past <= 0.25 * count
    found = _several("not_a_story", finditer(wording.ESSAY, text), REASONED, different=False) if still else None
    if still and not found:
        found = _several("not_a_story", finditer(wording.ADDRESS, text), ADDRESSED, different=False)
    found = found or _several("not_a_story", finditer(wording.NOT_STORY, text), 1 if still else 2, different=False)
    if found:
        return found
    # Facts about the world: long sentences, no voice, hardly a word of the main character.
    calm = not QUOTED.search(pair.output) and not re.search(r"[!?~♪]", text)
    facts = count >= 5 and past <= 0.2 * count and calm and len(text) >= STATED * count
    if facts and _called(pair) and len(starts(_called(pair), text)) <= 2:
        return Finding("not_a_story", 0, len(text.rstrip()))
    # Nothing ever happened: all sentences state in the formal present, and nobody speaks or acts in the past.
    stated = list(_FORMAL_PRESENT.finditer(text + "\n"))
    if count >= 5 and past <= 0.15 * count and len(stated) >= 0.7 * count and text == pair.output:
        return Finding("not_a_story", stated[0].start(), stated[-1].end() - 1)
    return None


def incoherent(pair: Pair, config: FilterConfig) -> Finding | None:
    """Two sentences of the narration that contradict themselves; one may be a joke."""
    return _several("incoherent", finditer(wording.CONTRADICTION, narration(pair.output)), 2)


_CLIPPED = re.compile(
    r"(?:[가-힣]?(?:음|함|임|됨|짐|봄|옴|감|줌|킴|김|림|침|남|냄|씀|뜸|춤)|다고 함|라고 함)[.!?~ㅋㅎ\s]*$"
)
_CLIPPED_NOUN = re.compile(
    r"(?:마음|처음|다음|얼음|웃음|울음|걸음|가슴|사람|바람|구름|이름|아침|그림|여름|기침|점심|친구임|봄|춤|잠|꿈|힘|밤|섬|곰|감)[.!?~\s]*$"
)


_INTIMATE = frozenset(["어", "아", "지", "네", "거든", "구나"])


def wrong_register(pair: Pair, config: FilterConfig) -> Finding | None:
    """Swearing, net slang, memo style (-음/-함), news and office style, plain and polite endings in turn.

    Plain -다 all along and a teller's -단다 are fine.
    """
    text = pair.output
    found = _first("wrong_register", wording.SWEAR, text)
    if found:
        return found
    told = narration(text)
    found = _several("wrong_register", finditer(wording.SLANG, text), 2, different=False)
    found = found or _several("wrong_register", finditer(wording.NEWS, told), 2)
    if found:
        return found
    clipped = [m for m, _ in _told(told) if _CLIPPED.search(m[0]) and not _CLIPPED_NOUN.search(m[0])]
    if len(clipped) >= 3 and len(clipped) >= CLIPPED_ENDINGS * len(sentences(told)):
        return _shown("wrong_register", clipped[0])
    forms = [(e, e.parts[-1].form) for e in _endings(told) if e.parts[-1].tag in ("EF", "EC")]
    plain = [e for e, form in forms if form in ("다", "ᆫ다", "는다")]
    polite = [e for e, form in forms if form.endswith(("요", "니다", "죠"))]
    intimate = [e for e, form in forms if form in _INTIMATE and any(p.tag == "EP" for p in e.parts)]
    intimate += [e for e, form in forms if form.endswith(("단다", "란다"))]
    for others, least in ((plain, MIXED), (intimate, MIXED_TALK)):
        fewer = min(others, polite, key=len)
        if len(fewer) >= least:
            return Finding("wrong_register", fewer[0].start, fewer[0].end)
    return None


_EUL = re.compile(rf"([가-힣]*{_OPEN})을(?![가-힣])")
_EUL_OK = frozenset("마가노고지나부이저그여우으누느더거니어")
_MISFORMED = (
    # Particles of the wrong form or two of a kind; two endings, or a particle on one.
    re.compile(
        rf"(?<![가-힣])(?!들를)[가-힣]*{_CLOSED_SYLLABLE}를(?![가-힣])|[가-힣]+{_CLOSED_SYLLABLE}와(?=[\s,])"
        r"|(?:은는|는은|을를|를을|에게를|에서를|에를|에게에|으로에)(?![가-힣])"
        r"|습니다(?:요|어요|네요|죠|고요|는)|니다어요|(?<![바판소수])다요[.!?]|(?<=[가-힣])[아어여해]어요(?![가-힣])"
        r"|(?:어요|아요|습니다)(?:는|은|를|을|가|에|의)(?=[\s.,])"
    ),
    # A stem of the past without its ending (날아갔.).
    re.compile(rf"[가-힣]*{_SS}(?![가-힣…—~-]|\s?\.\.|\. 습)"),
    # What no verb form can be (물었요 웃었어었어요 먹였게 하다, 됐는 거, 가았어요 기쁘었어요 서었어요 살아어요; but 나았다,
    # 자았다, 그었다, 저었다).
    re.compile(
        rf"[가-힣]*{_SS}(?:요(?![가-힣])|니다|습[어았었]|어[았었])|(?!있){_SS}(?:게 [하되만]|는 거)|[았었]았|었었었|하여었"
        rf"|(?![나자]){_syllables([0], [0])}았|(?!저){_syllables([0], [4])}었|(?!그){_syllables([0], [18])}었"
        # Vowels that do not go together (감었다, 먹았다; 갔었다 is right), what is glued to an ending (했어요다, 갔습니다다).
        rf"|{_syllables([f for f in range(28) if f != 20], [0, 8])}었|{_syllables(range(28), [1, *range(3, 8), 10, 11, *range(13, 21)])}았"
        rf"|(?:{_SS}어요|습니다)(?![라하만마그며고람아오우])[가-힣]|[아어여해]요[었았]"
    ),
    # Passives of passives; what only a translation says.
    re.compile(
        rf"{_syllables([0], [6])}(?<!던)져[졌지진]|[가-힣]+에 의해(?![가-힣])|[가-힣]{{2,}}[함음]을 가졌"
        r"|(?:[어아여해]요|[았었]다) 때문|결정을 만들|[는은을] 것을 가졌|[는은을] 것이 되었"
        # A person takes 에게; what is, comes about or is felt takes no object.
        r"|(?:엄마|아빠|할머니|할아버지|아저씨|아주머니|선생님|친구|동생|언니|누나|오빠)에(?= (?!대|관|비|의|따|이어|못지|지지|둘러))"
        r"|[가-힣](?:을|를) (?:있었|없었|되었|도착했|나타났|사라졌|기뻤|슬펐|행복했|즐거웠|무서웠|놀랐|예뻤|생겼|태어났)"
        r"|(?:되어|돼|나와|들어와)졌|그것(?:에 의해|으로부터)|(?<![가-힣])그 자신(?:에게|을|의)"
    ),
)
_MISFIT = re.compile(
    rf"(?<![가-힣])[가-힣]*(?:{_OPEN}(은|이|과|을|으로|이라는)|{_CLOSED_SYLLABLE}(는|가|로|라는))(?![가-힣])"
)
_STACKED = re.compile(r"(?<![가-힣])[가-힣]{2,}(?:가|를|을)(?:는|은|이|가|을|를|도)(?![가-힣])")
_MODIFIER = re.compile(r"(?<![가-힣])([가-힣]+[는은])\s+했(?:어요|다|지요|답니다|습니다)")
_NAMED = re.compile(r"(?:가|를|의|도|야|와|에게|랑)(?![가-힣])")
_WRONG_AFTER = {True: ("는", "가", "로", "라는", "랑"), False: ("은", "을", "과", "이랑", "으로", "이라는")}
"""Particles that do not stand after a final consonant (True) or after none."""


def ungrammatical(pair: Pair, config: FilterConfig) -> Finding | None:
    """Particles of the wrong form (우산를, 토토은), doubled particles and endings, translated passives."""
    text = pair.output
    for pattern in _MISFORMED:
        if found := _first("ungrammatical", pattern, text):
            return found
    if found := _unfinished(narration(text)):
        return found
    for match in finditer(_EUL, text):
        word = match[1]
        if len(word) > 1 and word[-1] not in _EUL_OK:
            return Finding("ungrammatical", *match.span())
    names = [w for w in (_called(pair), *pair.keywords) if len(w) > 1 and "가" <= w[-1] <= "힣"]
    for word in names:
        for form in _WRONG_AFTER[has_final_consonant(word)]:
            if form in ("로", "랑") and (ord(word[-1]) - 0xAC00) % 28 == 8:
                continue
            for at in starts(word + form, text):
                end = at + len(word) + len(form)
                if not "가" <= text[end : end + 1] <= "힣" and not (form == "을" and word.endswith(("가", "마", "노"))):
                    return Finding("ungrammatical", at, end)
    for match in finditer(_STACKED, text):
        tags = [t.tag for t in morphemes(match[0])]
        if any(a in ("JKS", "JKO") and b[0] == "J" for a, b in itertools.pairwise(tags)):
            return Finding("ungrammatical", *match.span())
    for match in finditer(_MODIFIER, text):
        if morphemes(match[1])[-1].tag == "ETM":
            return Finding("ungrammatical", *match.span())
    wrong = [m for m in _MISFIT.finditer(text) if misfits(m[0], m[1] or m[2]) and not _is_name(m[0], pair, text)]
    # 하늘가 and 꽃가 are edges: one 가 may be a poet's.
    if any(not m[0].endswith("가") for m in wrong) or len(wrong) > 1:
        return Finding("ungrammatical", *wrong[0].span())
    return None


def _is_name(word: str, pair: Pair, text: str) -> bool:
    """Whether what looks like 뿔 and 라는 is 뿔라 and 는: the main character, or somebody named so elsewhere."""
    name = word[:-1]
    return word.endswith("라는") and (
        name == _called(pair) or any(_NAMED.match(text, at + len(name)) for at in starts(name, text))
    )


def _unfinished(text: str) -> Finding | None:
    """A sentence of the narration that stops at a bare stem or an adnominal form (싶은., 읽.), several that stop at a
    subject, an object or "because"; 두더지에게. and 아주 천천히. are a teller's.
    """
    hanging = []
    for ending in _endings(text):
        last = ending.parts[-1]
        if ending.alone or text[ending.end : ending.end + 1] != ".":
            continue
        if last.tag == "ETM" or (len(ending.parts) == 1 and last.tag in ("VV", "VA", "VX") and known(last)):
            return Finding("ungrammatical", ending.start, ending.end)
        if last.tag in ("JKS", "JKO") or (last.tag == "EC" and last.form in ("어서", "아서", "면서", "려고")):
            hanging.append((ending, last.tag))
    if len(hanging) >= HANGING and any(tag != "EC" for _, tag in hanging):
        return Finding("ungrammatical", hanging[0][0].start, hanging[0][0].end)
    return None


_PLOT = re.compile(r"이?[가이은는] ([^.!?\n\"“‘']{6,70}?[는은던된한인]) (?:[가-힣]{1,4} )?(?:이야기|동화)")
_MORAL = re.compile(r"(?:배우|배운|깨닫|깨달은|알게 되|느끼|되새기|전하)[가-힣]*$")
_COMMON_WORDS = """
하 되 있 없 나오 들어가 가 오 보 주 살 만나 찾 나누 놀 알 새롭 겪 벌이 떠나 일 것 때 후 전 함께 같이 서로 모두 날 하루 친구 이야기 모험
소동 주인공 등장 활약 장면 마지막 귀엽 신기 즐겁 재미 재미있 행복 따뜻하 덕분
"""
_IN_ANY = frozenset(_COMMON_WORDS.split())
"""What a plot may say and any story may do without."""


def off_prompt(pair: Pair, config: FilterConfig) -> Finding | None:
    """A world of grown-ups (love affairs, business, horror) that nobody asked for, three different such words; or another
    plot than the one that was asked for (곰이 이를 닦고 잠드는 이야기), of three words or more none of which comes up.
    """
    words = (m for m in finditer(wording.ADULT, pair.output) if m[0] not in pair.instruction)
    if found := _several("off_prompt", words, 3):
        return found
    name = _called(pair)
    called = starts(name, pair.instruction) if name else []
    plot = next((m for at in called if (m := _PLOT.match(pair.instruction, at + len(name)))), None)
    # What is to be learned need not be said.
    if not plot or _MORAL.search(plot[1]):
        return None
    asked = [w for w in WORD.findall(plot[1]) if not any(k in w for k in (name, *pair.keywords) if k)]
    parts = [t for w in asked for t in morphemes(w) if t.tag in ("NNG", "XR", "MAG", "VV", "VA")]
    events = dict.fromkeys(t.form + ("다" if t.tag[0] == "V" else "") for t in parts if t.form not in _IN_ANY)
    if len(events) >= EVENTS and not any(uses(event, pair.output) for event in events):
        return Finding("off_prompt", missing=tuple(events))
    return None


SCANNED = (
    wording.REFUSAL, wording.TASK, *wording.TALK.values(), wording.META, wording.ECHO_LABEL, wording.UNSAFE, wording.HAZARD,
    wording.BIAS, wording.BIAS_SURE, wording.NOT_STORY, wording.ADDRESS, wording.ESSAY, wording.SWEAR, wording.SLANG,
    wording.NEWS, wording.ADULT, wording.CONTRADICTION, *_MISFORMED, _BROKEN, _MACHINE, _DOTTED, _HANGING_DOTS, _QA, _LISTED,
    _SCRIPT, _NUMBERED, _ITEMS, _EUL, _STACKED, _MODIFIER, _REPORTED,
)  # fmt: skip
"""The patterns that are worth asking ``lab.scan`` about first: they take long and match few stories."""


CHECKS: tuple[Callable[[Pair, FilterConfig], Finding | None], ...] = (
    too_short, too_long, truncated, repetition, refusal, meta, prompt_echo, foreign_script, english_mix, broken_text,
    missing_character, missing_keyword, unsafe, bias, pii, not_a_story, incoherent, wrong_register, ungrammatical,
    off_prompt,
)  # fmt: skip
"""All checks of a single pair, in the order in which reasons are shown; near-duplicates need the whole run."""


def check_pair(pair: Pair, config: FilterConfig) -> tuple[list[Finding], dict[str, Any]]:
    """Every finding of a pair, and the statistics behind it that are stored with the verdict.

    The length limits are applied when verdicts are cut, so ``chars`` is all that they need.
    """
    findings = [found for check in CHECKS if (found := check(pair, config))]
    return findings, {"chars": len(pair.output.strip()), **repetition_scores(pair.output)}
