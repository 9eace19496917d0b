"""Every option of every stage, once: the tab's form, the command line and config.json are made from here.

To add an option, add a ``knob`` to the dataclass of its stage.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lab.problems import Problem


def knob(
    default: Any,
    en: str,
    ko: str,
    *,
    help_en: str = "",
    help_ko: str = "",
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] = (),
    lines: int = 1,
    more: bool = False,
) -> Any:
    """A dataclass field that knows its label, help and limits.

    ``more`` puts it into the folded part of the form; ``lines`` > 1 makes a text area.
    """
    return field(
        default=default,
        metadata={
            "en": en,
            "ko": ko,
            "help_en": help_en,
            "help_ko": help_ko,
            "low": low,
            "high": high,
            "step": step,
            "choices": choices,
            "lines": lines,
            "more": more,
        },
    )


@dataclass(frozen=True)
class GenerateConfig:
    """The teacher writes pairs."""

    pairs: int = knob(
        200,
        "Pairs",
        "쌍의 수",
        low=1,
        high=50_000,
        step=1,
        help_en="How many instruction and story pairs the run should hold.",
        help_ko="이 실험이 가질 지시문과 이야기 쌍의 개수",
    )
    teacher: str = knob(
        "mini:teacher",
        "Teacher",
        "교사 모델",
        help_en="Hub id, folder, mini:teacher, run:RUN/ARM or api:MODEL",
        help_ko="허브 아이디, 폴더, mini:teacher, run:실험/갈래, api:모델",
    )
    temperature: float = knob(0.8, "Temperature", "온도", low=0.0, high=1.5, step=0.05)
    seed: int = knob(0, "Seed", "시드", low=0, high=2**31 - 1, step=1)
    characters: str = knob(
        "",
        "Own characters",
        "직접 정한 주인공",
        lines=3,
        more=True,
        help_en="One a line; empty takes the 160 built-in ones.",
        help_ko="한 줄에 하나씩. 비워 두면 기본 160개",
    )
    words: str = knob(
        "",
        "Own key words",
        "직접 정한 낱말",
        lines=3,
        more=True,
        help_en="One word or one pair (a, b) a line; empty takes the built-in pairs.",
        help_ko="한 줄에 낱말 하나 또는 한 쌍(가, 나). 비워 두면 기본 낱말 쌍",
    )
    lists: str = knob(
        "",
        "Own places, morals, tones, openings, ages, lengths",
        "직접 정한 장소, 교훈, 분위기, 첫머리, 나이, 길이",
        lines=3,
        more=True,
        help_en="One value a line, like `place: by the sea` or `age: 6세`; what is not named keeps the built-in list.",
        help_ko="한 줄에 하나씩 `장소: 바닷가`, `나이: 여섯 살`처럼 적습니다. 적지 않은 것은 기본 목록을 씁니다.",
    )
    top_p: float = knob(1.0, "Top-p", "Top-p", low=0.1, high=1.0, step=0.01, more=True)
    max_new_tokens: int = knob(
        400, "Longest answer (tokens)", "답의 최대 길이(토큰)", low=16, high=2048, step=1, more=True
    )
    batch_size: int = knob(
        0,
        "Batch size",
        "배치 크기",
        low=0,
        high=1024,
        step=1,
        more=True,
        help_en="0 finds it by itself. At an endpoint: requests in flight.",
        help_ko="0이면 알아서 찾습니다. 엔드포인트에서는 동시에 보내는 요청 수",
    )
    revision: str = knob(
        "", "Teacher revision", "교사 리비전", more=True, help_en="Commit of the Hub model.", help_ko="허브 모델의 커밋"
    )
    four_bit: bool = knob(
        False,
        "4-bit teacher",
        "4비트 교사",
        more=True,
        help_en="A quarter of the memory; for a GPU.",
        help_ko="메모리를 4분의 1만 씁니다. GPU에 알맞습니다.",
    )
    base_url: str = knob(
        "",
        "Endpoint address",
        "엔드포인트 주소",
        more=True,
        help_en="Of an api: teacher, ending in /v1; empty takes OPENAI_BASE_URL.",
        help_ko="api: 교사의 주소(/v1로 끝남). 비워 두면 OPENAI_BASE_URL",
    )
    price_in: float = knob(
        0.0,
        "Price, dollars per million tokens read",
        "읽는 토큰 100만 개의 값(달러)",
        low=0.0,
        high=1000.0,
        step=0.01,
        more=True,
        help_en="Of the endpoint, for the estimate and the budget.",
        help_ko="엔드포인트의 값. 어림과 예산에 씁니다.",
    )
    price_out: float = knob(
        0.0,
        "Price, dollars per million tokens written",
        "쓰는 토큰 100만 개의 값(달러)",
        low=0.0,
        high=1000.0,
        step=0.01,
        more=True,
    )
    max_minutes: float = knob(
        0.0,
        "Budget: minutes",
        "예산: 분",
        low=0.0,
        high=100_000.0,
        step=1.0,
        more=True,
        help_en="Of each start; 0 is no limit. What is written by then is kept.",
        help_ko="시작할 때마다 셉니다. 0이면 제한 없음. 그때까지 쓴 이야기는 남습니다.",
    )
    max_dollars: float = knob(
        0.0,
        "Budget: dollars",
        "예산: 달러",
        low=0.0,
        high=100_000.0,
        step=0.1,
        more=True,
        help_en="Of the whole run at an endpoint; 0 is no limit. Needs the price.",
        help_ko="엔드포인트에서 이 실험 전체에 쓸 돈. 0이면 제한 없음. 값을 적어야 셉니다.",
    )
    set_aside: bool = knob(
        False,
        "Set rows of another setting aside",
        "다른 설정의 쌍 치워 두기",
        more=True,
        help_en="Moves pairs that another teacher, seed or sampling wrote into a file beside, instead of refusing.",
        help_ko="다른 교사, 시드, 표집으로 쓴 쌍이 있으면 거절하지 않고 옆 파일로 옮깁니다.",
    )


@dataclass(frozen=True)
class FilterConfig:
    """A verdict for every pair."""

    judge: str = knob(
        "none",
        "Judge",
        "심사 모델",
        help_en="none, mini, or a model (Hub id, folder, api:MODEL) that scores 1-5",
        help_ko="none, mini 또는 1-5점을 매길 모델(허브 아이디, 폴더, api:모델)",
    )
    min_score: float = knob(3.0, "Minimum score", "최소 점수", low=1.0, high=5.0, step=0.1)
    keep_top: float = knob(
        1.0,
        "Keep the best",
        "상위 비율",
        low=0.05,
        high=1.0,
        step=0.05,
        help_en="Share of the pairs that passed, best first.",
        help_ko="통과한 쌍 가운데 점수가 높은 순서로 남길 비율",
    )
    min_chars: int = knob(150, "Shortest story (characters)", "최소 글자 수", low=20, high=1000, step=10)
    max_chars: int = knob(600, "Longest story (characters)", "최대 글자 수", low=50, high=4000, step=10)
    off: str = knob(
        "",
        "Rules switched off",
        "끌 규칙",
        more=True,
        help_en="Names of reasons, separated by commas.",
        help_ko="끌 이유의 이름을 쉼표로 나누어 적습니다.",
    )


@dataclass(frozen=True)
class TrainConfig:
    """One arm of the student."""

    arm: str = knob(
        "distilled", "Arm", "갈래 이름", help_en="Name of this training arm.", help_ko="이 학습 갈래의 이름"
    )
    student: str = knob("mini:student", "Student", "학생 모델")
    method: str = knob(
        "lora",
        "Method",
        "학습 방법",
        choices=("lora", "full", "scratch", "soft"),
        help_en="scratch: a story model with a vocabulary of its own. soft: the teacher's distribution, for one shared vocabulary.",
        help_ko="scratch: 자기 어휘를 가진 이야기 모델을 처음부터. soft: 어휘가 같은 교사의 확률 분포를 배웁니다.",
    )
    data: str = knob(
        "distilled",
        "Data",
        "학습 자료",
        choices=("distilled", "unfiltered", "human"),
        help_en="unfiltered: what does skipping the filter cost? human: stories by people, as many.",
        help_ko="unfiltered: 필터를 건너뛰면 어떻게 될까요? human: 사람이 쓴 이야기를 같은 수만큼",
    )
    epochs: float = knob(3.0, "Epochs", "에폭", low=0.1, high=50, step=0.5)
    learning_rate: float = knob(1e-4, "Learning rate", "학습률", low=1e-6, high=1e-1, step=1e-6)
    keep_top: float = knob(1.0, "Keep the best", "상위 비율", low=0.05, high=1.0, step=0.05, more=True)
    batch_size: int = knob(16, "Effective batch", "실효 배치", low=1, high=512, step=1, more=True)
    lora_r: int = knob(16, "LoRA rank", "LoRA 랭크", low=1, high=256, step=1, more=True)
    lora_alpha: int = knob(32, "LoRA alpha", "LoRA 알파", low=1, high=512, step=1, more=True)
    lora_dropout: float = knob(0.05, "LoRA dropout", "LoRA 드롭아웃", low=0.0, high=0.9, step=0.01, more=True)
    lora_targets: str = knob("q_proj,k_proj,v_proj,o_proj", "LoRA layers", "LoRA 층", more=True)
    warmup_steps: int = knob(20, "Warm-up steps", "워밍업 스텝", low=0, high=10_000, step=1, more=True)
    max_length: int = knob(
        1024, "Longest example (tokens)", "예제 최대 길이(토큰)", low=64, high=8192, step=1, more=True
    )
    evaluations: int = knob(8, "Evaluations", "평가 횟수", low=1, high=100, step=1, more=True)
    early_stopping: bool = knob(
        False,
        "Early stopping",
        "조기 종료",
        more=True,
        help_en="Ends after three evaluations without a better held-out loss. The best student is kept either way.",
        help_ko="검증 손실이 평가 세 번 동안 나아지지 않으면 끝냅니다. 어느 쪽이든 가장 나은 학생을 남깁니다.",
    )
    four_bit: bool = knob(
        False,
        "4-bit base (QLoRA)",
        "4비트 바탕(QLoRA)",
        more=True,
        help_en="A quarter of the base's memory; needs a GPU and bitsandbytes.",
        help_ko="바탕 모델의 메모리를 4분의 1로 줄입니다. GPU와 bitsandbytes가 필요합니다.",
    )
    teacher: str = knob(
        "",
        "Soft: whose distribution",
        "soft: 분포를 배울 교사",
        more=True,
        help_en="Empty takes the teacher that wrote the pairs.",
        help_ko="비워 두면 쌍을 쓴 교사",
    )
    human_file: str = knob(
        "",
        "Own human stories",
        "직접 준비한 사람 이야기",
        more=True,
        help_en="For data human: a .jsonl file with instruction and output; empty fills the built-in templates.",
        help_ko="학습 자료가 human일 때 쓸 .jsonl 파일(instruction, output). 비워 두면 기본 틀을 채워 씁니다.",
    )
    seed: int = knob(0, "Seed", "시드", low=0, high=2**31 - 1, step=1, more=True)


@dataclass(frozen=True)
class CompareConfig:
    """Teacher, untrained student and every arm on the same prompts."""

    arms: str = knob(
        "",
        "Arms",
        "갈래",
        help_en="Names separated by commas; empty takes all.",
        help_ko="쉼표로 나눈 이름. 비워 두면 모두",
    )
    prompts: int = knob(64, "Prompts", "지시문 수", low=4, high=2000, step=1)
    temperature: float = knob(0.8, "Temperature", "온도", low=0.0, high=1.5, step=0.05)
    top_p: float = knob(0.95, "Top-p", "Top-p", low=0.1, high=1.0, step=0.01, more=True)
    seed: int = knob(1000, "Seed", "시드", low=0, high=2**31 - 1, step=1, more=True)
    max_new_tokens: int = knob(
        400, "Longest answer (tokens)", "답의 최대 길이(토큰)", low=16, high=2048, step=1, more=True
    )
    reference: str = knob(
        "",
        "Own reference stories",
        "직접 준비한 기준 이야기",
        more=True,
        help_en="A .jsonl file with instruction and output; empty takes the built-in 40.",
        help_ko="instruction과 output이 있는 .jsonl 파일. 비워 두면 기본 40편",
    )
    judge: str = knob("none", "Judge", "심사 모델", more=True)


@dataclass(frozen=True)
class PublishConfig:
    """Cards, licence, upload."""

    dataset_repo: str = knob(
        "", "Dataset repository", "데이터셋 저장소", help_en="namespace/name", help_ko="네임스페이스/이름"
    )
    model_repo: str = knob("", "Model repository", "모델 저장소", help_en="namespace/name", help_ko="네임스페이스/이름")
    arm: str = knob(
        "", "Arm", "갈래", help_en="Empty takes the newest finished one.", help_ko="비워 두면 가장 최근에 끝난 갈래"
    )
    private: bool = knob(True, "Private", "비공개")
    rejected: bool = knob(True, "Include rejected pairs", "탈락한 쌍도 포함", more=True)
    data_licence: str = knob(
        "",
        "Licence of own data",
        "가져온 자료의 라이선스",
        more=True,
        help_en="Licence ids of imported rows, separated by commas: cc0-1.0, cc-by-4.0, own. For an unknown model its name and link: house-rules https://...",
        help_ko="가져온 자료의 라이선스를 쉼표로 나누어 적습니다: cc0-1.0, cc-by-4.0, own. 알 수 없는 모델이면 이름과 링크: house-rules https://...",
    )
    dry_run: bool = knob(False, "Dry run", "올리지 않고 미리 보기", more=True)


StageConfig = GenerateConfig | FilterConfig | TrainConfig | CompareConfig | PublishConfig

STAGES: dict[str, type] = {
    "generate": GenerateConfig,
    "filter": FilterConfig,
    "train": TrainConfig,
    "compare": CompareConfig,
    "publish": PublishConfig,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "mini": {
        "generate": {"teacher": "mini:teacher", "pairs": 200, "top_p": 0.9},
        "filter": {"judge": "mini"},
        "train": {"student": "mini:student", "method": "full", "learning_rate": 1e-4, "epochs": 6.0},
        "compare": {"judge": "mini", "top_p": 0.9, "prompts": 100},
    },
    "qwen": {
        "generate": {"teacher": "Qwen/Qwen2.5-1.5B-Instruct", "pairs": 5000, "top_p": 0.95, "max_new_tokens": 512},
        "filter": {"judge": "Qwen/Qwen2.5-1.5B-Instruct"},
        "train": {"student": "Qwen/Qwen2.5-0.5B-Instruct"},
    },
    "scratch-30m": {
        "generate": {"teacher": "Qwen/Qwen2.5-1.5B-Instruct", "pairs": 5000, "top_p": 0.95, "max_new_tokens": 512},
        "train": {"student": "scratch:30m", "method": "scratch", "learning_rate": 5e-4, "epochs": 20.0},
    },
    "api": {
        "generate": {"teacher": "api:gpt-oss-20b", "pairs": 1000, "top_p": 0.95, "max_new_tokens": 512},
        "train": {"student": "Qwen/Qwen2.5-0.5B-Instruct"},
    },
}


def preset_config(stage: str, preset: str) -> StageConfig:
    """The configuration of ``stage`` as ``preset`` has it."""
    return STAGES[stage](**PRESETS[preset].get(stage, {}))


def checked(config: StageConfig, **changes: Any) -> StageConfig:
    """``config`` with ``changes``, each converted to its field's type and held to its limits.

    Raises Problem that names the option, the value and the range.
    """
    values: dict[str, Any] = {}
    for f in fields(config):
        if f.name not in changes or changes[f.name] is None:
            continue
        kind, meta, value = type(f.default), f.metadata, changes[f.name]
        try:
            value = kind(value)
        except (TypeError, ValueError):
            raise Problem(
                f"Option {f.name}: {value!r} is not a {kind.__name__}. Give a value like {f.default!r}.",
                f"옵션 {f.name}: {value!r} 값을 읽을 수 없습니다. {f.default!r} 같은 값을 넣어 주세요.",
            ) from None
        low, high = meta["low"], meta["high"]
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise Problem(
                f"Option {f.name}: {value} is outside {low} to {high}. Choose a value in that range.",
                f"옵션 {f.name}: {value} 값이 범위({low}~{high})를 벗어났습니다. 범위 안의 값을 골라 주세요.",
            )
        if meta["choices"] and value not in meta["choices"]:
            raise Problem(
                f"Option {f.name}: {value!r} is not one of {', '.join(meta['choices'])}.",
                f"옵션 {f.name}: {value!r} 값은 쓸 수 없습니다. 가능한 값: {', '.join(meta['choices'])}",
            )
        values[f.name] = value
    return replace(config, **values)


def add_arguments(parser: argparse.ArgumentParser, stage: str) -> None:
    """One flag for each knob of ``stage``; a flag that is not given stays None."""
    for f in fields(STAGES[stage]):
        meta, flag = f.metadata, "--" + f.name.replace("_", "-")
        help_text = f"{meta['en']}. {meta['help_en']} (default {f.default!r})".replace("%", "%%")
        if isinstance(f.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help_text)
        else:
            parser.add_argument(
                flag,
                type=type(f.default),
                default=None,
                choices=meta["choices"] or None,
                metavar=f.name.upper(),
                help=help_text,
            )


def as_flags(config: StageConfig) -> list[str]:
    """The command-line flags that say what differs from the defaults, for copying and for workers."""
    flags: list[str] = []
    for f in fields(config):
        value = getattr(config, f.name)
        if value == f.default:
            continue
        flag = f.name.replace("_", "-")
        flags += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return flags


def as_json(config: StageConfig) -> dict[str, Any]:
    """The configuration as it stands in config.json."""
    return asdict(config)
