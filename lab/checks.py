"""The deterministic checks of the filter: each is a function ``(pair, config) -> Finding | None``.

A finding carries its reason and, where there is one, the offending span of ``pair.output``. All thresholds
and word lists stand at the top with their source. "Calibrated" means: on the 650 filled templates, the 40
reference stories and the good rows of filter_dev.jsonl (all written by people) the threshold flags none or
next to none; the loops and slips of small models were described in tests/fixtures/filter_hard.jsonl.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from lab.config import FilterConfig
from lab.domain import has_final_consonant, short_name
from lab.records import Pair

REASONS = (
    "too_short", "too_long", "truncated", "repetition", "refusal", "meta", "prompt_echo", "foreign_script",
    "english_mix", "broken_text", "missing_character", "missing_keyword", "unsafe", "bias", "pii", "not_a_story",
    "incoherent", "ungrammatical", "wrong_register", "off_prompt", "near_duplicate", "low_score", "below_cut", "reviewer",
)  # fmt: skip
"""Every reason that a verdict may give; the set is stable."""

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
ECHO = 16
"""Characters (spaces left out, character and key words blanked) copied from the instruction."""
EMOJI = 3
"""Emoji in a story for reading aloud; one or two are taken for decoration."""
RARE_SYLLABLES = 3
"""Hangul syllables outside the 2,350 of KS X 1001, which hold all of everyday Korean."""
RUN_TOGETHER = 11
"""Different syllables in one word; calibrated: 나뭇가지투성이였지요 has nine, and sounds drawn out repeat theirs."""
LISTED_ITEMS = 12
"""Short items in a row between commas; a teller names three to eight things."""
CLIPPED_ENDINGS = 0.34
"""Share of sentences that end in -음/-함 (memo style)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason and the span of ``pair.output`` that gave it, where there is one."""

    reason: str
    start: int | None = None
    end: int | None = None


QUOTED = re.compile(r"“[^”]*”|‘[^’]*’|\"[^\"\n]*\"|'[^'\n]*'|「[^」]*」|『[^』]*』")
SENTENCE = re.compile(r"[^.!?…\n]+[.!?…]*[”\"’']?")
WORD = re.compile(r"[0-9A-Za-z가-힣]+")


@lru_cache(maxsize=8)
def narration(text: str) -> str:
    """``text`` with everything in quotes blanked, so that offsets stay: characters may say what a narrator may not."""
    return QUOTED.sub(lambda m: " " * len(m[0]), text)


@lru_cache(maxsize=8)
def sentences(text: str) -> tuple[str, ...]:
    """Sentences by their final marks; a line break ends one too."""
    return tuple(s.strip() for s in SENTENCE.findall(text) if WORD.search(s))


def _first(reason: str, pattern: re.Pattern[str], text: str) -> Finding | None:
    match = pattern.search(text)
    return Finding(reason, *match.span()) if match else None


def too_short(pair: Pair, config: FilterConfig) -> Finding | None:
    """Fewer characters than asked for."""
    return Finding("too_short") if len(pair.output.strip()) < config.min_chars else None


def too_long(pair: Pair, config: FilterConfig) -> Finding | None:
    """More characters than a child of three to five sits through."""
    return (
        Finding("too_long", config.max_chars, len(pair.output)) if len(pair.output.strip()) > config.max_chars else None
    )


_CLOSED = re.compile(r"[.!?…~♪♬♡♥][\s)\]”\"’'」』*♪♬♡♥~\W]*$")
_ENDING = re.compile(
    r"(?:[가-힣]요|니다|란다|[았었였했갔왔났랐렀렸졌쳤셨겠됐섰샀탔폈컸꼈켰췄줬뒀웠]다|끝|[다지야네])[\s)”\"’'」』-]*$"
)
_NOUN_ENDING = re.compile(
    r"(?:바다|소다|판다|수다|강아지|아버지|돼지|편지|먼지|망아지|송아지|반지|바지|가지|휴지|간지|그네|동네|썰매네)\s*$"
)
_DOTTED = re.compile(r"([가-힣]+)\s?(?:\.{2,}|…+)\.?$")
# Dots after a word that must go on: 그런데..., 토토는…
_HANGING = re.compile(
    r"(?:그런데|그리고|그래서|하지만|그러나|그러자|그때|그러면|왜냐하면|[가-힣](?:는|은|를|을|에게|에서|지만|는데|면서|려고))\s?(?:\.{2,}|…+)\.?$"
)


def _goes_on(text: str) -> bool:
    """Whether the text ends in dots after an ending that joins two clauses (올라왔고…)."""
    match = _DOTTED.search(text)
    return bool(match) and _morphemes(match[1])[-1].tag in ("EC", "ETM", "MAJ")


def truncated(pair: Pair, config: FilterConfig) -> Finding | None:
    """The token limit cut the story, or it breaks off in a word, a sentence or a quotation."""
    text = pair.output.rstrip()
    if not text:
        return None
    last = text.rfind("\n") + 1
    tail = Finding("truncated", max(last, len(text) - 12), len(text))
    if pair.finish == "length":
        return tail
    if text.count("“") != text.count("”") and text.rfind("“") > text.rfind("”"):
        return Finding("truncated", text.rfind("“"), len(text))
    if text.count('"') % 2 and text.count('"') > 0:
        at = text.rfind('"')
        if at < len(text) - 1 and (at == 0 or text[at - 1].isspace()):
            return Finding("truncated", at, len(text))
    if text.count("「") > text.count("」") or text.count("『") > text.count("』"):
        return Finding("truncated", max(text.rfind("「"), text.rfind("『")), len(text))
    if text.count("‘") > text.count("’") and text.rfind("‘") > text.rfind("’") and not _CLOSED.search(text):
        return Finding("truncated", text.rfind("‘"), len(text))
    if _HANGING.search(text) or _goes_on(text):
        return tail
    if _CLOSED.search(text):
        return None
    bare = text.rstrip("”\"’'」』)")
    if bare != text and WORD.search(bare[-1:]):
        # A closing quote without a mark: a quoted title or sound may end a story, a half word may not.
        return None
    if _ENDING.search(text) and not _NOUN_ENDING.search(text):
        return None
    return tail


_STUTTER = re.compile(r"([가-힣])\1{11,}|([가-힣]{2,4})\2{7,}")
"""A sound drawn out longer than any storyteller would (하하하하, 데굴데굴데굴데굴 are short)."""
_STUCK = re.compile(
    r"([가-힣]{1,8}(?:는|은|을|를|에게|에서|으로))(?:\s+\1(?![가-힣])){2,}|[가-힣](?:는는|를를)(?![가-힣])"
)
"""A word with its particle three times running, a particle twice."""
_DRAWN = re.compile(r"([가-힣])\1{2,}[가-힣]+")
_PARTICLE = re.compile(
    r"(?<=[가-힣]{2})(?:에게서|에게|한테|에서|까지|부터|처럼|보다|마다|으로|이랑|하고|은|는|이|가|을|를|에|의|도|만|로|와|과|랑|네|들)$"
)


def _stems(text: str) -> list[str]:
    return [_PARTICLE.sub("", w) for w in WORD.findall(text)]


@lru_cache(maxsize=8)
def repetition_scores(text: str) -> dict[str, float]:
    """What the repetition check weighs: shares between 0 and 1, ``run`` a number of repeats."""
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
    plain = [WORD.findall(s) for s in sentences(narration(text))]
    seen: set[str] = set()
    all_chars = repeated = 0
    for parts in plain:
        key = "".join(parts)
        all_chars += len(key)
        if len(key) >= 8:
            repeated += len(key) if key in seen else 0
            seen.add(key)
    long = [parts for parts in plain if len("".join(parts)) >= 9]
    alike = max(
        (sum(len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) < 2 for b in long) for a in long),
        default=0,
    )
    dense = "".join(words)
    grams = Counter(dense[i : i + 6] for i in range(len(dense) - 5))
    total = max(1, sum(grams.values()))
    stems = _stems(narration(text))
    raw = text.encode()
    return {
        "run": best,
        "phrase": phrase,
        "narration": round(repeated / max(1, all_chars), 3),
        "grams": round(1 - len(grams) / total, 3),
        "compression": round(len(zlib.compress(raw, 6)) / max(1, len(raw)), 3),
        "new_words": round(len(set(stems)) / max(1, len(stems)), 3),
        "words": len(stems),
        "alike": alike,
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
        or (scores["words"] >= 25 and scores["new_words"] < NEW_WORDS)
    )


def _stuttered(text: str) -> re.Match[str] | None:
    """A word whose first syllable came out several times (그그그래서, 잔잔잔잔한); sounds (쿵쿵쿵쿵거렸어요) may."""
    for match in _DRAWN.finditer(text):
        start, rest = match[1], match[0].lstrip(match[1])
        for word in (start + rest, start + start + rest):
            first = _morphemes(word)[0]
            if len(first.form) > 1 and first.tag in ("XR", "MAJ", "NP", "VA") and _known(first):
                return match
    return None


def repetition(pair: Pair, config: FilterConfig) -> Finding | None:
    """A loop, exact or slightly varied; refrains, sounds and repeated lines of dialogue pass."""
    text = pair.output
    if stutter := _STUTTER.search(text) or _STUCK.search(text) or _stuttered(text):
        return Finding("repetition", *stutter.span())
    if not repeats(repetition_scores(text)):
        return None
    seen: set[str] = set()
    for match in SENTENCE.finditer(text):
        key = "".join(WORD.findall(match[0]))
        if len(key) >= 6 and key in seen:
            return Finding("repetition", *match.span())
        seen.add(key)
    words = list(WORD.finditer(text))
    for a, b, c in zip(words, words[1:], words[2:], strict=False):
        if a[0] == b[0] == c[0]:
            return Finding("repetition", a.start(), c.end())
    return Finding("repetition")


_TASK_TEXT = """
의성어 의태어 눈높이 결말 소통 아이디어 제안 장면 내용 두려움 유아 독자 어린이 아동 문단 표현 묘사 구성 주제 소재 배경 전개 등장인물 서술
교훈 가치 의미 정보 요청 작성 제공 생성 버전 고려 반영 포함 활용 적합 적절 유의 권장 검토 제시 설정 의도 강조 상징 갈등 해소 연령 발달 교육
학습 정서 공감 배려심 사회성 창의력 상상력 감수성 흥미 유도 분량 어휘 핵심 조건 형식 문체 어조 어투 캐릭터 스토리 플롯 시점 수준 난이도 자극적
폭력적 선정적 민감 지침 기준 정책 서비스 사용자 답변 변경 집필 창작 각색 원고 초안 해설 해석 요약 본문 보호자 교사 과정 소중함 중요성 긍정적
부정적 메시지 전달 여운 몰입 다루었 살렸
"""
_TASK = re.compile("|".join(_TASK_TEXT.split()))
TASK_WORDS = 2
"""Different words of that kind in one sentence of the narration. Calibrated: none of 9,300 sentences of good stories has
two, which tells talk about a text, its readers and its making from a text whatever its wording."""


@lru_cache(maxsize=8)
def _about_the_task(text: str) -> list[re.Match[str]]:
    """Sentences of a narration that speak of the text itself instead of telling."""
    if len(set(_TASK.findall(text))) < TASK_WORDS:
        return []
    return [m for m in SENTENCE.finditer(text) if len(set(_TASK.findall(m[0]))) >= TASK_WORDS]


# What assistants say when they decline, in the polite style that they decline in; looked for outside quotes, as a hare
# may well say that it is sorry. A teller's "대답할 수 없었어요" or "탑을 완성하지 못하고" is part of a story.
REFUSAL = re.compile(
    r"도와\s?드리(?:기|지)\s?(?:는 )?(?:어렵|못|힘들)|도와\s?드릴 수(?:는|가)? ?없|도움을 드리(?:기 어렵|기 힘들|지 못(?:하는|해 죄송|해서 죄송|합니다))"
    r"|(?:작성|제공|생성|답변|응답|창작)(?:해|을|를|하기|하는|할|해드|하여)?[^.!?\n]{0,14}(?:어렵(?:습|겠|네|다는|다고)|없(?:습니다|음을|어요|네요|는 점)|불가|곤란|못하)"
    r"|(?:이야기|동화|글|요청)(?:를|을|은|는)?[^.!?\n]{0,20}(?:쓰|만들|들려드리|진행하|완성하|처리하|수행하|이어 가)기(?:가|는|에는)? (?:어렵|곤란|힘들)(?:습니다|겠|네요)"
    r"|[가-힣] ?드릴 수(?:는|가)? ?없(?:습니다|어요|네요|음을|는 점)|드리(?:기|지)(?:는|가)? ?(?:어렵습|어려울|곤란|힘들겠|않겠습)|(?:쓰|짓|만들|들려드리)지 않(?:겠습니다|기로 했습니다|는 (?:편|것)이 (?:좋|낫))|쓸 수 없(?:습니다|음을|을 것 같습)"
    r"|양해(?:해)?\s?(?:부탁|주시|주세|바랍)|양해를 (?:구합|구하겠|부탁)|너그(?:럽게|러이) (?:이해|양해)해 주|요청(?:하신|을 주신|에 응|에는|은 처리|을 처리|을 들어 ?드|을 수행)"
    r"|(?:적합|적절|부적절|안전)(?:하지 않|하지 못|한)[^.!?\n]{0,20}(?:내용|주제|소재|요청|콘텐츠)|(?:정책|지침|가이드라인|규정)(?:상|에 따라|에 위배|을 위반|에 어긋|에 맞지)"
    r"|다른 (?:주제|요청|이야기|소재|내용|낱말)[^.!?\n]{0,14}(?:알려 ?주(?:시|세)|말씀해|요청해 ?주|원하시|부탁드|제안해 ?드|추천해 ?드|해 ?드릴|주시면)|무엇을 도와 ?드"
    r"|(?:저는|나는) (?:인공지능|AI|에이아이|언어 ?모델|챗봇)[^.!?\n]{0,40}(?:없|못|어렵)|정보가 (?:부족|충분하지)[^.!?\n]{0,8}(?:습니다|네요|여)|(?:구체적인|자세한|추가) (?:정보|내용|설명|요청)[^.!?\n]{0,12}(?:알려|주시|필요합|제공)"
    r"|(?:이어서|계속) (?:쓰|작성|진행)[^.!?\n]{0,10}(?:없습|어렵습)|어떠(?:실까요|신가요)|대답(?:해 드리|을 드리|할 수 없습니다|하기 어렵습)|지원하지 않(?:습|는 (?:기능|요청))"
    r"|(?:이야기|동화|글|장면|내용)(?:는|은|를|을)?[^.!?\n]{0,16}(?:들려줄|쓸|써 줄|만들|지을|해 줄|보여 줄|다룰|이어 갈) 수(?:는|가)? ?없(?:어(?:요)?[.!,]|네|습니다|겠)|(?:장면|부분|내용|묘사)[^.!?\n]{0,30}생략(?:합니다|하겠|할게|했습)"
    r"|(?:제|내|저의|나의) (?:원칙|방침|기준)(?:에|상|과)|(?:이어 ?가|쓰|진행하|계속하|다루)지(?:는)? 않(?:겠습|을게|습니다)|(?:이야기|소재|주제)(?:는|은|로는|로 바꾸면) 어(?:때|떨까)|I(?:'|’)?(?:m| am) (?:sorry|unable)|I can(?:'|’)?(?:t|not)|As an AI",
    re.IGNORECASE,
)
_SORRY_START = re.compile(
    r"^\s*(?:죄송|미안하지만|유감|안타깝게도|양해)[^\n]{0,60}(?:습니다|드립니다|니다만|어요|네요)"
)


def refusal(pair: Pair, config: FilterConfig) -> Finding | None:
    """The model declines instead of telling."""
    text = narration(pair.output)
    found = _first("refusal", REFUSAL, text) or _first("refusal", _SORRY_START, text)
    aside = [] if found else _about_the_task(text)
    # Reasons why there is no story, and nothing happens.
    if aside and len(_PAST.findall(text)) <= 0.25 * len(sentences(text)):
        return Finding("refusal", *aside[0].span())
    return found


META = re.compile(
    r"^\s*(?:네|넵|예|물론|당연하|그럼요|좋아요|좋습니다|알겠|반갑|감사합니다|Sure|Of course|Okay|Here)(?:이?죠|이?지요|입니다|히|[,.!])[^\n]{0,40}(?:드릴|드리|작성|만들|동화|이야기|다음|여기|준비|써|쓰)"
    r"|^\s*(?:안녕하세요|반갑습니다)[,.! ][^\n]{0,40}(?:드릴|드리겠|작성|동화|이야기를|준비)"
    r"|^\s*(?:물론(?:이죠|이지요|입니다|이에요)|알겠습니다|알겠어요|네, ?알겠|좋은 (?:주제|질문|생각|소재|요청)(?:입니다|이네요|이에요|이군요)|(?:제가|저는|그럼|그러면|이제)[^\n.]{0,30}(?:드릴게요|드리겠습니다|보겠습니다|볼게요|써 볼|만들어 볼))"
    r"|(?:다음|아래|여기)(?:은|는|에|에는)?[^.\n]{0,40}(?:동화|이야기|글|답변|내용)(?:입니다|예요|이에요|를 (?:준비했|작성|소개)|을 (?:준비했|작성|소개)|가 있습니다)|여기 있습니다"
    r"|(?:이(?:번)?|위(?:의)?|본|해당) ?(?:이야기|동화|글|작품|스토리)(?:는|은|를|을|가|에서|에는|의)[^.\n]{0,60}(?:작성|교훈|주제|담고|담았|담겨|전달(?:합|하[고려는]|해 ?[요줍주])|가르(?:칩|쳐 ?[줍요주]?(?:니다|줘요|줄 ))|보여 ?(?:줍|줘요|주고 있)|구성(?:되|했|하)|분량|글자|자로|자 (?:정도|내외)|대상|적합|알려 ?(?:줍|줘요|주고 있)|일깨워 ?(?:줍|줘)|강조|메시지|배울 수 있|느낄 수 있|썼습|지었습|만들었습|통해 (?:아이|어린이|우리|친구))"
    r"|(?:수정|변경|추가|보완|다른 (?:버전|이야기)|더 (?:필요|궁금|원하)|도움)[^.\n]{0,24}(?:필요하시|원하시|있으시|알려 ?주(?:시|세)|말씀해|요청해|바랍니다|되(?:었|셨)(?:기를|으면|길))"
    r"|(?:언어 ?모델|인공지능(?:으로|이기|입니|으로서)|AI (?:모델|어시|언어)|챗봇)|(?:결말|분량|내용|이야기|길이|표현)[^.\n]{0,20}(?:바꾸|고치|늘리|줄이)[^.\n]{0,20}(?:가능|수 있습니다|수도 있|드릴)"
    r"|(?:아이|자녀|아기|어린이)(?:에게|와 함께|들에게|들과|와)[^.\n]{0,20}(?:읽어 ?주(?:실|시면|세요)|들려 ?주(?:시면|세요)|읽으실|이야기 ?(?:를 )?나누(?:어|면|세)|이야기해 보(?:세|시)|물어보(?:세|시)|물어봐 주)|부모님(?:께|들께)(?:서)?(?:는|서는)?[^.\n]{0,20}(?:읽어|들려|지도|설명해|당부)|(?:읽어|들려) ?주실 때|효과적입니다"
    r"|^\s*[#>]+\s|\*\*|__[가-힣]|^\s*(?:-{3,}|={3,}|\*{3,})\s*$|```|^\s*\|.*\|"
    r"|^\s*[\[<(【]?\s*(?:제목|교훈|주제|줄거리|등장인물|배경|해설|참고|주의|메모|작가|동화 ?제목|글자 ?수|분량|낱말 ?풀이|(?:작성자|글쓴이|지은이|작가)(?:의)? ?(?:노트|말|메모)|설명|의도|활동|질문|생각해 ?보기|요약|답변|출력|응답|결과|장르|Title|Story|Note|Answer|Output)\s*[\]>)】]?\s*[:：\-]"
    r"|^\s*[\[(【<〈](?:제목|교훈|해설|해석|설명|참고|작가|의도|시작|끝|동화|이야기|본문|도입|결말|전개|장면)[^\])】>〉\n]{0,12}[\])】>〉]|\((?:다음 (?:편|이야기)에 )?계속\)?"
    r"|[(\[](?:약|총|공백)?\s?[^)\]\n]{0,8}\d{2,3}\s?자[^)\]\n]{0,8}[)\]]|(?:총|약) ?\d{2,3}\s?(?:자|글자)(?:로|입니다|정도|내외|이에요)|\d{2,3}\s?자\s?(?:내외|분량|이내)|글자 ?수\s?(?:[:：(]|는 \d)"
    r"|(?:즐거운|행복한|좋은) (?:시간|하루|밤|독서)[^.\n]{0,12}(?:되세요|보내세요|되시|되길)|감상하(?:세요|시)|사용자(?:가|의|님)|프롬프트|지시(?:문|사항)|조건(?:에 맞|을 (?:모두|충족|만족))|독후 ?활동|등장인물(?:은|을|의)"
    r"|(?:동화|이야기)(?:를|을) (?:작성|써 ?드|만들어 ?드|들려 ?드|준비했습|시작하겠|마치겠|마칩니다|지어 ?드)|마음에 (?:드셨(?:으면|기를|길|나요|다면)|드시(?:나요|길|면)|들었으면)|도움이 (?:되셨|되었)(?:으면|기를|길)"
    # A service at the reader's disposal; a teller asks "무엇일까요?", never "원하시나요?".
    r"|드릴까요|드리겠습니다|(?:보|하|주)시면 (?:좋|됩|감사)|(?:보|하|주)시기 바|부탁드(?:려요|립니다)|(?:물어봐|말씀해|알려|불러) ?주세요|(?:구성|작성|각색|창작|집필|서술|반영)(?:해|하여) ?(?:보았|봤|드렸|드려)"
    r"|(?:이상으로|이것으로|여기까지)[^.!?\n]{0,30}(?:마치|마무리)(?:겠습|ㄹ게|할게|하겠|합니다)|(?:을|를) (?:상징|의미)(?:하|합|해요)|(?:소중함|중요함|중요성)을 (?:배울|알 수|느낄|전달|일깨)"
    # What stands around stories on the web.
    r"|#[가-힣A-Za-z_]+|구독|좋아요(?:와|를|도)? ?(?:부탁|눌러|누르)|댓글|홈페이지|블로그|유튜브|카톡|카카오톡|인스타그램|오픈 ?채팅|클릭|다운로드|무단 ?(?:전재|복제|배포)|저작권|[ⓒ©]|출처\s?[:：]|네이버",
    re.IGNORECASE | re.MULTILINE,
)
_ASKS_READER = re.compile(
    r"(?:셨|으신)(?:어요|지요|죠)\?|드릴 수(?:는|도)? ?있|(?:셨|시|으신|하신|신)(?:나요|까요|가요|는지요|겠어요|다면)|십니까"
)


_MARKDOWN = re.compile(r"\*\*|```|^#+ ", re.MULTILINE)


def meta(pair: Pair, config: FilterConfig) -> Finding | None:
    """Talk about the task around the story: a greeting, a title in Markdown, a comment, an offer."""
    text = narration(pair.output)
    found = _first("meta", META, text) or _first("meta", _MARKDOWN, pair.output) or _title_again(pair)
    if found:
        return found
    if aside := _about_the_task(text):
        return Finding("meta", *aside[0].span())
    # Honorific questions to the reader come at the very end.
    for last in sentences(text)[-2:]:
        if _ASKS_READER.search(last):
            at = text.rfind(last)
            return Finding("meta", at, at + len(last))
    return None


def _title_again(pair: Pair) -> Finding | None:
    """A title that stands twice: a line without an end that names character or key word. Verses have more such lines."""
    lines = [m for m in re.finditer(r"[^\n]+", pair.output) if m[0].strip()]
    bare = [m for m in lines if not _CLOSED.search(m[0].strip())]
    names = [w for w in (_called(pair), *pair.keywords) if w]
    for a, b in itertools.combinations(bare if 2 * len(bare) <= len(lines) + 3 else [], 2):
        if a[0].strip() == b[0].strip() and any(n in a[0] for n in names):
            return Finding("meta", *b.span())
    return None


def _called(pair: Pair) -> str:
    """The short name of the main character, empty where there is none."""
    return short_name(pair.character) if pair.character.strip() else ""


ECHO_LABEL = re.compile(
    r"^\s*[-•*\[(]?\s*(?:주인공|낱말|핵심 ?낱말|키워드|단어|꼭 ?들어갈 ?(?:말|낱말)|들어갈 ?낱말|소재|대상|길이|조건|장소|주제어|등장 ?인물|독자|분위기)\s*[\])]?\s*[:：\-=]"
    r"|주인공\s*[:：]|낱말\s*[:：]|\d{3}\s*(?:자|글자)?\s*[~∼\-–에서]+\s*\d{3}\s*(?:자|글자)|\d\s*[~∼\-–]\s*\d\s*(?:세|살)(?:용|의| 어린이| 아이|를| 유아)?"
    r"|(?:낱말|단어|(?:이라|라)는 말)(?:이|을|를|은|과|도)? ?(?:꼭|모두|반드시)? ?(?:들어가야|넣어야|사용해야|포함해야|써야|들어간|넣어서|사용하여|포함)|이백 ?자|사백 ?자"
    r"|(?:단어|낱말|핵심어|키워드|소재)(?:이|가|를|을|로)? ?(?:모두|전부|다|꼭)? ?(?:포함|살려|살린|활용|반영)|핵심어|주인공으로 (?:등장하|한|하는|하여|해서|삼아|삼은|나오는)[^.!?\n]{0,40}(?:동화|이야기|글)"
    r"|(?:동화|이야기|글)(?:를|을) (?:원하시|원하셨|부탁하셨|요청하셨|바라셨)|(?:적|쓰|지으|만들|작성하|들려주)라고 (?:하셨|하신|하시)"
    r"|(?:동화|이야기)(?:를|을)?(?: 한 편| 하나)? ?(?:써|지어|만들어|작성해) ?(?:주세요|주시겠|주십시오|줄래요?\?)|(?:동화|이야기)를 (?:쓰시오|작성하시오|써라|쓰라고|쓰래요)",
    re.MULTILINE,
)


def prompt_echo(pair: Pair, config: FilterConfig) -> Finding | None:
    """The instruction comes back. An opening line that the instruction quotes is asked for and may come back."""
    text = narration(pair.output)
    found = _first("prompt_echo", ECHO_LABEL, text)
    if found:
        return found
    blanks = [w for w in (pair.character, _called(pair), *pair.keywords) if w]
    asked = QUOTED.sub("\0", pair.instruction)
    places = [(i, c) for i, c in enumerate(text) if not c.isspace()]
    dense, wanted = "".join(c for _, c in places), "".join(asked.split())
    for i in range(len(wanted) - ECHO + 1):
        piece = wanted[i : i + ECHO]
        if "\0" not in piece and piece in dense:
            rest = piece
            for word in blanks:
                rest = rest.replace("".join(word.split()), "")
            if len(rest) >= ECHO - 6:
                at = dense.index(piece)
                return Finding("prompt_echo", places[at][0], places[at + ECHO - 1][0] + 1)
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
    text = _MACHINE.sub(lambda m: " " * len(m[0]), pair.output)
    for match in _LATIN.finditer(text):
        if not _LATIN_OK.fullmatch(match[0]) and match[0] not in allowed:
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
    r"|<0x[0-9A-Fa-f]{2}>|[\u0300-\u036f]|[가-힣]\?[가-힣]{1,3}[^?\n]{0,40}[가-힣]\?[가-힣]|(?<![가-힣])(?:[가-힣] ){7,}|[ㄱ-ㅎㅏ-ㅣ]{2,}|(?<=[가-힣])[ㄱ-ㅎㅏ-ㅣ]|[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff\uffa0-\uffdc]|[{}]|</?[A-Za-z][^<>\n]{0,80}>|[!?]{6,}|[.,]{8,}|[;:#@$%^&*_=+|~\\/<>-]{5,}|[□■◆◇▒▓█�]{2,}|[가-힣]{30,}|▁|Ġ|##[가-힣]"
)


_LONG_WORD = re.compile(rf"[가-힣]{{{RUN_TOGETHER},}}")


@cache
def _everyday_syllables() -> frozenset[str]:
    return frozenset(c for code in range(0xAC00, 0xD7A4) if len((c := chr(code)).encode("euc-kr")) == 2)


def broken_text(pair: Pair, config: FilterConfig) -> Finding | None:
    """Wrong decoding, control tokens, escapes, lone letters of Hangul, scattered emoji, lost or stray spaces."""
    text = pair.output
    found = _first("broken_text", _BROKEN, text) or _first("broken_text", _MOJIBAKE, text)
    if found:
        return found
    emoji = list(_EMOJI.finditer(text))
    if len(emoji) >= EMOJI:
        return Finding("broken_text", *emoji[0].span())
    if strange := {c for c in text if "가" <= c <= "힣"} - _everyday_syllables():
        rare = [i for i, c in enumerate(text) if c in strange]
        if len(rare) >= RARE_SYLLABLES:
            return Finding("broken_text", rare[0], rare[0] + 1)
    for run in _LONG_WORD.finditer(text):
        if len(set(run[0])) >= RUN_TOGETHER:
            return Finding("broken_text", *run.span())
    words = text.split()
    if len(words) > 20 and sum(len(w) == 1 for w in words) > 0.5 * len(words):
        return Finding("broken_text")
    hangul = sum("가" <= c <= "힣" for c in text)
    if len(text) > 60 and (len(words) < hangul / 9 or unicodedata.normalize("NFC", text) != text):
        return Finding("broken_text")
    return None


def _name_forms(character: str) -> list[str]:
    name = short_name(re.sub(r"\([^)]*\)", "", character).strip(" '\"‘’“”") or character)
    forms = [name]
    if len(name) > 2 and name.endswith("이"):
        forms += [name[:-1] + p for p in "아은을과의도"]
    return forms


def missing_character(pair: Pair, config: FilterConfig) -> Finding | None:
    """The main character does not appear under its name; 따끔이 may be called 따끔아."""
    if not pair.character.strip():
        return None
    text = pair.output
    for form in _name_forms(pair.character):
        # A name must stand at the start of a word and end before a particle: 토리 is not in 도토리, 토토 not in 토토리.
        if any(_AFTER_NAME.match(text, at + len(form)) for at in _starts(form, text)):
            return None
    # Glued to the kind (토끼토토는), or a kind without a space in the prompt.
    whole = re.compile(r"\s*".join(map(re.escape, "".join(pair.character.split()))))
    found = any(_AFTER_NAME.match(text, m.end()) for m in whole.finditer(text))
    return None if found else Finding("missing_character")


# Words that begin or end with a one-syllable key word but have nothing to do with it.
_LOOKALIKES = """
비밀 비누 비행기 비둘기 비명 비단 비버 비스킷 비교 비상 비용 비타민 비닐 나비 준비 소비 신비 고비 담비 낭비 냄비 경비 좀비 제비 허수아비 아비 선비 해적 해변 해마
해결 해님달님 이해 피해 올해 오해 방해 새해 화해 달팽이 달걀 달력 달리기 달인 배달 메달 수달 건달 응달 양달 물건 물음 물결표 선물 보물 건물 동물 식물 괴물 인물
나물 그물 사물 유물 제물 음식물 눈치 배추 배우 배낭 배려 배경 배구 담배 축배 선배 후배 재배 별명 별일 별로 이별 구별 특별 차별 문어 문제 문방구 문장 문화 소문
신문 질문 주문 방문 공주 공원 공부 공기 공책 공룡 공연 공장 공간 성공 주인공 왕자 말썽 말미잘 양말 주말 정말 거짓 집게 집중 고집 모집 편집 산책 산타 산소 우산
양산 계산 강아지 강낭콩 건강 요강 길이 불평 불편 불쌍 이불 깃불 손님 손자 손녀 손해 겸손 발견 발명 발표 발음 출발 폭발 귀신 귀족 목욕 목수 목표 목적 제목 골목
과목 종목 코끼리 코코넛 코스모스 코알라 코코아 초코 입학 입구 수입 책임 정책 차례 차이 차갑 기차표 연못 연필 연습 연기 연주 연두 연어 연구 자연 인연 우연 북극 북쪽
거북 용기 용감 용서 용돈 용암 내용 사용 미용 조용 꿀꺽 꿀밤 꿈틀 점심 점프 점수 상점 약점 장점 종이 종일 종류 종합 잠자리 잠깐 잠시 잠수 잠바 줄기 줄거리 등대
등장 병아리 병원 병사 상자 상처 상상 상어 세상 책상 항상 김치 개구리 개미 개나리 개울 개천 베개 무지개 안개 날개 번개 조개 소리 소풍 소나기 소년 소녀 소금 소중
소파 소식 소원 소라 소망 소나무 미소 장소 채소 청소 새벽 새끼 새싹 새우 새로 냄새 모양새 곰곰 양파 양동이 양배추 양보 모양 고양 벌레 벌판 게임 가게 밤톨 밤새 알밤
눈높이 칼국수 풀장 풀이 술래 술술 감자 감기 감사 감동 영감 장감 물감 감옥 밀가루 파도 파란 파랑 무릎 무대 무당벌레 무리 나무 너무 업무 실수 실망 교실 거실 침실
사실 결실 자동차표 자리 자매 자랑 자석 자꾸 모자 사자 의자 과자 글자 그림자 여자 남자 부자 피자 박자 신발장 빗자루 이름 이사 이웃 이야기 이유 이모 호랑이 고양이
"""
FALSE_COMPOUNDS = frozenset(_LOOKALIKES.split())
# The same for words of two syllables; they are few.
_FALSE_ENDS = frozenset(["사다리", "다리미", "바가지", "회오리", "가오리", "개구리", "너구리", "개나리", "구두쇠"])
_AFTER_NOUN = (
    r"(?:이|가|은|는|을|를|에|의|도|만|로|으로|와|과|랑|이랑|하고|처럼|같이|보다|에서|에게|한테|에는|에도|에서는|에서도|으로는|로는|까지|마다|부터|야|아|들|들이|들은|들을|들도|들에게|님|님이|님은|님을|님도|님께|님에게|"
    r"이라|라고|이라고|이야|이네|이다|였|이었|인|이에요|예요|이었어요|였어요|이나|나|조차|밖에|뿐|밖|속|속에|위|위에|위로|위에서|아래|옆|안|안에|속에서|속으로|이랑은|이란다|란다|이지요|지요|이죠|씨|네|만큼|대로|께|께서|이여|여|이랍니다|랍니다|입니다|이니|니|이고|이며|이면|이었지요|였지요)"
)
_NOT_A_VERB = frozenset(
    ["바다", "판다", "소다", "수다", "베란다", "모두다", "아마다", "라다", "사다리", "바닷가", "참다래"]
)


@cache
def morphemes() -> Any:
    """The morphological analyser (kiwipiepy.Kiwi), opened at the first need."""
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=1)


_BARE = re.compile(rf"{_AFTER_NOUN}?(?![가-힣])")
_AFTER_NAME = re.compile(rf"이?{_AFTER_NOUN}?(?![가-힣])")
# Verbs and adjectives made from a noun of one syllable, which the analyser takes as one word.
_VERBS_OF_NOUNS = """
꿈꾸 춤추 잠들 잠자 빛나 빛내 힘쓰 힘차 힘들 꽃피 불타 불나 불붙 물들 겁나 겁먹 겁내 맛있 맛나 맛보 멋있 멋지 손잡 눈뜨 눈감
눈부시 숨쉬 철들 병들 줄서 땀나 신나 정들 금가 샘솟 귀먹 짝짓 길들 값지 입맞추 말하 말다투 배부르 배고프
"""
_OF_NOUN = frozenset(_VERBS_OF_NOUNS.split())


def _starts(word: str, text: str) -> list[int]:
    """Where ``word`` begins a word of ``text``. Plain search: compiling a pattern for each word took most of the time."""
    found, at = [], text.find(word)
    while at >= 0:
        if at == 0 or not "가" <= text[at - 1] <= "힣":
            found.append(at)
        at = text.find(word, at + 1)
    return found


def _word_there(word: str, text: str) -> bool:
    """Whether a key word is used: inflected, in a compound, with a linking ㅅ (비 in 빗방울), with other spaces."""
    if any(_BARE.match(text, at + len(word)) for at in _starts(word, text)):
        return True
    parts = word.split()
    dense = "".join(text.split())
    if len(parts) > 1:
        return "".join(parts) in dense or all(_word_there(p, text) for p in parts)
    if not has_final_consonant(word) and "가" <= word[-1] <= "힣":
        linked = word[:-1] + chr(ord(word[-1]) + 19)
        if any("가" <= text[at + len(word) : at + len(word) + 1] <= "힣" for at in _starts(linked, text)):
            return True
    if len(word) > 1:
        if any(_inside(word, whole) for whole in dict.fromkeys(WORD.findall(text)) if word in whole):
            return True
        lemma = word[:-1] if word.endswith("다") and word not in _NOT_A_VERB else ""
        own = [t for t in _morphemes(word) if t.tag[0] in "NVMX" and t.tag not in ("VCP", "XSN")]
        if lemma:
            root = lemma[:-1] if lemma[-1] in "하되" else lemma
            if root and len(root) > 1 and root in text:
                return True
            # 춤추다 as 춤을 추다: every content morpheme is there.
            forms = {(t.form, t.tag[0]) for t in _words_like("".join(t.form for t in own) + lemma, text)}
            return (lemma, "V") in forms or (bool(own) and all((t.form, t.tag[0]) in forms for t in own))
        content = [t for t in own if t.tag[0] == "V"]
        tokens = _words_like("".join(c.form for c in content), text) if content else []
        return any(t.tag[0] == "V" and t.form == c.form for t in tokens for c in content)
    for whole in dict.fromkeys(w for w in WORD.findall(text) if word in w):
        for token in _morphemes(whole):
            if token.tag in ("NNG", "NNP") and word in (token.form[0], token.form[-1]):
                false = any(whole.startswith(f) for f in FALSE_COMPOUNDS if f[0] == word)
                if token.form not in FALSE_COMPOUNDS and not (token.start == 0 and false):
                    return True
            if token.form in _OF_NOUN and token.form[0] == word:
                return True
    return False


def _inside(word: str, whole: str) -> bool:
    """Whether ``word`` is in ``whole`` as a noun or a sound: 나무 in 소나무, not 다리 in 기다리고."""
    own = {t.tag for t in _morphemes(word)}
    if own <= {"MAG", "IC", "XR"} and whole.startswith(word):
        # Sounds and manners: 총총총, 반짝이다, 살랑거리다.
        return set(whole) <= set(word) or whole[len(word)] in "이여였거댔대하해했"
    at = whole.find(word)
    parts = [t for t in _morphemes(whole) if t.start < at + len(word) and at < t.start + t.len]
    return all(t.form not in _FALSE_ENDS and (t.tag[0] in "NXS" or t.tag in own - {"MAG"}) for t in parts)


def _known(token: Any) -> bool:
    """Whether the analyser has this form in its dictionary; a form that it guessed carries the low number of its tag."""
    return token.id >= 100


@lru_cache(maxsize=20_000)
def _morphemes(word: str) -> tuple[Any, ...]:
    """The morphemes of one word; stories share most of their words."""
    return tuple(morphemes().tokenize(word))


def _words_like(stem: str, text: str) -> list[Any]:
    """Morphemes of the words that share a first consonant with a syllable of ``stem``, as stems change (돕다, 도와)."""
    initials = {(ord(c) - 0xAC00) // 588 for c in stem if "가" <= c <= "힣"}
    words = dict.fromkeys(WORD.findall(text))
    return [t for w in words if "가" <= w[0] <= "힣" and (ord(w[0]) - 0xAC00) // 588 in initials for t in _morphemes(w)]


def missing_keyword(pair: Pair, config: FilterConfig) -> Finding | None:
    """A key word that the story does not use in any form."""
    for word in pair.keywords:
        if word.strip() and not _word_there(word.strip(), pair.output):
            return Finding("missing_keyword")
    return None


# Written for stories to children of three to five: blood, killing, drugs, sex, arms. Children do have their hair cut,
# split a melon with a knife and squirt water pistols.
_SPLIT = r"(?:수박|호박|사과|참외|배추|무|당근|빵|떡|케이크|나무|장작|풀|벼|갈대|박|종이|쇠|못|말뚝|북|종|징|얼음|호두|밤|콩|반죽|빨래|바위|돌|반|줄|끈|밧줄|실|천)(?:을|를|으로|에)"
UNSAFE = re.compile(
    r"담배|소주|맥주|막걸리|양주를|보드카|위스키|폭탄주|만취|술에 취|술을 (?:마시|마셨|따라|먹|한 잔)|술병|술잔|마약|환각|본드를|수면제|독약|농약을|시체|송장|해골더미|살인|살해|자살|자해|목을 (?:매(?:어|달|고|었)|맨 채|졸라|졸랐|조르|베(?!개)|벴|자르|잘라|잘랐|비틀)"
    r"|숨(?:이|통이|통을) (?:끊|멎)|(?<![숨반풀기팥잣])(?<!숨을 )(?<!숨도 )(?<!소리를 )(?<!소리 )(?:죽여(?:라|버| 버|서|야)|죽이(?:려|겠|고 싶|자)|죽였|죽임을|쳐죽|때려죽)"
    rf"|(?:칼|도끼|낫|창|톱|송곳|가위|망치|몽둥이|방망이|주먹|돌멩이|돌)(?:로|을 들어|를 들어)(?![^.!?\n]{{0,16}}{_SPLIT})[^.!?\n]{{0,16}}(?:찔|찌르|베었|벴|베어|내리쳤|내리찍|난도질|때려|때렸|패|팼|죽|갈랐|쑤셨|박살)"
    r"|피(?:가|를)[^.!?\n]{0,12}(?:철철|솟|튀었|튀어|쏟|낭자|줄줄|콸콸|흥건|뿜|토했|토하|빨아|마셨)|피투성이|피범벅|핏물|핏자국|선혈|내장(?![된형되을])|내장을 (?:꺼|먹|쏟|빼)|창자|뇌수|배를 가르|살점|토막 ?난 (?:몸|시)|갈기갈기 찢긴 (?:몸|살)|머리를 (?:베었|벴|터뜨)|목이 (?:잘려|잘리|잘린|부러졌)|눈알을 (?:뽑|파|빼)|손가락을 (?:자르|잘라|잘랐)|살을 (?:찢|도려|뜯)|껍질을 산 채"
    r"|강간|성폭|성추행|섹스|야동|음란|옷을 벗기|옷을 벗으라|속옷을 (?:내리|들추)|은밀한 부위|성관계|(?<![물딱새])(?<!장난감 )(?<!방울 )(?<!방울)총(?:으로|을) (?:쏘|쐈|쏴|겨누|난사)|총에 맞|총알이|권총|기관총|수류탄|(?<![물눈꽃])(?<![물눈꽃] )폭탄(?:을|이)|폭발물|테러|인질|고문|학살|목숨을 끊|유괴|납치|감금|굶겨|굶어 죽"
    r"|(?:빠져|치여|맞아|찔려|떨어져|불에 타) ?죽(?!겠)|(?:머리|얼굴)를 물(?:속|에)[^.!?\n]{0,14}(?:집어넣|처박|밀어 ?넣|누르|눌렀)|불을 질(?:러|렀)|(?<!코)피를 흘리며 쓰러|(?:가슴|몸)을 (?:더듬|주물)|도박|카지노|노름판"
    r"|(?:비밀|아무에게도|엄마(?:에게|한테)(?:는)?) ?(?:로 하자|말하지 마|이르지 마)[^.!?\n]{0,10}(?:만지|벗)|괴롭히는 (?:것|게|일)[^.!?\n]{0,8}(?:즐거|재미|신났)|(?:나비|잠자리|벌레|메뚜기|개미|거미|매미|파리|도마뱀|새)(?:의)? ?[^.!?\n]{0,10}(?:날개|다리|꼬리)(?:를|을)[^.!?\n]{0,8}(?:뜯|뽑|찢|떼어 ?버|잘라 ?버)|비명을 지르(?:자|는데|면)[^.!?\n]{0,24}(?:웃|재미|즐거)"
)
# Dangers of the home and the street; a fault when a child plays with them, not when grown-ups are there, when somebody
# warns, or when a toy robot eats its battery.
HAZARD = re.compile(
    r"콘센트[^.!?\n]{0,20}(?:넣|꽂|쑤|젓가락|손가락|포크)|(?:젓가락|포크|못|철사|손가락)[^.!?\n]{0,12}콘센트|(?:성냥|라이터)(?:를|로|을)[^.!?\n]{0,16}(?:켜|켰|불|붙|장난|놀)|가스\s?(?:불|밸브|레인지)[^.!?\n]{0,10}(?:켰|켜고|틀|열)|불장난|종이(?:를|에)[^.!?\n]{0,8}불에? (?:대|붙)"
    r"|운전석에 앉아[^.!?\n]{0,10}시동|혼자 운전(?:하|했)|(?<![가-힣])(?:알|물)?약(?:을|도)[^.!?\n]{0,14}(?:한 움큼|몽땅|잔뜩|모조리)|(?:세제|락스|표백제|약병|알약|건전지|자석)(?:을|를|의)?[^.!?\n]{0,14}(?:마셨|마시|삼켰|삼키|먹었|꿀꺽)|(?:베란다|옥상|난간)에서[^.!?\n]{0,12}(?:뛰어내|밀어|밀었)|비닐봉지를[^.!?\n]{0,8}(?:머리|뒤집|썼|쓰)|찻길(?:로|에) (?:뛰어|뛰쳐|나가 놀)|안전벨트를 안|차에 치여|빨간 ?불(?:인데|에)[^.!?\n]{0,14}(?:건넜|달려|뛰어)"
    r"|낯선 (?:사람|아저씨|아주머니|어른)[^.!?\n]{0,24}(?:따라갔|차에 (?:탔|올라)|손을 잡고 갔)"
)
_CAREFUL = re.compile(
    r"엄마[가는와랑]|아빠[가는와랑]|할머니|할아버지|어른|선생님|요리사|아저씨가|아주머니가|생일|케이크|초에|촛불|위험|조심|안 돼|안 된다|큰일|하지 않|로봇|장난감|인형|기계|괴물|말렸|막았|깜짝 놀라|멈추"
)
_NO_CHILD = re.compile(r"로봇|장난감|인형|기계|괴물|기차|자동차")


def unsafe(pair: Pair, config: FilterConfig) -> Finding | None:
    """Not for small children."""
    found = _first("unsafe", UNSAFE, pair.output)
    if found:
        return found
    for match in () if _NO_CHILD.search(pair.character) else HAZARD.finditer(pair.output):
        start, end = pair.output.rfind(".", 0, match.start()) + 1, pair.output.find(".", match.end())
        # The sentence itself and the next one, where a warning would stand.
        after = pair.output.find(".", end + 1) if end >= 0 else -1
        # The main character may itself be a grandmother.
        near = pair.output[start : after if after >= 0 else None].replace(pair.character or " ", "")
        if not _CAREFUL.search(near):
            return Finding("unsafe", *match.span())
    return None


_GROUP = (
    r"(?:여자|남자|계집|사내|여자아이|남자아이|공주|왕자|뚱뚱|통통한 (?:아이|애)|못생|못난|가난|거지|시골|외국|피부|까만 (?:아이|애|피부)|검은 피부|다른 나라|저런 나라|먼 나라|이민|난민|"
    r"장애|휠체어|다리를 (?:저|절)|다리가 (?:아픈|불편)|눈이 안 보이|말을 더듬|몸이 (?:성치|불편|아픈|약한)|늙은|노인|할머니들|할아버지들|왼손잡이|엄마 없는|아빠 없는|키 작은|키가 작은|작은 애)"
)
# What is said of a whole group as if it were a law; "가난한 나무꾼은 쉴 수 없었어요" is a story.
_PUT_DOWN = (
    r"(?:안 돼|안 된다|안 되는 법|하면 안|울면 안|울지 않는 법|안 놀|놀지 마|놀아 주지|가까이하지|더럽|훔치|방해만|방해가 되|쓸모없|필요 없|불쌍한 존재|열등|수치|나대|감히|얌전히|조신|예뻐야|날씬해야|하얘야|약한 존재|"
    r"집에(?:나| 있는 것이| 있어야)|살림이나|부엌일이나|설거지나|밥이나|시집|믿을 수 없|피해야|따돌|끼워 ?주지|어울리지 마|못하는 (?:법|게 당연|것이 당연)|창피한 (?:일|것)|어차피|주제에|모자라서|무식하|게으르니까|게을러서)"
)
BIAS = re.compile(
    rf"{_GROUP}[^.!?\n]{{0,40}}{_PUT_DOWN}|(?:날씬|예쁘|하얗|잘생|부자여|돈이 많)[^.!?\n]{{0,16}}(?:야|해야)[^.!?\n]{{0,24}}(?:친구|사랑|행복|대접|인기|예쁨)"
)
BIAS_SURE = re.compile(
    r"여자답|남자답|사내답|(?:여자|남자)(?:아이|애)?(?:는|가|들은|라면|니까|라서|란|다운)[^.!?\n]{0,30}(?:법|거란다|것이란다|거야|해야|하는 것|것이야|것이에요|못해|못하|안 되|안 돼)|우리나라 사람끼리|(?:계집애|사내놈|깜둥이|튀기|짱깨|쪽발이|병신|불구자|절름발이|애꾸|벙어리라)"
    r"|(?:남자|여자)(?:들|아이들)?이?나 하는|(?:역시|그래서|원래)[^.!?\n]{0,12}(?:여자|남자|피부|뚱뚱|가난|외국|장애)[^.!?\n]{0,30}(?:법|마련|최고|낫|안 돼|없)"
)
_REFUTED = re.compile(
    r"아니(?:야|에요|란다|었어요|라|지)|틀렸|그렇지 않|미안|사과(?:했|하)|부끄러|상관없|달라도|누구나|누구든|할 수 있(?:어|단|지|다|었|는)|멋지|멋진|대단|고마워|함께 (?:놀|웃)|친구가 되|손뼉|박수|깨달|잘못"
)


def bias(pair: Pair, config: FilterConfig) -> Finding | None:
    """A prejudice that the story lets stand. One that it answers (an apology, "아니야") is a theme, not a fault."""
    text = pair.output
    for pattern in (BIAS_SURE, BIAS):
        for match in pattern.finditer(text):
            after = text[match.end() :]
            if not _REFUTED.search(after):
                return Finding("bias", *match.span())
    return None


PII = re.compile(
    r"(?<!\d)01[016789][-.\s)]{0,2}\d{3,4}[-.\s]?\d{4}(?!\d)|(?<!\d)0\d{1,2}[-.)]\s?\d{3,4}[-.\s]\d{4}(?!\d)|\+82[-\s]?\d|(?<!\d)1[568]\d{2}-\d{4}(?!\d)|(?<!\d)\d{6}\s?[-–]\s?[1-8]\d{6}(?!\d)|(?<!\d)\d{4}[-\s]\d{4}[-\s]\d{4}[-\s]\d{3,4}(?!\d)"
    r"|(?<!\d)\d{2,6}-\d{2,6}-\d{4,8}(?!\d)|[A-Za-z0-9._%+-]+\s?@\s?[A-Za-z0-9-]+\.[A-Za-z.]+|[A-Za-z0-9._]+ ?(?:골뱅이|\(at\)|\[at\]) ?[A-Za-z가-힣]+|https?://|www\.|[A-Za-z0-9-]+\.(?:com|net|org|co\.kr|kr|io)\b"
    # 솔뫼로 27번길 14, 은행동 12-3; not 앞으로 3 걸음 or 거꾸로 10, 9, 8.
    r"|[가-힣]{1,8}(?:로|길)\s?\d+(?:번길|번지|-\d+|\s?호(?![가-힣]))|(?:시|군|구|읍|면|동)\s[가-힣0-9]{1,8}(?:로|길)\s?\d+|\d{1,4}\s?동\s?\d{2,4}\s?호|[가-힣]{1,6}(?:시|도|군|구)\s[가-힣]{1,8}(?:동|읍|면|리|로|길|구|군)\s?(?:[가-힣0-9]+(?:동|로|길)\s?)?\d+|\d+번지"
    r"|(?:공일공|영일영)[-\s]?[공영일이삼사오육칠팔구]|(?<!\d)\d{2,3}\s?[가-힣]\s?\d{4}(?!\d)|(?<![\w@])@[A-Za-z0-9_]{3,}|(?:비밀번호|암호|계좌|계좌번호|주민(?:등록)?번호|여권번호|카드번호|전화번호|연락처|카톡 ?아이디|아이디)(?:는|은|가|:)?\s?[A-Za-z0-9][A-Za-z0-9-]{3,}|(?<!\d)(?:19|20)\d{2}년 ?\d{1,2}월 ?\d{1,2}일생|(?<!\d)\d{1,3}(?:\.\d{1,3}){3}(?!\d)"
)
_PII_SIGNS = re.compile(r"[0-9@]|공일공|영일영|골뱅이|://|www|\.(?:com|net|org|kr|io)")


def pii(pair: Pair, config: FilterConfig) -> Finding | None:
    """Telephone, e-mail, web and postal addresses, numbers of people, accounts, cards and cars."""
    return _first("pii", PII, pair.output) if _PII_SIGNS.search(pair.output) else None


_LISTED = re.compile(r"^\s*(?:\d{1,2}[.)]|[-•*·▶✔①-⑳]|[가나다라마바사][.)]|(?:첫|둘|셋|넷)째[,:]|\d단계)\s*\S", re.M)
_NUMBERED = re.compile(r"(?<!\d)(\d{1,2})[.)]\s+(?=[가-힣“\"‘'])")
_ITEMS = re.compile(rf"(?:[가-힣 ]{{1,8}},\s?){{{LISTED_ITEMS},}}")
_QA = re.compile(r"^\s*(?:질문|문제|문|물음|답|대답|답변|정답|Q|A|문답)\s?\d?\s?[:：.)]", re.M)
_SCRIPT = re.compile(r"(?:^|(?<=[.!?…)”\"]) )\s*[가-힣A-Z ]{1,8}\s?(?:\([^)]{1,20}\)\s?)?[:：]\s*\S", re.M)
NOT_STORY = re.compile(
    r"(?:만드는|만들|하는|기르는|키우는|요리|조리|고르는|사용|씻는|놀이) ?(?:법|방법|순서)(?:을|은|를|에|이)?|준비물(?:은|:)|재료(?:는|:|를 준비)|(?:알아볼까요|알아봅시다|알아보겠습니다|알아보아요|살펴보겠습니다|살펴봅시다|소개합니다|소개하겠습니다|해 봅시다|실천해|주의하세요|주의해야 합니다|권합니다|권장)"
    r"|(?:포유류|조류|파충류|양서류|곤충류|어류|초식|육식|잡식|식물|동물|과일|채소|현상|행성|위성|작물|나라|도시)(?:에 속|의 한 종류|의 일종|입니다|이다[. ])|평균 (?:수명|기온|길이|몸무게|키)|서식(?:지|합|하)|학명|분포(?:하|합)|번식(?:하|합|기)|천적|원산지|영양(?:소|분)이 풍부|비타민|칼로리"
    r"|(?:큰술|작은술|숟갈|그램|밀리리터|\d+\s?(?:g|ml|분간|도에서))[^.\n]{0,30}(?:넣|끓|볶|섞)|(?:중불|약불|약한 불|센 불|강불|예열|오븐에|프라이팬)[^.\n]{0,20}(?:굽|끓|볶|줄|익|구워)|첫째,[^\n]{0,100}둘째,|(?:다음 중|보기에서|빈칸)|\{\s*\"|^\s*(?:def |import |<html)|정의(?:는|됩니다|된다)|(?:의미|뜻)(?:합니다|한다[. ]|하는 말)|라고 (?:불립니다|합니다\. 또)"
    r"|(?:학생|어린이|여러분)(?:은|들은)[^.\n]{0,20}(?:합시다|지킵시다|하십시오)|(?:할인|구매|주문|가격은|판매|출시|문의|무료 ?배송|이벤트 기간)|(?:고객|회원)님",
    re.MULTILINE,
)
# An essay exhorts and gives reasons.
_ESSAY = re.compile(
    r"(?:해|하여|지켜|가져|말아|[가-힣]야) ?야? (?:한다|합니다)[.,]|(?:중요|필요|소중)(?:하다|합니다|한 (?:것|일|곳|존재)(?:이다|입니다))|때문(?:이다|입니다)\.|[가-힣] 수 있(?:다|습니다)\.|것(?:이다|입니다)\.|필요하다|(?<![가-힣])(?:그러므로|따라서|또한|이처럼|결국|우선)[ ,]"
)
_PAST = re.compile(
    r"[았었였했갔왔났랐렀렸졌쳤셨됐섰샀탔폈컸꼈켰췄줬뒀웠혔겼넸냈됐웠켰껐떴썼렀뗐댔챘쟀봤놨찼짰팠잤깼뺐](?:어요|지요|답니다|습니다|다|죠|단다|어|지|고|는데|지만|네|거든|을)"
)
_FORMAL_PRESENT = re.compile(
    r"(?:합|입|됩|십|립|납|킵|깁|칩|집|씁|습|갑|봅|줍|둡|눕|웁|춥|굽|쉽|낍|넙|럽|랍|맙|삽|찹|탑|팝|닙|닙|돕|둡|훕|껍|압|웁|큽|쏩|룹)니다[.\s]"
)


def not_a_story(pair: Pair, config: FilterConfig) -> Finding | None:
    """A recipe, a lexicon entry, questions and answers, a list, an advertisement, a play script, code."""
    text = narration(pair.output)
    for pattern, least in ((_QA, 2), (_LISTED, 3), (_SCRIPT, 3)):
        hits = list(pattern.finditer(text))
        if len(hits) >= least:
            return Finding("not_a_story", *hits[0].span())
    steps = [int(m[1]) for m in _NUMBERED.finditer(text)]
    if steps[:3] == [1, 2, 3] or ((items := _ITEMS.search(text)) and "셋" not in items[0]):
        return Finding("not_a_story")
    count = len(sentences(text))
    past = len(_PAST.findall(text))
    reasoned = list(_ESSAY.finditer(text))
    if len(reasoned) >= 4 and past <= 0.25 * count:
        return Finding("not_a_story", *reasoned[0].span())
    hits = list(NOT_STORY.finditer(text))
    if len(hits) >= 2 or (hits and past <= 0.25 * count):
        return Finding("not_a_story", *hits[0].span())
    # Nothing ever happened: all sentences state in the formal present, and nobody speaks or acts in the past.
    if count >= 5 and past == 0 and len(_FORMAL_PRESENT.findall(text + "\n")) >= 0.7 * count and text == pair.output:
        return Finding("not_a_story")
    return None


# 불이 꺼져 있었어요, 엄마를 졸라서, 추위가 닥쳐왔어요, 눈깔사탕, 새끼 오리 are no swearing.
SWEAR = re.compile(
    r"새끼(?:야|들아)|(?:멍청한|미친|못된|나쁜|더러운|재수 없는) 새끼|개새|씨발|시발[,!. ]|씹새|씹할|좆|존나|졸라 (?:좋|재|웃|많|빡|짱|싫|귀찮)|ㅅㅂ|ㅂㅅ|병신|지랄|염병|닥쳐(?!\s?[오온올와왔])|(?<!불이 )(?<!불아, )(?<!불아 )꺼져(?:!|라고|버려)|꺼지라고|미친 ?(?:놈|년|새끼)|눈깔(?!사탕)|아가리 ?(?:닥|다물)|주둥이 닥|(?<!멸치 )(?<!생선 )(?<!콩나물 )대가리|멍청한 놈|개자식|쌍놈|썅|엿 ?먹어라|등신(?!대)|또라이|찌질"
)
SLANG = re.compile(
    r"[ㅋㅎㅠㅜㄷㅇㄴㄱ]{2,}|개이득|멘탈|털렸|쩔(?:었|어|어요|지)|레전드|인싸|아싸템|현타|실화냐|꿀잼|노잼|핵잼|극혐|대박사건|갓생|존맛|JMT|TMI|암튼|완전 (?:꿀꿀|짱|쩔)|개(?:쩔|웃기|짱)|킹받|어쩔티비|띵작|오졌|지렸|ㄹㅇ|빡치|빡쳤|쌉|찐텐|플렉스|이거 실화|헐,? ?대박|겁나 (?:좋|재|웃|많|큰|빠)|캐리|갑분싸|내로남불|츤데레|꿀팁|득템|심쿵|혼밥|먹방|치맥|불금|존버|가즈아"
)
NEWS = re.compile(
    r"밝혔다|전했다\.|전망된다|전망이다|집계됐다|집계되었다|개최됐다|개최되었|개최했|관계자(?:는|에 따르면)|에 따르면|(?<![가-힣])한편[,\s]|촉구했다|방침이다|것으로 (?:알려졌|나타났|보인다|전해졌|확인됐|드러났|조사됐|추정)|(?<![가-힣])기자(?![가-힣]{2})|보도(?:했|에)|지난 \d+일|오는 \d+일|당국|주민 \d+|경찰(?:은|에 따르면)|발표했다|기여할|활성화|참석한|예정이다|(?<![가-힣])(?:도모|추진|상기|귀하|당사)(?:하|의|는|를|에)|논의했|브리핑|본 (?:논문|연구|보고서|계약)|사료됩니다|바이다|하옵|하나이다|이로써|고찰|분석한 결과|결론적으로|시사(?:한다|점)"
)
_CLIPPED = re.compile(
    r"(?:[가-힣]?(?:음|함|임|됨|짐|봄|옴|감|줌|킴|김|림|침|남|냄|씀|뜸|춤)|다고 함|라고 함)[.!?~ㅋㅎ\s]*$"
)
_CLIPPED_NOUN = re.compile(
    r"(?:마음|처음|다음|얼음|웃음|울음|걸음|가슴|사람|바람|구름|이름|아침|그림|여름|기침|점심|친구임|봄|춤|잠|꿈|힘|밤|섬|곰|감)[.!?~\s]*$"
)


def wrong_register(pair: Pair, config: FilterConfig) -> Finding | None:
    """Swearing, net slang, memo style (-음/-함), news and office style. Plain -다 and a teller's -단다 are fine."""
    text = pair.output
    found = _first("wrong_register", SWEAR, text)
    if found:
        return found
    slang = list(SLANG.finditer(text))
    if len(slang) >= 2:
        return Finding("wrong_register", *slang[0].span())
    news = {m[0]: m for m in NEWS.finditer(narration(text))}
    if len(news) >= 2:
        return Finding("wrong_register", *next(iter(news.values())).span())
    lines = sentences(narration(text))
    clipped = [s for s in lines if _CLIPPED.search(s) and not _CLIPPED_NOUN.search(s)]
    if len(clipped) >= 3 and len(clipped) >= CLIPPED_ENDINGS * len(lines):
        at = text.find(clipped[0])
        return Finding("wrong_register", at, at + len(clipped[0])) if at >= 0 else Finding("wrong_register")
    return None


