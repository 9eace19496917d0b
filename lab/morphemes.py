"""Words of Korean as kiwipiepy takes them apart: whether a key word is used, a name called, a particle wrong.

Words are analysed one by one and remembered, as stories share most of theirs; a whole text would take ten times as long.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from lab.domain import has_final_consonant, short_name

WORD = re.compile(r"[0-9A-Za-z가-힣]+")
REMEMBERED = 20_000
"""Words whose analysis is kept; the stories of a run share most of theirs."""

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
_NOT_A_VERB = frozenset(["바다", "판다", "소다", "수다", "베란다"])

_BARE = re.compile(rf"{_AFTER_NOUN}?(?![가-힣])")
# A name may also be said (라는, 라던, 란) and be added to (에게는, 한테도, 마저).
_AFTER_NAME = re.compile(
    rf"이?(?:{_AFTER_NOUN}|(?:에게|한테|께|께서|에게서|까지|하고|이랑|랑|와|과)(?:는|도|만)|이?라(?:는|던|며|서|도|면)|이?란|마저|커녕)?(?![가-힣])"
)

# Verbs and adjectives made from a noun of one syllable, which the analyser takes as one word.
_VERBS_OF_NOUNS = """
꿈꾸 춤추 잠들 잠자 빛나 빛내 힘쓰 힘차 힘들 꽃피 불타 불나 불붙 물들 겁나 겁먹 겁내 맛있 맛나 맛보 멋있 멋지 손잡 눈뜨 눈감
눈부시 숨쉬 철들 병들 줄서 땀나 신나 정들 금가 샘솟 귀먹 짝짓 길들 값지 입맞추 말하 말다투 배부르 배고프
"""
_OF_NOUN = frozenset(_VERBS_OF_NOUNS.split())


@cache
def analyser() -> Any:
    """The morphological analyser (kiwipiepy.Kiwi), opened at the first need."""
    from kiwipiepy import Kiwi

    return Kiwi(num_workers=1)


@lru_cache(maxsize=REMEMBERED)
def garbled(word: str) -> bool:
    """Whether a sentence's last word has lost its shape: an ending with a stray consonant (갔어욥), one on a stem that is
    none (직작거렀어요), something that only looks like one (왔엉요).
    """
    parts = morphemes(word)
    for a, b in pairwise(parts):
        if (a.tag == "EF" and b.tag == "Z_CODA" and b.form != "ᆻ") or (
            a.tag in ("NNG", "NNP") and not known(a) and b.tag in ("EF", "EP")
        ):
            return True
    last = parts[-1]
    return last.tag in ("NNG", "NNP") and not known(last) and last.form[-1] in "요죠"


class Morpheme(NamedTuple):
    """What the analyser says of one: its form, its tag (Sejong), where it starts in the word, its length, its number."""

    form: str
    tag: str
    start: int
    len: int
    id: int


@lru_cache(maxsize=REMEMBERED)
def morphemes(word: str) -> tuple[Morpheme, ...]:
    """The morphemes of one word; stories share most of their words."""
    return tuple(Morpheme(t.form, t.tag, t.start, t.len, t.id) for t in analyser().tokenize(word))


def known(token: Morpheme) -> bool:
    """Whether the analyser has this form in its dictionary; a form that it guessed carries the low number of its tag."""
    return token.id >= 100


def starts(word: str, text: str) -> list[int]:
    """Where ``word`` begins a word of ``text``. Plain search: compiling a pattern for each word took most of the time."""
    found, at = [], text.find(word)
    while at >= 0:
        if at == 0 or not "가" <= text[at - 1] <= "힣":
            found.append(at)
        at = text.find(word, at + 1)
    return found


def _name_forms(character: str) -> list[str]:
    name = short_name(re.sub(r"\([^)]*\)", "", character).strip(" '\"‘’“”") or character)
    forms = [name]
    if len(name) > 2 and name.endswith("이"):
        forms += [name[:-1] + p for p in "아은을과의도"]
    return forms


_A_DAY = re.compile(
    r"(?<![가-힣])하루(?= ?종일| 만에| 동안| 내내| 이틀|하루|가 (?:지나|저물))|(?<=[은는운한던온] )하루(?=였|예요|를 (?:보내|마쳤))"
)
"""A day, not somebody called so (하루)."""


def last_called(character: str, text: str) -> tuple[int, int] | None:
    """Where ``text`` calls the character last, by its full or short name; 따끔이 may be called 따끔아."""
    # A name must stand at the start of a word and end before a particle: 토리 is not in 도토리, 토토 not in 토토리.
    spans = [(at, at + len(form)) for form in _name_forms(character) for at in starts(form, text)]
    if not any(_AFTER_NAME.match(text, end) for _, end in spans):
        # Glued to the kind (토끼토토는), or a kind without a space in the prompt.
        spans = [m.span() for m in re.finditer(r"\s*".join(map(re.escape, "".join(character.split()))), text)]
    called = (span for span in spans if _AFTER_NAME.match(text, span[1]) and not _A_DAY.match(text, span[0]))
    return max(called, default=None)


def uses(word: str, text: str) -> bool:
    """Whether a key word is used: inflected, in a compound, with a linking ㅅ (비 in 빗방울), with other spaces."""
    if any(_BARE.match(text, at + len(word)) for at in starts(word, text)):
        return True
    parts = word.split()
    dense = "".join(text.split())
    if len(parts) > 1:
        return "".join(parts) in dense or all(uses(p, text) for p in parts)
    if not has_final_consonant(word) and "가" <= word[-1] <= "힣":
        linked = word[:-1] + chr(ord(word[-1]) + 19)
        if any("가" <= text[at + len(word) : at + len(word) + 1] <= "힣" for at in starts(linked, text)):
            return True
    if len(word) > 1:
        if any(_inside(word, whole) for whole in dict.fromkeys(WORD.findall(text)) if word in whole):
            return True
        lemma = word[:-1] if word.endswith("다") and word not in _NOT_A_VERB else ""
        own = [t for t in morphemes(word) if t.tag[0] in "NVMX" and t.tag not in ("VCP", "XSN")]
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
        for token in morphemes(whole):
            if token.tag in ("NNG", "NNP") and word in (token.form[0], token.form[-1]):
                false = any(whole.startswith(f) for f in FALSE_COMPOUNDS if f[0] == word)
                if token.form not in FALSE_COMPOUNDS and not (token.start == 0 and false):
                    return True
            if token.form in _OF_NOUN and token.form[0] == word:
                return True
    return False


def _inside(word: str, whole: str) -> bool:
    """Whether ``word`` is in ``whole`` as a noun or a sound: 나무 in 소나무, not 다리 in 기다리고."""
    own = {t.tag for t in morphemes(word)}
    if own <= {"MAG", "IC", "XR"} and whole.startswith(word):
        # Sounds and manners: 총총총, 반짝이다, 살랑거리다.
        return set(whole) <= set(word) or whole[len(word)] in "이여였거댔대하해했"
    at = whole.find(word)
    parts = [t for t in morphemes(whole) if t.start < at + len(word) and at < t.start + t.len]
    return all(t.form not in _FALSE_ENDS and (t.tag[0] in "NXS" or t.tag in own - {"MAG"}) for t in parts)


def _words_like(stem: str, text: str) -> list[Morpheme]:
    """Morphemes of the words that share a first consonant with a syllable of ``stem``, as stems change (돕다, 도와)."""
    initials = {(ord(c) - 0xAC00) // 588 for c in stem if "가" <= c <= "힣"}
    words = dict.fromkeys(WORD.findall(text))
    return [t for w in words if "가" <= w[0] <= "힣" and (ord(w[0]) - 0xAC00) // 588 in initials for t in morphemes(w)]


def misfits(word: str, particle: str) -> bool:
    """Whether ``word`` is a noun of the dictionary and a particle that does not fit its end, and nothing else (먹는, 섬마을)."""
    noun = word.removesuffix(particle)
    if (particle == "로" and (ord(noun[-1]) - 0xAC00) % 28 == 8) or (particle == "을" and len(noun) == 1):
        return False
    stem, whole = morphemes(noun), morphemes(word)
    if len(stem) != 1 or stem[0].tag not in ("NNG", "NNP", "NP") or not known(stem[0]):
        return False
    if len(whole) == 1:
        return not known(whole[0])
    verbal = any((t.tag[0] == "V" and t.tag != "VCP") or t.tag in ("XSV", "XSA") for t in whole)
    return not verbal and whole[-1].len <= len(particle)


_DRAWN = re.compile(r"([가-힣])\1{2,}[가-힣]+")


def stuttered(text: str) -> re.Match[str] | None:
    """A word whose first syllable came out several times (그그그래서, 잔잔잔잔한); sounds (쿵쿵쿵쿵거렸어요) may."""
    for match in _DRAWN.finditer(text):
        start, rest = match[1], match[0].lstrip(match[1])
        for word in (start + rest, start + start + rest):
            first = morphemes(word)[0]
            if len(first.form) > 1 and first.tag in ("XR", "MAJ", "NP", "VA") and known(first):
                return match
    return None
