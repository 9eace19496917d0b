"""Look before you leap: five stories and the bill for the whole, and whether this teacher can write Korean tales at all.

Both write what they found into the run (generate/preview.json, generate/check.json) and leave its pairs alone.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab import domain, hub
from lab.checks import REASONS, check_pair
from lab.config import FilterConfig, GenerateConfig
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Pair, Verdict, read_json, write_json
from lab.run import Run, find_run
from lab.stages.generate import WEAK, Plan, add_usage_before, best_batch, open_teacher, pair_of, save_usage

PREVIEWED = 5
CHECKED = 10
PEOPLE_DOLLARS = 5.0
"""What people cost for a pair of an instruction and a good answer, and below how many a team writes in a week: the usual
figures of the literature on hand-written instruction data."""
PEOPLE_PAIRS_A_WEEK = 10_000
GOOD = 0.5
"""Share of the sample that should pass the rules: the reference run keeps half or more."""
OFTEN = 0.3
"""Share of the sample from which a fault is a habit of the teacher and no accident."""
RATIO = (3.0, 10.0)
"""Healthy sizes of a teacher in students: below, there is little to gain; above, a student cannot follow."""
LARGE = 100_000_000
"""Weights from which scoring all reference stories and probes takes minutes on a CPU."""
HABITS = {
    "loops": (("repetition",), "goes round in circles", "같은 말을 되풀이합니다"),
    "refusals": (("refusal", "meta"), "refuses, or talks about the task", "거절하거나 과제 이야기를 합니다"),
    "languages": (
        ("foreign_script", "english_mix", "broken_text"),
        "slips into other languages or broken text",
        "다른 언어나 깨진 글자가 섞입니다",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One answer of the teacher check; ``state`` is ok, warn, fail or unknown."""

    name: str
    state: str
    value: float | None
    en: str
    ko: str


def rule_verdicts(pairs: Sequence[Pair], rules: FilterConfig) -> list[Verdict]:
    """What the filter's rules say about each story on its own (near-duplicates and judges need the whole run)."""
    from lab.stages.filter import rules_off

    off = rules_off(rules)
    made = []
    for pair in pairs:
        findings, scores = check_pair(pair, rules)
        reasons = tuple(f.reason for f in findings if f.reason not in off)
        made.append(Verdict(pair.id, not reasons, reasons, scores | {"found": {f.reason: f.shown() for f in findings}}))
    return made