_OPEN = "[" + "".join(chr(0xAC00 + i) for i in range(0, 11172, 28)) + "]"
_CLOSED_SYLLABLE = "[" + "".join(chr(c) for i in range(0, 11172, 28) for c in range(0xAC01 + i, 0xAC1C + i)) + "]"
_EUL = re.compile(rf"([가-힣]*{_OPEN})을(?![가-힣])")
_EUL_OK = frozenset("마가노고지나부이저그여우으누느더거니어")
GRAMMAR = re.compile(
    rf"(?<![가-힣])(?!들를)[가-힣]*{_CLOSED_SYLLABLE}를(?![가-힣])|[가-힣]+{_CLOSED_SYLLABLE}와(?=[\s,])|(?:은는|는은|을를|를을|에게를|에서를|에를|에게에)(?![가-힣])"
    r"|습니다(?:요|어요|네요|죠|고요|는)|니다어요|(?:[았었했였]어요|어요|아요|했다|습니다)(?:는|은|를|을|가|에|의)(?=[\s.,])|[았었했였]다요|[가-힣]다요[.!?]|하였어요는|(?:되어|돼)졌|되어지|되어져|나와졌|질러졌|주어졌어요|들어와졌|(?:하는|한|되는|[가-힣]는) 것을 (?:가졌|주었|시작했|얻었|받았)|그것에 의해|그것으로부터|그 자신(?:에게|을|의)"
    r"|[가-힣]+(?:했|었|았|였)(?:는|은) (?:것이었어요는|거예요는)|에게 에게|을 을 |를 를 |은 은 |는 는 |하게 하였어요는|[가-힣]{2,}게 있었어요|됐는 거|였게 하|가니까\?|것을 놀랐|고 싶을 거예요\.”|갔다가\.(?=\s|$)|의 위를|다를 하고|꿈이 있었어요\. 그러나 [가-힣]+ 것이었"
)
_MISFIT = re.compile(
    rf"(?<![가-힣])[가-힣]*(?:{_OPEN}(은|이|과|을|으로|이라는)|{_CLOSED_SYLLABLE}(는|가|로|라는))(?![가-힣])"
)
_KNOWN_WRONG = (
    ("는", True),
    ("가", True),
    ("로", True),
    ("라는", True),
    ("랑", True),
    ("은", False),
    ("을", False),
    ("과", False),
    ("이랑", False),
    ("으로", False),
    ("이라는", False),
)


