"""The deterministic checks: one line a rule, and the two labelled sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.checks import REASONS, check_pair
from lab.config import FilterConfig
from lab.domain import reference_stories
from lab.records import Pair

FIXTURES = Path(__file__).parent / "fixtures"
STORY = (
    "토끼 토토는 꽃밭에서 놀았어요. 그때 하늘에서 빗방울이 톡톡 떨어졌지요. 토토는 커다란 잎 아래로 쏙 들어갔어요. "
    '"개미야, 너도 이리 와!" 토토가 부르자 개미가 쪼르르 달려왔어요. 둘은 나란히 앉아 빗소리를 들었어요. '
    "비가 그치자 산 너머에 무지개가 떴답니다. 둘은 손을 잡고 무지개를 오래오래 바라보았어요."
)


def reasons(text: str, finish: str = "stop", keywords: tuple[str, ...] = ("꽃", "비")) -> set[str]:
    pair = Pair("x", "토끼 토토가 나오는 동화를 써 줘. 꽃과 비를 넣어 줘.", text, "토끼 토토", keywords, finish=finish)
    return {f.reason for f in check_pair(pair, FilterConfig())[0]}


def test_a_good_story_passes_with_key_words_inside_compounds() -> None:
    assert reasons(STORY) == set()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("too_short", STORY[:60] + "."),
        ("too_long", STORY * 4),
        ("truncated", STORY[:-5]),
        ("repetition", STORY + " 정말" * 12 + " 좋았어요."),
        ("refusal", "죄송하지만 이 이야기는 작성해 드리기 어렵습니다. " + STORY),
        ("meta", "물론이죠! 동화를 써 드릴게요.\n" + STORY),
        ("prompt_echo", "주인공: 토끼 토토\n" + STORY),
        ("foreign_script", STORY + " 非常 좋았어요."),
        ("english_mix", STORY + " 정말 happy했어요."),
        ("broken_text", STORY + "<|im_end|>"),
        ("missing_character", STORY.replace("토토", "토리")),
        ("missing_keyword", STORY.replace("꽃밭", "마당")),
        ("unsafe", STORY + " 토토는 담배를 피웠어요."),
        ("bias", STORY + " 여자답게 얌전해야 해요."),
        ("pii", STORY + " 번호는 010-1234-5678이에요."),
        ("not_a_story", "질문: 토토는 누구인가요?\n답: 토끼예요.\n질문: 꽃은요?\n답: 비가 오면 펴요."),
        ("wrong_register", STORY + " 야, 닥쳐! 이 병신아."),
        ("ungrammatical", STORY + " 우산를 폈어요."),
        ("off_prompt", STORY + " 매출과 승진과 대출을 걱정했어요."),
    ],
)
def test_each_rule_sees_its_fault(reason: str, text: str) -> None:
    assert reason in reasons(text) and reason in REASONS


@pytest.mark.parametrize(
    ("reason", "bad", "good"),
    [
        ("unsafe", "처음 보는 아저씨가 말했어요. “차에 가면 사탕이 있단다.” 토토는 아저씨 차에 올라탔어요.",
         "처음 보는 아저씨가 말했어요. “차에 가면 사탕이 있단다.” “싫어요!” 토토는 엄마에게 달려갔어요."),
        ("unsafe", "아저씨가 말했어요. “강아지 보러 갈래? 엄마한테는 비밀로 하자.” 토토는 아저씨 손을 잡고 따라갔어요.",
         "두더지 아저씨가 말했어요. “굴을 보여 줄게.” 토토는 아저씨를 따라갔어요."),
        ("unsafe", "토토는 세탁기 문을 열고 쏙 들어갔어요.", "토토는 오븐 문을 열고 쿠키를 쏙 넣었어요."),
        ("unsafe", "토토는 나비 날개를 한 장씩 떼어 보았어요.", "토토는 꽃잎을 한 장씩 세어 보았어요."),
        ("pii", "토토는 햇살마을 백삼 동 천이백사 호에 살아요.", "토토는 백 번을 세고 백호를 만났어요."),
        ("pii", "현관 비밀번호는 별표 이칠공사예요.", "비밀번호는 ‘열려라 참깨’예요."),
        ("meta", "여기까지 첫 번째 낱말을 썼어요.", "토토는 첫 번째 돌을 밟았어요."),
        ("bias", "“그런 나라 아이들은 원래 그래.” 모두 새 아이를 피했어요.", "“그런 나라도 있구나.” 모두 새 아이를 반겼어요."),
        ("bias", "“너는 차나 끓여.” 토토는 끄덕였어요. “나한테는 이게 맞아.”", "“너는 차나 끓여.” 토토는 고개를 저었어요. “나도 할 거야!”"),
        ("bias", "저 튀기들은 싫어요.", "토토는 물을 튀기며 놀았어요."),
        ("not_a_story", "한 켤레를 사면 양말까지 드려요. 지금 만나요!", "마녀의 주문은 아주 길었어요."),
        ("incoherent", "비가 와서 해가 쨍쨍했어요. 엄마가 없었기 때문에 엄마가 대답했어요.", "비가 그치자 해가 쨍쨍했어요. 엄마가 대답했어요."),
        ("incoherent", "밤이 되어 해가 떴어요. 토토는 언덕 밑으로 올라갔어요.", "밤이 되어 달이 떴어요. 내일 먹으려고 당근을 남겼어요."),
    ],
)  # fmt: skip
def test_a_fault_and_what_only_looks_like_it(reason: str, bad: str, good: str) -> None:
    assert reason in reasons(f"{STORY} {bad}")
    assert reasons(f"{STORY} {good}") == set()


def test_a_title_over_an_empty_line_is_none_of_the_story() -> None:
    assert "meta" in reasons(f"토토와 꽃밭\n\n{STORY}")
    assert reasons(f"“토토야!”\n\n{STORY}") == set()


def test_a_song_in_a_story_is_no_loop() -> None:
    lines = [f"또르르 또르르, {who}도 졸려요" for who in ("달님", "이슬", "바람", "별님")]
    assert reasons(f"{STORY}\n\n" + "\n".join(lines)) == set()
    assert "repetition" in reasons(" ".join(f"{line}." for line in lines * 3))


def test_another_plot_than_the_one_asked_for_is_off_the_prompt() -> None:
    def asked(plot: str) -> set[str]:
        pair = Pair("a", f"토끼 토토가 {plot} 이야기를 써 주세요.", STORY, "토끼 토토", ("꽃", "비"))
        return {f.reason for f in check_pair(pair, FilterConfig())[0]}

    assert asked("이를 닦고 조용히 잠드는") == {"off_prompt"}
    assert asked("거짓말을 하지 않는 정직함을 배우는") == set(), "a moral need not be said"
    assert asked("개미와 이를 닦고 조용히 잠드는") == set(), "one of its words comes up"


@pytest.mark.parametrize(
    "extra",
    [
        " 데굴데굴, 데굴데굴! 영차, 영차! 영차, 영차!",
        ' "물론이죠!" 토토가 대답했어요.',
        ' "죄송해요, 할머니." 토토가 말했어요.',
        " 119에 전화하니 3층까지 사다리가 올라왔어요.",
        ' "남자는 울면 안 돼." "아니야, 누구나 울 수 있어."',
        " 토토는 숨을 죽이고 기다렸어요.",
        # What reads like a refusal or a comment is somebody in the story.
        " 토토는 부끄러워서 대답할 수 없었어요.",
        " 토토는 탑을 완성하지 못하고 잠이 들었어요.",
        " 토토는 무엇을 도와줄까 곰곰이 생각했어요.",
        " 개미는 혼자 만들기 힘들다고 말했어요.",
        " 토토는 개미의 요청을 들어주었어요.",
        " 할머니께 도움을 드리지 못해 토토는 속상했어요.",
        " 토토는 다른 이야기도 들려 달라고 부탁했어요.",
        " 토토는 옛날이야기를 들려 달라고 졸랐어요.",
        " 이 이야기를 들은 개미가 길을 가르쳐 주었어요.",
        " 토토는 부모님께 편지를 썼어요.",
        " 할머니는 선물이 마음에 드셨어요.",
        " 고맙다는 말이 들어간 노래였어요.",
        " 토토는 아이에게 길을 물어보았어요.",
        # Words that are rude or dangerous in other places only.
        " 촛불이 꺼져 방이 캄캄했어요.",
        " 토토는 엄마를 졸라 풍선을 샀어요.",
        " 어느새 추위가 닥쳐왔어요.",
        " 할머니가 눈깔사탕을 주셨어요.",
        " 새끼 오리들이 뒤뚱뒤뚱 따라왔어요.",
        " 둘은 엿 먹고 떡 먹고 신나게 놀았어요.",
        " 이발소에서 머리를 싹둑 잘랐어요.",
        " 아빠가 칼로 수박을 반으로 갈랐어요.",
        " 둘은 물총을 쏘며 놀았어요.",
        " 토토는 목도리로 목을 잘 감쌌어요.",
        " 고양이는 지붕에서 폴짝 뛰어내렸어요.",
        " 엄마가 성냥을 켜서 케이크에 불을 붙였어요.",
        " 장난감 로봇은 건전지를 꿀꺽 먹고 힘이 났어요.",
        " 대장장이가 망치로 쇠를 내리쳤어요.",
        " 가난한 나무꾼은 하루도 쉴 수 없었어요.",
        " 한편 개미는 아기자기한 방을 꾸몄어요.",
        # Numbers that are no address, and a verb that looks like a wrong particle.
        " 토토는 거꾸로 10, 9, 8, 7 하고 세었어요.",
        " 토토는 앞으로 3 걸음, 뒤로 2 걸음 걸었어요.",
        " 문구점에 들를 시간이었어요.",
    ],
)
def test_what_good_authors_write_passes(extra: str) -> None:
    assert reasons(STORY + extra) == set()


def test_a_story_may_begin_with_an_age() -> None:
    assert reasons("네 살 토토는 모래로 여기저기 길을 만들었어요. " + STORY) == set()


@pytest.mark.parametrize(
    "text",
    [
        "".join(
            f"토끼 토토는 {place} 갔어요. 토토는 거기서 {what} 보았어요. 토토는 정말 기뻤어요. "
            for place, what in zip(("숲에", "강에", "들에", "산에", "바다에", "꽃밭에", "비탈에"), ["꽃을", "비를", "돌을", "새를", "별을", "달을", "해를"], strict=True)
        ),
        "토끼 토토는 숲에 사는 거죠. 꽃이 예쁜 거죠. 비가 오는 거죠. 비가 그친 거죠. 꽃이 피는 거죠. 토토가 웃는 거죠. "
        "토토가 노는 거죠. 꽃이 지는 거죠. 비가 오는 거죠. 토토가 자는 거죠. 꽃이 피는 거죠. 토토가 웃는 거죠.",
        STORY + " " + STORY,
        STORY + " 그래서 토토는 또 비를 맞았어요. 그리고 토토는 또 비를 맞았어요." * 4,
        STORY + " 하" * 40 + "하고 웃었어요.",
        STORY + " 아" + "아아아아" * 12 + "!",
        STORY + ' "안녕, 개미야!" "안녕, 토토야!"' * 9,
        "토끼 토토는 꽃을 좋아했어요. 그래서 토토는 행복했어요. 비가 왔어요. 토토는 비를 좋아했어요. 그래서 토토는 행복했어요. "
        "꽃이 피었어요. 토토는 꽃을 좋아했어요. 그래서 행복했어요. 토토는 비도 좋아하고 꽃도 좋아했어요. 그래서 토토는 행복했어요.",
    ],
)  # fmt: skip
def test_loops_are_seen_also_when_they_vary(text: str) -> None:
    assert "repetition" in reasons(text)


@pytest.mark.parametrize(
    "text",
    [
        # A cumulative tale, a song with a refrain, a machine that says one thing.
        "할아버지가 커다란 순무를 뽑아요. 영차, 영차! 그래도 안 뽑혀요. 꽃밭에 있던 토토가 왔어요. 토토는 할아버지를 잡고, 할아버지는 순무를 잡고, "
        "영차, 영차! 그래도 안 뽑혀요. 비를 맞던 개구리가 왔어요. 개구리는 토토를 잡고, 토토는 할아버지를 잡고, 할아버지는 순무를 잡고, "
        "영차, 영차! 쑥, 순무가 뽑혔어요. 모두 엉덩방아를 찧고 깔깔 웃었답니다.",
        "토토가 꽃을 들고 노래했어요. \"비야 비야 오너라, 우리 꽃밭에 오너라.\" 똑, 한 방울이 떨어졌어요. \"비야 비야 오너라, 우리 꽃밭에 오너라.\" "
        "똑똑, 두 방울이 떨어졌어요. 토토는 더 크게 불렀어요. \"비야 비야 오너라, 우리 꽃밭에 오너라!\" 쏴아, 드디어 비가 쏟아졌어요. 목마른 꽃들이 고개를 들었답니다.",
        "장난감 로봇이 말했어요. \"삐리삐리, 안녕.\" 토토가 물었어요. \"너도 꽃을 좋아해?\" \"삐리삐리, 안녕.\" \"비가 오면 어떻게 해?\" \"삐리삐리, 안녕.\" "
        "토토는 로봇의 등을 열어 보았어요. 건전지가 거꾸로 끼워져 있었지요. 토토가 바로 끼우자 로봇이 노래했어요. \"삐리삐리, 토토야, 비가 오면 우산이 되어 줄게!\" 토토는 깔깔 웃었어요.",
    ],
)  # fmt: skip
def test_refrains_and_cumulative_tales_are_no_loops(text: str) -> None:
    assert reasons(text) == set()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("english_mix", STORY + " THE END"),
        ("broken_text", STORY.replace("꽃밭에서", "꽃?에서 놀?고")),
        ("broken_text", STORY + " <0xED><0x86>"),
        ("broken_text", STORY + " 토 토 는 숲 에 서 놀 았 어 요."),
        ("meta", STORY + " (다음 편에 계속)"),
        ("truncated", STORY + " 그런데 갑자기,"),
        ("truncated", STORY + " 그런데..."),
        ("truncated", STORY + " 토토는 개미에게"),
        ("refusal", "토토 이야기는 안전 지침에 맞지 않아 들려드리기 어렵습니다. 다른 낱말을 주시면 써 보겠습니다." * 2),
        ("refusal", STORY + " 여기까지만 쓰겠습니다. 이어지는 내용은 제공해 드릴 수 없습니다."),
        ("refusal", STORY + " 무서운 장면은 제가 더 이상 쓰지 못해요."),
        ("pii", STORY + " 집은 햇살시 푸른구 달맞이길 27-3이에요."),
        ("unsafe", STORY + " 토토는 젓가락을 콘센트에 쏙 넣어 보았어요."),
    ],
)
def test_other_ways_to_fail(reason: str, text: str) -> None:
    assert reason in reasons(text)


def test_what_is_said_again_in_other_words_is_a_loop() -> None:
    again = "토토는 꿈을 이루려고 노력했어요. 토토는 큰 꿈을 이루려고 또 노력했어요. 노력한 토토는 꿈을 이루려고 더 노력했어요. 토토는 열심히 노력해서 꿈을 이루려고 했어요. 토토는 꿈을 다시 이루려고 노력했어요. "
    assert reasons("토끼 토토는 꽃밭에서 비를 맞으며 하늘을 보았어요. 구름이 높이 떠 있었지요. " + again) == {
        "repetition"
    }


def test_a_chain_of_helpers_is_no_loop() -> None:
    text = "토토가 무를 뽑아요. 영차! 무는 꿈쩍도 하지 않아요. "
    for who, whom in (("할머니가", "토토를"), ("손자가", "할머니를"), ("강아지가", "손자를"), ("생쥐가", "강아지를")):
        text += f"{who} 와서 {whom} 잡아당겨요. 영차! 무는 꿈쩍도 하지 않아요. "
    assert reasons(text + "비가 내려 흙이 말랑해지자 쑥! 무가 뽑혔어요. 무에는 노란 꽃이 피어 있었답니다.") == set()


@pytest.mark.parametrize(
    "text",
    [
        "꽃은 햇빛과 물이 있어야 잘 자라요. 비가 알맞게 내리면 뿌리가 물을 빨아들여요. 토토 같은 토끼는 풀과 잎을 먹고 살아요. 꽃은 봄과 여름에 가장 많이 볼 수 있어요. 비가 오지 않으면 잎이 시들어요.",
        "토토 꽃집에 오시면 비 오는 날에도 꽃을 반값에 드려요. 꽃은 찬물에 꽂아 주세요. 물은 이틀마다 갈아 주세요. 두 송이를 사시는 분께 화분을 드립니다. 꽃값은 삼천 원이에요.",
    ],
)
def test_facts_and_offers_are_no_story(text: str) -> None:
    assert "not_a_story" in reasons(text)


@pytest.mark.parametrize(
    ("word", "sentence", "there"),
    [
        ("나무", "나뭇가지에 새가 앉았어요.", True),
        ("나무", "소나무가 서 있었어요.", True),
        ("나무", "엄마는 아이를 나무랐어요.", False),
        ("꿈", "밤새 꿈꾸었어요.", True),
        ("잠", "스르르 잠들었어요.", True),
        ("춤", "빙글빙글 춤추었어요.", True),
        ("눈", "함박눈이 내렸어요.", True),
        ("다리", "친구를 기다리고 있었어요.", False),
        ("다리", "돌다리를 건넜어요.", True),
        ("가지", "떡을 가지고 왔어요.", False),
        ("모자", "빵이 모자랐어요.", False),
        ("모자", "털모자를 썼어요.", True),
        ("하마", "하마터면 넘어질 뻔했어요.", False),
        ("노래", "모두 노래했어요.", True),
        ("반짝", "별이 반짝였어요.", True),
        ("총총", "강아지가 총총총 걸었어요.", True),
        ("비", "비밀을 말했어요.", False),
    ],
)
def test_a_key_word_counts_inflected_or_in_a_compound_but_not_by_its_letters_alone(
    word: str, sentence: str, there: bool
) -> None:
    assert ("missing_keyword" in reasons(sentence, keywords=(word,))) is not there


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [
        (" 잠자리은 연못을 좋아했어요.", True),
        (" 강아지이 뛰어왔어요.", True),
        (" 바람는 살랑살랑 불었어요.", True),
        (" 둘은 학교으로 걸어갔어요.", True),
        (" 곰가 왔어요. 벌집가 있었어요.", True),
        # Edges, verbs, compounds and names that look the same.
        (" 노을이 하늘가에 번지고 꽃가 나비도 날았어요.", False),
        (" 토토는 먹는 것도 웃는 것도 좋아했어요.", False),
        (" 남자아이 하나가 섬마을 산책로를 걸었어요.", False),
        (" 고양이 한 마리가 길로 나왔어요.", False),
    ],
)
def test_particles_follow_the_end_of_any_noun(extra: str, wrong: bool) -> None:
    assert ("ungrammatical" in reasons(STORY + extra)) is wrong


@pytest.mark.parametrize(
    ("extra", "stuck"),
    [
        (" 그그그그래서 토토는 웃었어요.", True),
        (" 잔잔잔잔한 물결이 왔어요.", True),
        (" 토토는 토토는 토토는 웃었어요.", True),
        (" 나는는 웃었어요.", True),
        (" 쿵쿵쿵쿵거리며 하하하하 웃었어요.", False),
        (" 따따따따따르릉, 콩콩콩콩 뛰어갔어요.", False),
        (" 가을을 지나 마을을 지나 더 멀리 더 멀리 갔어요.", False),
    ],
)
def test_a_stuck_syllable_is_no_sound(extra: str, stuck: bool) -> None:
    assert ("repetition" in reasons(STORY + extra)) is stuck


@pytest.mark.parametrize(
    ("extra", "stuck"),
    [
        (" 토토는 물수제비를 꼭 한번 던져 보고 싶었는데 말이에요." * 2, True),
        (" 한 걸음, 또 한 걸음." * 2, False),
        (' "우리 다 같이 저 언덕 너머까지 달려가 보자!"' * 2, False),
    ],
)
def test_a_long_sentence_told_twice_in_a_row_is_a_stutter(extra: str, stuck: bool) -> None:
    assert ("repetition" in reasons(STORY + extra)) is stuck


@pytest.mark.parametrize(
    ("reason", "extra"),
    [
        # Endings that are missing, broken, doubled or none.
        ("ungrammatical", " 토토는 개미를 보았. 둘은 웃었어요."),
        ("ungrammatical", " 개미가 길을 물었요."),
        ("ungrammatical", " 둘은 집으로 가았어요."),
        ("ungrammatical", " 토토는 그림을 읽은 했어요."),
        ("ungrammatical", " 토토는 하늘을 보고 싶은. 둘은 웃었어요."),
        ("ungrammatical", " 그때 커다란 강아지가. 토토는 개미를. 둘은 웃었어요."),
        ("ungrammatical", " 다람쥐가는 도토리를 주웠어요."),
        ("broken_text", " 둘은 집으로 갔어욥."),
        ("broken_text", " 토토가 개미를 만직작거렀어요."),
        ("broken_text", " 시무뤀해진 개미가 꾸벆 졸았어요."),
        # Lost on the way: syllables, quotation marks, the main character, the tone.
        ("broken_text", " 숲?에 바?이 불었어요."),
        ("broken_text", ' 그래!" 토토가 말했어요. "좋아!"'),
        ("wrong_register", " 밤이 왔다. 별이 떴다. 토토는 잠들었다."),
        # One word changed each time; nobody counts.
        ("repetition", " 둘은 감을 냠냠 먹었어요. 둘은 배를 냠냠 먹었어요. 둘은 밤을 냠냠 먹었어요. 둘은 무를 냠냠 먹었어요."),
        ("meta", "\n도우미: 이야기가 끝났어요."),
        ("meta", " 끝. 옛날에 곰이 살았어요."),
        # Vowels that do not go together, two endings in one, what only a translation says.
        ("ungrammatical", " 토토는 눈을 감었어요."),
        ("ungrammatical", " 토토는 배를 먹았지만 배가 고팠어요."),
        ("ungrammatical", " 둘은 집으로 갔어요다."),
        ("ungrammatical", " 짐이 개미에 의해 옮겨졌어요."),
        ("ungrammatical", " 토토는 친구에 인사했어요."),
        ("ungrammatical", " 둘은 연못을 도착했어요."),
        ("wrong_register", " 밤이 깊었어. 둘은 잠들었지."),
        # Talk about the text in words of its own.
        ("meta", " 쉬운 낱말만 골라 썼으니 편하게 읽어 주세요."),
        ("meta", "\n\n※ 잠들기 전에 좋아요."),
        ("meta", "\n\n제2화. 개미는 집으로 갔어요."),
        ("meta", "\n\n이 이야기의 특징: 소리가 많음."),
        ("meta", "\n\n본 결과물은 틀릴 수 있어요."),
        ("prompt_echo", "\n요구 사항: 짧게 끝낼 것."),
        # Harm, and prejudice as a law.
        ("unsafe", " 토토는 개미의 다리를 모두 잘랐어요."),
        ("unsafe", " 토토는 피를 흘리며 늘어졌어요."),
        ("unsafe", " 토토는 알약을 몰래 먹었어요."),
        ("unsafe", " 토토는 난간 위에 섰어요."),
        ("bias", ' "저쪽 애들은 다 게으르대."'),
        ("bias", ' "사내는 울면 안 돼."'),
    ],
)  # fmt: skip
def test_slips_of_small_models(reason: str, extra: str) -> None:
    assert reasons(STORY + extra) == {reason}


@pytest.mark.parametrize(
    "extra",
    [
        " 호랑이 담배 피우던 시절 이야기 같지요?",
        " 선물은 개미에게. 편지는 곰에게. 노래는 온 숲에게.",
        " 왜 웃었을까요? 간지러워서. 왜 또 웃었을까요? 신나서.",
        " 밤이 왔다. 토토는 하품을 했어요.",
        ' "내가 그랬…." 토토는 말끝을 흐렸어요.',
        " 할머니는 물레로 실을 자았어요. 상처도 다 나았어요. 줄도 그었어요. 노를 저었어요.",
        " 숙제는 했어요. 조금 졸리기는 했어요.",
        " 노을이 마을을 물들이고 가을을 알렸어요.",
        " 하나만 하나만 조르며 옆으로 옆으로 갔어요.",
        " 한 칸 오르고 후유. 두 칸 오르고 후유. 세 칸 오르고 후유. 네 칸 오르고 후유. 다섯 칸 오르고 후유.",
        " 뾱뾱뾱 소리가 났어요.",
        ' 개미가 도착했다는 말을 듣고 토토는 뛰었어요. "어디로?" "바다요!"',
        " 드디어 끝! 토토는 만세를 불렀어요.",
        " 전에도 갔었어요. 해님이 졌어요. 고맙습니다마는 괜찮아요.",
        " 뿔라는 뿔이 길었어요. 뿔라가 웃었어요.",
        " 토토는 이야기를 지어 개미에게 읽어 주었어요.",
        " 다리에서 피를 흘리는 제비에게 붕대를 감아 주었어요.",
        " 개구리가 다리에서 폴짝 뛰어내렸어요.",
        " 가난한 나무꾼은 도둑을 만났어요.",
        " 파도가 배를 세게 때렸어요.",
        " 정말 고맙습니다아!",
        "\n너의 친구 토토 올림",
        " 토토는 쉬운 낱말로 편지를 썼어요.",
        " 내 이야기를 들어 주세요, 하고 바람이 말했어요.",
        " 마을 사람들은 모두 게으른 임금님을 걱정했어요.",
        " 남자아이들이 발레를 하는 것이 멋있었어요.",
        " 할머니께서 떡을 주셨나요? 아니요, 곶감을 주셨지요.",
        " 임금님이 세금을 걷었어요. 요리사는 당근을 썰어 버무렸어요. 로봇은 에너지가 없었어요.",
    ],
)
def test_a_teller_s_liberties(extra: str) -> None:
    assert reasons(STORY + extra) == set()


def test_another_one_that_takes_the_tale_over_leaves_the_character_missing() -> None:
    start = "토끼 토토는 꽃밭에 비가 오기를 기다렸어요. "
    rest = "그때 {0} 우산을 쓰고 왔어요. {0} 비를 좋아했지요. 빗방울이 톡톡 떨어지자 {0} 춤을 추었어요. 개구리들도 모여 노래했어요. 밤이 깊도록 잔치가 이어졌답니다. 모두 즐거웠어요."
    assert "missing_character" in reasons(start + rest.format("루루가"))
    assert "missing_character" not in reasons(start + rest.format("토토가"))
    # One is not named twice in a tale told without subjects, or by the main character.
    assert "missing_character" not in reasons(start + rest.format("곧"))
    assert "missing_character" not in reasons(start + "나는 그 일을 다 보았어요. " + rest.format("루루가"))


def test_another_name_that_begins_alike_is_not_the_character() -> None:
    assert "missing_character" in reasons(STORY.replace("토토", "토토리"))
    assert reasons(STORY.replace("토토는", "토토네는")) == set()


def test_the_token_limit_counts_as_truncated() -> None:
    assert reasons(STORY, finish="length") == {"truncated"}


def test_a_finding_points_at_its_words() -> None:
    pair = Pair("x", "", STORY + " 정말 happy했어요.", "토끼 토토", ("꽃",))
    (found,) = check_pair(pair, FilterConfig())[0]
    assert pair.output[found.start : found.end] == "happy"


def test_missing_words_are_named_as_nothing_can_be_marked() -> None:
    pair = Pair("x", "", STORY, "여우 미호", ("꽃", "우체통", "비", "썰매"))
    found = {f.reason: f.shown() for f in check_pair(pair, FilterConfig())[0]}
    assert found == {"missing_character": ["여우 미호"], "missing_keyword": ["우체통", "썰매"]}


@pytest.mark.parametrize(
    ("reason", "extra", "shown"),
    [
        ("not_a_story", " 차례는 1) 씻기 2) 자르기 3) 담기였어요.", "1) 씻기 2) 자르기 3) "),
        ("meta", " 끝.\n\n옛날에 곰이 살았어요.", "끝."),
        ("repetition", " 코를 코를 훌쩍이고 눈을 눈을 비볐어요.", "코를 코를"),
        ("wrong_register", " 토토는 뛰었다. 해가 졌다. 밤이 되었다.", "뛰었다"),
        ("broken_text", ' "같이 가자. 개미가 말했어요. "그래!" 토토가 웃었어요.', '"같이 가자.'),
    ],
)
def test_the_ledger_can_mark_what_gave_the_reason(reason: str, extra: str, shown: str) -> None:
    text = STORY + extra
    pair = Pair("x", "", text, "토끼 토토", ("꽃",))
    (found,) = check_pair(pair, FilterConfig())[0]
    assert (found.reason, text[found.start : found.end]) == (reason, shown)


@pytest.mark.parametrize("name", ["filter_dev.jsonl", "filter_hard.jsonl"])
def test_every_reason_but_shortness_has_something_to_show(name: str) -> None:
    for row in map(json.loads, (FIXTURES / name).read_text("utf-8").splitlines()):
        for found in check_pair(Pair.of(row), FilterConfig())[0]:
            assert found.shown() or found.reason == "too_short", (row["id"], found)
            assert found.start is None or 0 <= found.start < found.end <= len(row["output"]), (row["id"], found)
            assert found.start is None or row["output"][found.start : found.end].strip(), (row["id"], found)


def test_reference_stories_pass() -> None:
    pairs = [
        Pair(r["id"], r["instruction"], r["output"], r["character"], tuple(r["keywords"])) for r in reference_stories()
    ]
    assert [p.id for p in pairs if check_pair(p, FilterConfig())[0]] == []


@pytest.mark.parametrize("name", ["filter_dev.jsonl", "filter_hard.jsonl"])
def test_labelled_sets(name: str) -> None:
    """Measured: every good row kept, every rule-level row caught by a reason that is named (near-duplicates aside)."""
    good, caught, named = [], [], []
    for r in map(json.loads, (FIXTURES / name).read_text("utf-8").splitlines()):
        found = {
            f.reason
            for f in check_pair(
                Pair(r["id"], r["instruction"], r["output"], r["character"], tuple(r["keywords"])), FilterConfig()
            )[0]
        }
        if r["label"] == "keep":
            good.append(not found)
        elif r["level"] == "rule" and "near_duplicate" not in r["reasons"]:
            caught.append(bool(found))
            named.append(bool(found & set(r["reasons"])))
    assert all(good) and all(caught) and all(named)