def preview(run_: Run, config: GenerateConfig, progress: Progress) -> dict[str, Any]:
    """The run's first five stories, written now, with the rules' verdicts; and from them the estimate for the whole.

    Keys: stories, teacher, estimate, foreign (pairs of another setting in the run, which generate would refuse).
    """
    model = open_teacher(config)
    try:
        plan = Plan.of(run_, config, model.revision)
        progress.begin("preview", PREVIEWED)
        pairs = _sample(model, plan, config, min(PREVIEWED, len(plan.prompts)), progress)
        verdicts = rule_verdicts(pairs, run_.config("filter"))
        todo = len(plan.todo)
        if hasattr(model, "step_seconds"):
            steps = model.step_seconds(plan.prompts[0].instruction, _sampling(config))
            estimate = local_estimate(pairs, steps, config.batch_size or best_batch(steps), todo)
        else:
            estimate = endpoint_estimate(pairs, config, model.prompt_tokens, todo)
    finally:
        _bill(run_, model)
        model.close()
    estimate |= _people(config.pairs) | _kept(verdicts, config.pairs)
    found = {
        "run": run_.id,
        "teacher": f"{config.teacher}@{model.revision}",
        "estimate": estimate,
        "there": len(plan.ids) - todo,
        "foreign": len(plan.foreign),
        "stories": _rows(pairs, verdicts),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(run_.preview_file, found)
    return found


def _bill(run_: Run, model: Any) -> None:
    """What was tried out at an endpoint costs as much as what is kept."""
    if hasattr(model, "prompt_tokens"):
        add_usage_before(run_, model)
        save_usage(run_, model)


def _sampling(config: GenerateConfig) -> Any:
    from lab.models import Sampling

    return Sampling(config.temperature, config.top_p, config.max_new_tokens)


def _sample(model: Any, plan: Plan, config: GenerateConfig, count: int, progress: Progress) -> list[Pair]:
    """The first ``count`` stories of the plan, as generate will write them."""
    prompts = plan.prompts[:count]
    pairs: list[Pair | None] = [None] * count
    tokens, started = 0, time.monotonic()

    def tick(new: int, under_way: float) -> None:
        nonlocal tokens
        tokens += new
        speed = tokens / max(time.monotonic() - started, 1e-3)
        progress.step(sum(p is not None for p in pairs), under_way, tokens_per_second=round(speed, 1))

    asked = [p.instruction for p in prompts]
    answers = model.write(asked, _sampling(config), [int(i, 16) for i in plan.ids[:count]], count, progress.note, tick)
    try:
        for i, answer in answers:
            pairs[i] = pair_of(plan.ids[i], prompts[i], config, model.revision, answer)
            progress.step(sum(p is not None for p in pairs))
    finally:
        answers.close()
    return [p for p in pairs if p]


def _rows(pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [{"pair": p.row(), "verdict": v.row()} for p, v in zip(pairs, verdicts, strict=True)]


def local_estimate(pairs: Sequence[Pair], steps: dict[int, float], batch: int, todo: int) -> dict[str, Any]:
    """Minutes and tokens of ``todo`` stories as long as these, from the seconds of a decoding step at several batch sizes."""
    lengths = [p.tokens for p in pairs]
    batch = min(batch, max(1, todo))
    tokens = todo * sum(lengths) / len(lengths)
    minutes = todo / batch * batch_seconds(lengths, steps, batch) / 60
    return {
        "batch": batch,
        "tokens": round(tokens),
        "minutes": round(minutes, 2),
        "tokens_per_second": round(tokens / minutes / 60, 1) if minutes else None,
        "dollars": 0.0,
    }


def batch_seconds(lengths: Sequence[int], steps: dict[int, float], batch: int) -> float:
    """Seconds of a batch whose stories are as long as ``lengths``: each step costs what the rows still going cost."""
    import numpy as np

    sizes = sorted(steps)
    alive = [batch * sum(n > step for n in lengths) / len(lengths) for step in range(max(lengths))]
    seconds = np.interp(alive, sizes, [steps[s] for s in sizes])
    # Beyond the largest batch that was tried the time grows with the rows.
    beyond = np.maximum(np.array(alive) / sizes[-1], 1.0)
    return float((seconds * beyond).sum())


def endpoint_estimate(pairs: Sequence[Pair], config: GenerateConfig, prompt_tokens: int, todo: int) -> dict[str, Any]:
    """Minutes, tokens and dollars of ``todo`` requests like these, if the server keeps pace with all that are in flight.

    ``dollars`` is None without a price, tokens are None when the server counts none.
    """
    from lab.endpoint import IN_FLIGHT

    if not pairs:
        return {"batch": 0, "tokens": None, "minutes": None, "tokens_per_second": None, "dollars": None}
    at_once = min(config.batch_size or IN_FLIGHT, max(1, todo))
    a_story = sum(p.tokens for p in pairs) / len(pairs)
    minutes = todo / at_once * sum(p.seconds for p in pairs) / len(pairs) / 60
    read = prompt_tokens / len(pairs)
    priced = (config.price_in or config.price_out) and a_story
    return {
        "batch": at_once,
        "tokens": round(todo * a_story) or None,
        "prompt_tokens": round(todo * read) or None,
        "minutes": round(minutes, 2),
        "tokens_per_second": round(todo * a_story / minutes / 60, 1) if minutes and a_story else None,
        "dollars": round(todo * (read * config.price_in + a_story * config.price_out) / 1e6, 4) if priced else None,
    }


def _people(pairs: int) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "people_dollars": pairs * PEOPLE_DOLLARS,
        "people_weeks": round(pairs / PEOPLE_PAIRS_A_WEEK, 2),
    }


def _kept(verdicts: Sequence[Verdict], pairs: int) -> dict[str, Any]:
    """How many pairs the rules will keep, from a few: with Wilson's 95 % interval, as five stories say little."""
    from scipy.stats import binomtest

    if not verdicts:
        return {"kept": None}
    passed = sum(v.kept for v in verdicts)
    bounds = binomtest(passed, len(verdicts)).proportion_ci(method="wilson")
    return {
        "passed": passed,
        "of": len(verdicts),
        "kept": round(pairs * passed / len(verdicts)),
        "kept_low": round(pairs * bounds.low),
        "kept_high": round(pairs * bounds.high),
    }


def check(run_: Run, config: GenerateConfig, progress: Progress) -> dict[str, Any]:
    """Whether the teacher can write Korean tales: its stories, what it knows, its size, where it comes from.

    Keys: verdict (can, weak or cannot), findings, stories (worst first), teacher.
    """
    student = run_.config("train", next(iter(run_.arms()[-1:]), "")).student
    findings = [chain(config.teacher, config.revision)]
    model = open_teacher(config)
    try:
        teacher_size = getattr(model, "parameters", None) or parameters_of(config.teacher, config.revision)
        findings.append(size_ratio(teacher_size, parameters_of(student)))
        local = hasattr(model, "score")
        if local:
            findings.append(chat_template(bool(model.tokenizer.chat_template)))
        pairs: list[Pair] = []
        progress.begin("check", CHECKED)
        if not local or model.tokenizer.chat_template:
            plan = Plan.of(run_, replace(config, pairs=max(config.pairs, CHECKED)), model.revision)
            pairs = _sample(model, plan, config, CHECKED, progress)
        verdicts = rule_verdicts(pairs, run_.config("filter"))
        findings += judge_sample(verdicts)
        if local and pairs:
            findings += _knowledge(model)
        elif not local:
            findings.append(
                Finding(
                    "language_model",
                    "unknown",
                    None,
                    "Perplexity and probes cannot be measured through an endpoint.",
                    "엔드포인트로는 혼란도와 상식 문제를 잴 수 없습니다.",
                )
            )
    finally:
        _bill(run_, model)
        model.close()
    stories = sorted(_rows(pairs, verdicts), key=_badness, reverse=True)
    states = [f.state for f in findings]
    found = {
        "run": run_.id,
        "teacher": f"{config.teacher}@{model.revision}",
        "verdict": "cannot"
        if "fail" in states
        else "weak"
        if any(f.state == "warn" and f.name in ("stories", *HABITS) for f in findings)
        else "can",
        "findings": [asdict(f) for f in findings],
        "stories": stories,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(run_.check_file, found)
    return found


def _badness(row: dict[str, Any]) -> tuple[int, int]:
    reasons = row["verdict"]["reasons"]
    habits = {r for names, _, _ in HABITS.values() for r in names}
    return sum(r in habits for r in reasons), len(reasons)


def judge_sample(verdicts: Sequence[Verdict]) -> list[Finding]:
    """What the sample stories say: how many pass the rules, and faults so frequent that they are habits."""
    if not verdicts:
        return [Finding("stories", "fail", 0.0, "It wrote no stories.", "이야기를 쓰지 못했습니다.")]
    count, passed = len(verdicts), sum(v.kept for v in verdicts)
    share = passed / count
    common = [REASONS[r] for r, _ in Counter(r for v in verdicts for r in v.reasons).most_common(3)]
    findings = [
        Finding(
            "stories",
            "ok" if share >= GOOD else "warn" if share >= WEAK else "fail",
            share,
            f"{passed} of {count} stories pass the filter's rules."
            + (f" Most frequent: {', '.join(en for _, en in common)}." if common else ""),
            f"이야기 {count}편 가운데 {passed}편이 거르기 규칙을 통과합니다."
            + (f" 가장 잦은 이유: {', '.join(ko for ko, _ in common)}" if common else ""),
        )
    ]
    for name, (reasons, en, ko) in HABITS.items():
        hit = sum(not set(reasons).isdisjoint(v.reasons) for v in verdicts)
        if hit >= OFTEN * count:
            findings.append(
                Finding(
                    name,
                    "fail" if hit > count / 2 else "warn",
                    hit / count,
                    f"In {hit} of {count} stories it {en}.",
                    f"{count}편 가운데 {hit}편에서 {ko}.",
                )
            )
    return findings


def _knowledge(model: Any) -> list[Finding]:
    """Bits per byte on the reference stories against what letter counts alone give, and the everyday probes."""
    large = model.parameters > LARGE and model.device.type == "cpu"
    stories = domain.reference_stories()[: 4 if large else None]
    scores = model.score([(model.chat_ids(s["instruction"]), model.answer_ids(s["output"])) for s in stories])
    size = sum(len(s["output"].encode()) for s in stories)
    bits = -sum(map(sum, scores)) / math.log(2) / size
    perplexity = math.exp(-sum(map(sum, scores)) / sum(map(len, scores)))
    letters, follows = letter_bits()
    findings = [
        Finding(
            "language_model",
            "ok" if bits < follows else "warn" if bits < letters else "fail",
            round(bits, 3),
            f"It needs {bits:.2f} bits per byte for {len(stories)} stories of a good author (perplexity {perplexity:.1f}); "
            f"who only knows which letter follows which needs {follows:.2f}.",
            f"좋은 동화 {len(stories)}편에 바이트당 {bits:.2f}비트가 듭니다(혼란도 {perplexity:.1f}). "
            f"어느 글자 뒤에 어느 글자가 오는지만 알아도 {follows:.2f}비트입니다.",
        )
    ]
    if large:
        findings.append(
            Finding(
                "probes",
                "unknown",
                None,
                "The everyday probes are left to the comparison: without a GPU they take minutes with a teacher of this size.",
                "상식 문제는 비교 단계에서 풉니다. 이 크기의 교사로는 GPU 없이 몇 분이 걸립니다.",
            )
        )
        return findings
    from lab.stages.compare import probe

    found = probe(model)[0]
    share, chance = found["pass"] / found["total"], found["chance"]
    from scipy.stats import binomtest

    sure = binomtest(found["pass"], found["total"], chance, alternative="greater").pvalue < 0.05
    findings.append(
        Finding(
            "probes",
            "ok" if sure else "warn",
            round(share, 3),
            f"{found['pass']} of {found['total']} everyday probes right ({'more than' if sure else 'no better than'} guessing, {chance:.0%}).",
            f"상식 문제 {found['total']}개 가운데 {found['pass']}개를 맞혔습니다(찍으면 {chance:.0%}).",
        )
    )
    return findings


def letter_bits() -> tuple[float, float]:
    """Bits per byte of the reference stories for somebody who knows of our templates only how frequent each letter is, and
    for somebody who also knows which letter follows which (mixed 4 to 1 with the former).

    A teacher that needs as many as the first does not know Korean, as many as the second no more than syllables.
    """
    texts = [t["text"] for t in domain.templates()]
    seen = Counter("".join(texts))
    total = sum(seen.values()) + len(seen) + 1
    pairs = Counter(p for t in texts for p in itertools.pairwise(t))
    before = Counter(c for t in texts for c in t[:-1])
    single = double = 0.0
    stories = [s["output"] for s in domain.reference_stories()]
    for last, letter in itertools.chain.from_iterable(zip(f" {s}", s, strict=False) for s in stories):
        chance = (seen[letter] + 1) / total
        single -= math.log2(chance)
        double -= math.log2(0.8 * pairs[last, letter] / before[last] + 0.2 * chance if before[last] else chance)
    size = sum(len(s.encode()) for s in stories)
    return single / size, double / size


def chat_template(there: bool) -> Finding:
    """A teacher is asked in its chat format; a base model without one goes on writing anything."""
    if there:
        return Finding("chat_template", "ok", None, "It has a chat template.", "대화 틀(chat template)이 있습니다.")
    return Finding(
        "chat_template",
        "fail",
        None,
        "It has no chat template, so it cannot be asked. Choose an instruct model.",
        "대화 틀(chat template)이 없어 부탁을 할 수 없습니다. 지시를 따르는(instruct) 모델을 골라 주세요.",
    )


def size_ratio(teacher: int | None, student: int | None) -> Finding:
    """How many students the teacher is large; outside of 3 to 10 a warning that says why."""
    if not teacher or not student:
        who_en, who_ko = ("teacher", "교사") if not teacher else ("student", "학생")
        return Finding(
            "size_ratio",
            "unknown",
            None,
            f"The size of the {who_en} is not known.",
            f"{who_ko} 모델의 크기를 알 수 없습니다.",
        )
    ratio = teacher / student
    low, high = RATIO
    en = f"The teacher is {ratio:.1f} times the student ({_short(teacher)} to {_short(student)})."
    ko = f"교사는 학생의 {ratio:.1f}배입니다({_short(teacher)} 대 {_short(student)})."
    if ratio < low:
        en += f" Below {low:.0f} there is little to gain: the student is nearly as slow and as large as the teacher."
        ko += f" {low:.0f}배보다 작으면 얻는 것이 적습니다. 학생이 교사만큼 크고 느립니다."
    elif ratio > high:
        en += f" Above {high:.0f} the student often cannot follow: take a larger student, or a teacher between the two."
        ko += f" {high:.0f}배보다 크면 학생이 따라가지 못하기 쉽습니다. 더 큰 학생이나 중간 크기의 교사를 써 보세요."
    return Finding("size_ratio", "ok" if low <= ratio <= high else "warn", round(ratio, 2), en, ko)


def _short(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def parameters_of(spec: str, revision: str = "") -> int | None:
    """Number of weights without loading them: from the files, from the Hub's own count, else from a name like 1.5B; None if unknown."""
    if not spec.startswith(("api:", "scratch:")):
        from lab.models import resolve

        try:
            place = Path(resolve(spec))
        except Problem:
            return None
        adapter = read_json(place / "adapter_config.json", {}) if place.is_dir() else {}
        if adapter:
            return parameters_of(adapter["base_model_name_or_path"])
        if place.is_dir():
            return _weights_in(place) or None
        if not place.exists() and hub.reachable() and (found := _weights_on_hub(spec, revision)):
            return found
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z])", spec.lower())
    return round(float(sizes[0][0]) * (1e9 if sizes[0][1] == "b" else 1e6)) if sizes else None


def _weights_in(folder: Path) -> int:
    """The sum of all tensor sizes that the safetensors headers name."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def _weights_on_hub(name: str, revision: str) -> int | None:
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(name, revision=revision or None, timeout=10).safetensors
    except Exception:  # any failure of the network or the Hub: the name may still tell the size
        return None
    return found.total if found else None


def chain(spec: str, revision: str = "") -> Finding:
    """Whether the teacher is itself somebody's student: from our own run, its card, or its name."""
    if spec.startswith("run:"):
        run_id, _, arm = spec.removeprefix("run:").partition("/")
        teacher = find_run(run_id).config("generate").teacher or "import"
        return _distilled(f"the arm {arm or 'distilled'} of run {run_id}, taught by {teacher}")
    if spec.startswith("mini:"):
        return Finding(
            "chain",
            "ok",
            None,
            "It was trained by this project from its own templates; nobody taught it.",
            "이 프로젝트가 직접 쓴 틀로 학습한 모델이며, 다른 모델에게 배우지 않았습니다.",
        )
    card = _card(spec, revision)
    if re.search(
        r"distil|증류", f"{Path(spec).name} {card.get('tags', '')} {card.get('base_model', '')}", re.IGNORECASE
    ):
        return _distilled(f"{spec} by its name or card")
    if not card:
        return Finding(
            "chain",
            "unknown",
            None,
            "It has no card here that tells what it was trained from.",
            "무엇으로 학습했는지 알려 주는 카드가 없습니다.",
        )
    base = card.get("base_model")
    en = f"It was tuned from {base}; that licence binds too." if base else "Its card names no base model."
    ko = f"바탕 모델: {base}. 그 라이선스도 함께 지켜야 합니다." if base else "카드에 바탕 모델이 적혀 있지 않습니다."
    return Finding("chain", "ok", None, en, ko)


def _distilled(what: str) -> Finding:
    return Finding(
        "chain",
        "warn",
        None,
        f"It is itself a distilled student ({what}): faults add up from copy to copy, and every teacher's terms bind. Take the first teacher if you can.",
        f"이미 증류된 학생 모델입니다({what}). 베낄수록 흠이 쌓이고 모든 교사의 조건이 따라옵니다. 되도록 맨 처음 교사를 써 주세요.",
    )


def _card(spec: str, revision: str) -> dict[str, Any]:
    """The front matter of a local folder's or a Hub model's card; empty when there is none within reach."""
    from lab.licenses import front_matter

    if spec.startswith("api:"):
        return {}
    if Path(spec).is_dir():
        return front_matter(Path(spec) / "README.md")
    found = hub.file(spec, "README.md", revision, token=None)
    return front_matter(found) if found else {}


def told_preview(found: dict[str, Any]) -> str:
    """The preview as text for a terminal."""
    e = found["estimate"]
    money = "price not given" if e["dollars"] is None else f"${e['dollars']:,.2f}"
    lines = [_story(row) for row in found["stories"]]
    minutes = "?" if e["minutes"] is None else f"{e['minutes']:.1f}"
    lines.append(
        f"{e['pairs']:,} pairs: about {minutes} minutes here, {e['tokens'] or 0:,} tokens, {money}; "
        f"people: ${e['people_dollars']:,.0f} and {e['people_weeks']:g} weeks."
    )
    if e["kept"] is not None:
        lines.append(
            f"Kept by the rules: about {e['kept']:,} ({e['passed']} of {e['of']} here; {e['kept_low']:,} to {e['kept_high']:,})."
        )
    if found["foreign"]:
        lines.append(f"The run holds {found['foreign']} pairs of another setting: see --set-aside.")
    return "\n\n".join(lines)


def told_check(found: dict[str, Any]) -> str:
    """The teacher check as text for a terminal."""
    lines = [f"{f['state']:8}{f['en']}" for f in found["findings"]]
    worst = [f"Worst sample:\n{_story(found['stories'][0])}"] if found["stories"] else []
    words = {"can": "can write", "weak": "can write, but poorly,", "cannot": "cannot write"}
    return "\n".join([f"{found['teacher']} {words[found['verdict']]} Korean tales.", *lines, *worst])


def _story(row: dict[str, Any]) -> str:
    reasons = ", ".join(row["verdict"]["reasons"]) or "kept"
    return f"> {row['pair']['instruction']}\n{row['pair']['output']}\n[{reasons}]"


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "preview": (preview, told_preview),
    "check": (check, told_check),
}
"""What the command line calls, and how it tells people."""