def ungrammatical(pair: Pair, config: FilterConfig) -> Finding | None:
    """Particles of the wrong form (우산를, 토토은), doubled particles and endings, translated passives."""
    text = pair.output
    found = _first("ungrammatical", GRAMMAR, text)
    if found:
        return found
    for match in _EUL.finditer(text):
        word = match[1]
        if len(word) > 1 and word[-1] not in _EUL_OK:
            return Finding("ungrammatical", *match.span())
    known = [w for w in (_called(pair), *pair.keywords) if len(w) > 1 and "가" <= w[-1] <= "힣"]
    for word in known:
        closed = has_final_consonant(word)
        for form, after_closed in _KNOWN_WRONG:
            if closed != after_closed or (form in ("로", "랑") and (ord(word[-1]) - 0xAC00) % 28 == 8):
                continue
            for at in _starts(word + form, text):
                end = at + len(word) + len(form)
                if not "가" <= text[end : end + 1] <= "힣" and not (form == "을" and word.endswith(("가", "마", "노"))):
                    return Finding("ungrammatical", at, end)
    wrong = [m for m in _MISFIT.finditer(text) if _wrong_particle(m[0], m[1] or m[2])]
    # 하늘가 and 꽃가 are edges: one 가 may be a poet's.
    if any(not m[0].endswith("가") for m in wrong) or len(wrong) > 1:
        return Finding("ungrammatical", *wrong[0].span())
    return None


def _wrong_particle(word: str, particle: str) -> bool:
    """Whether ``word`` is a noun of the dictionary and a particle that does not fit its end, and nothing else (먹는, 섬마을)."""
    noun = word.removesuffix(particle)
    if (particle == "로" and (ord(noun[-1]) - 0xAC00) % 28 == 8) or (particle == "을" and len(noun) == 1):
        return False
    stem, whole = _morphemes(noun), _morphemes(word)
    if len(stem) != 1 or stem[0].tag not in ("NNG", "NNP", "NP") or not _known(stem[0]):
        return False
    if len(whole) == 1:
        return not _known(whole[0])
    verbal = any((t.tag[0] == "V" and t.tag != "VCP") or t.tag in ("XSV", "XSA") for t in whole)
    return not verbal and whole[-1].len <= len(particle)


ADULT = re.compile(
    r"연인|이별|입맞춤|키스|애인|불륜|이혼|짝사랑|첫사랑|사랑했던|매출|실적|과장님|과장이|부장|영업 ?\d?팀|경쟁사|점유율|구조 ?조정|승진|대출|이자|야근|퇴근|출근길|주식|부동산|투자|연봉|월급|세금|선거|대통령|국회|정당|정치|전쟁|군대|코인|비트코인|재판|변호사|소송|계약서|보고서|회사의|회사원|면접|취업|수능|대학|논문|카페 창가|편의점|클럽|노래방|술집|모텔|"
    r"차가운 숨결|저벅|소름|공포|비명|피눈물|저주|원한|귀신이|악령|눈동자가 없|목덜미|시퍼런|사라졌다\. 다시는|새로운 아이를|네 차례야"
)


def off_prompt(pair: Pair, config: FilterConfig) -> Finding | None:
    """A world of grown-ups (love affairs, business, horror) that nobody asked for: three different such words."""
    words: dict[str, re.Match[str]] = {}
    for match in ADULT.finditer(pair.output):
        if match[0] not in pair.instruction:
            words.setdefault(match[0], match)
    return Finding("off_prompt", *next(iter(words.values())).span()) if len(words) >= 3 else None


CHECKS: tuple[Callable[[Pair, FilterConfig], Finding | None], ...] = (
    too_short, too_long, truncated, repetition, refusal, meta, prompt_echo, foreign_script, english_mix, broken_text,
    missing_character, missing_keyword, unsafe, bias, pii, not_a_story, wrong_register, ungrammatical, off_prompt,
)  # fmt: skip
"""All checks of a single pair, in the order in which reasons are shown; near-duplicates need the whole run."""


def check_pair(pair: Pair, config: FilterConfig) -> tuple[list[Finding], dict[str, Any]]:
    """Every finding of a pair, and the statistics behind it that are stored with the verdict.

    The length limits are applied when verdicts are cut, so ``chars`` is all that they need.
    """
    findings = [found for check in CHECKS if (found := check(pair, config))]
    return findings, {"chars": len(pair.output.strip()), **repetition_scores(pair.output)}
