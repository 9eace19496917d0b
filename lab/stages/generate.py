"""Generate: the teacher answers seeded prompts; every row is written as soon as its batch is done."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab import diversity, domain, jobs
from lab.config import GenerateConfig
from lab.problems import Problem
from lab.progress import Progress
from lab.records import (
    Answer,
    Pair,
    Prompt,
    append_rows,
    content_id,
    dump,
    read_json,
    read_rows,
    repair,
    write_json,
    write_text,
)
from lab.run import Run
from lab.shelf import Shelf, shelf_of

LOOKED_AT = 20
"""First stories of a run that the filter's rules look at while it goes on."""
WEAK = 0.2
"""Share of them that must pass: half or more is usual for a teacher that knows Korean, below a fifth the run is a waste."""
FEW = 64
"""Stories up to which trying batch sizes would take longer than it saves."""
SAVED = 2.0
"""Seconds between two notes of what an endpoint has used."""


class _Spent(Exception):
    """A budget is used up; carries its name."""


def row_id(prompt: Prompt, config: GenerateConfig, revision: str) -> str:
    """A hash of all that made the row: prompt, teacher at revision, sampling, seed."""
    sampling = [config.temperature, config.top_p, config.max_new_tokens, config.seed]
    return content_id(prompt.instruction, config.teacher, revision, sampling)


def open_teacher(config: GenerateConfig) -> Any:
    """The teacher of a configuration. Raises Problem when it cannot be opened, a dollar budget has no price, or own lists
    cannot be read: that need not wait for the model."""
    from lab.models import open_model

    domain.Grid.of(config.characters, config.words, config.lists)
    if config.max_dollars and not (config.price_in or config.price_out) and config.teacher.startswith("api:"):
        raise Problem(
            "A budget in dollars needs the endpoint's price. Set price_in and price_out (dollars per million tokens).",
            "달러 예산을 쓰려면 엔드포인트의 값이 필요합니다. price_in, price_out(토큰 100만 개당 달러)을 적어 주세요.",
        )
    return open_model(config.teacher, config.revision, base_url=config.base_url, four_bit=config.four_bit)


@dataclass(frozen=True)
class Plan:
    """What a run has to write: its prompts with their row ids, which are there already, and rows of other settings."""

    grid: domain.Grid
    prompts: list[Prompt]
    ids: list[str]
    there: set[str]
    foreign: set[str]

    @staticmethod
    def of(run_: Run, config: GenerateConfig, revision: str) -> Plan:
        """Raises Problem when the grid holds fewer prompts than are asked for."""
        found = {row["id"] for row in read_rows(run_.pairs_file)}
        # A longer list begins with the shorter one, so this also knows the rows of a run that once asked for more.
        grid = domain.Grid.of(config.characters, config.words, config.lists)
        known = domain.prompts(len(found) + config.pairs, config.seed, grid)
        if len(known) < config.pairs:
            raise Problem(
                f"The grid gives only {len(known)} different prompts, {config.pairs} are asked for. Add characters or words.",
                f"서로 다른 지시문을 {len(known)}개까지만 만들 수 있는데 {config.pairs}개가 필요합니다. 주인공이나 낱말을 더해 주세요.",
            )
        ids = [row_id(p, config, revision) for p in known]
        foreign = found - set(ids)
        return Plan(grid, known[: config.pairs], ids[: config.pairs], found - foreign, foreign)

    @property
    def todo(self) -> list[int]:
        """Places of the prompts that have no row yet."""
        return [i for i, id_ in enumerate(self.ids) if id_ not in self.there]

    @property
    def answered(self) -> list[Prompt]:
        """The prompts that have a row."""
        return [p for id_, p in zip(self.ids, self.prompts, strict=True) if id_ in self.there]


def run(run_: Run, config: GenerateConfig, progress: Progress) -> dict[str, Any]:
    """Write pairs until the run holds ``config.pairs`` of this setting, or a budget is used up.

    Rows of the same setting that are there already are kept and counted. Raises Problem when the file holds
    rows of another setting, unless they shall be set aside: they are never mixed.
    """
    from lab.models import Sampling

    model = open_teacher(config)
    try:
        plan = Plan.of(run_, config, model.revision)
        repair(run_.pairs_file)
        if plan.foreign:
            _set_aside(run_, plan.foreign, config, progress)
        # Not kept in config.json: the next start shall ask again.
        run_.begin("generate", replace(config, set_aside=False))
        todo = plan.todo
        progress.begin("generate", len(plan.ids), len(plan.ids) - len(todo))
        writing = _Writing(run_, config, progress, model, plan)
        sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
        asked = [plan.prompts[i].instruction for i in todo]
        size = config.batch_size
        if len(asked) > FEW and not size and hasattr(model, "step_seconds"):
            size = best_batch(model.step_seconds(max(asked[:200], key=len), sampling))
            progress.note(f"Batches of {size} stories.", f"한 번에 이야기 {size}편씩 씁니다.")
        budget = ""
        answers = model.write(asked, sampling, [int(plan.ids[i], 16) for i in todo], size, progress.note, writing.tick)
        try:
            for index, answer in answers:
                i = todo[index]
                prompt = plan.prompts[i]
                writing.take(prompt, pair_of(plan.ids[i], prompt, config, model.revision, answer))
        except _Spent as spent:
            budget = str(spent)
            progress.note(
                f"The budget of {budget} is used up: {writing.done} of {len(plan.ids)} pairs are written. Starting again goes on.",
                f"예산({'분' if budget == 'minutes' else '달러'})을 다 썼습니다. {len(plan.ids)}쌍 가운데 {writing.done}쌍을 썼고, 다시 시작하면 이어서 씁니다.",
            )
        finally:
            answers.close()
            writing.save_usage()
        writing.show()
    finally:
        model.close()
    facts = facts_of(run_, plan) | {"coverage": writing.coverage.told()} | writing.bill()
    if budget:
        facts["budget"] = budget
    if failed := len(getattr(model, "failed", ())):
        facts["failed"] = failed
    run_.finish("generate", facts)
    return facts


def best_batch(step_seconds: dict[int, float]) -> int:
    """The batch size with the most tokens per second."""
    return max(step_seconds, key=lambda size: size / step_seconds[size])


class _Writing:
    """Rows on their way to the file: counts, speed, the bill, budgets, and a look at how the stories are getting on."""

    def __init__(self, run_: Run, config: GenerateConfig, progress: Progress, model: Any, plan: Plan) -> None:
        self.run = run_
        self.config = config
        self.progress = progress
        self.model = model
        self.plan = plan
        self.done = len(plan.ids) - len(plan.todo)
        self.started = time.monotonic()
        self.tokens = 0
        self.early: list[Pair] | None = []
        self.coverage = diversity.Coverage(plan.grid, plan.answered)
        self.live: dict[str, Any] = {"coverage": self.coverage.told()}
        self.measured_at = max(32, self.done)
        self.saved = 0.0
        self.metered = hasattr(model, "prompt_tokens")
        if self.metered:
            add_usage_before(run_, model)

    def take(self, prompt: Prompt, pair: Pair) -> None:
        """Write the row."""
        append_rows(self.run.pairs_file, [pair.row()])
        self.done += 1
        self.coverage.count(prompt)
        if self.early is not None:
            self.early.append(pair)

    def tick(self, tokens: int, under_way: float) -> None:
        """New tokens, and how many stories' work is done that no row holds yet; with 0 tokens nothing is on its way that a
        stop would lose. Raises Stopped or _Spent."""
        self.tokens += tokens
        self.show(under_way, stop=not tokens)
        if tokens:
            return
        if self.metered and time.monotonic() - self.saved > SAVED:
            self.save_usage()
        if self.early is not None and len(self.early) >= LOOKED_AT:
            self._look_early(self.early[:LOOKED_AT])
            self.early = None
        self.live["coverage"] = self.coverage.told()
        if self.done >= self.measured_at * 2:
            # Each measurement at twice the rows of the last: all together cost no more than two of the whole.
            self.measured_at = self.done
            self.live |= spread_of(self.run, self.plan)
        if self.config.max_minutes and time.monotonic() - self.started > self.config.max_minutes * 60:
            raise _Spent("minutes")
        if self.config.max_dollars and self.bill().get("dollars", 0.0) >= self.config.max_dollars:
            raise _Spent("dollars")

    def show(self, under_way: float = 0.0, stop: bool = False) -> None:
        """Tell where the writing stands."""
        speed = self.tokens / max(time.monotonic() - self.started, 1e-3)
        self.progress.step(
            self.done, under_way, stop=stop, tokens_per_second=round(speed, 1), **self.bill(), **self.live
        )

    def bill(self) -> dict[str, Any]:
        """What an endpoint has been asked and what it costs, of the whole run; nothing for a local teacher."""
        if not self.metered:
            return {}
        read, written = self.model.prompt_tokens, self.model.completion_tokens
        dollars = (read * self.config.price_in + written * self.config.price_out) / 1e6
        return {"prompt_tokens": read, "completion_tokens": written, "dollars": round(dollars, 4)}

    def save_usage(self) -> None:
        """Note the bill, so that a killed run still knows it."""
        if self.metered:
            self.saved = time.monotonic()
            save_usage(self.run, self.model)

    def _look_early(self, pairs: Sequence[Pair]) -> None:
        from lab.preview import rule_verdicts

        passed = sum(v.kept for v in rule_verdicts(pairs, self.run.config("filter")))
        if passed < WEAK * len(pairs):
            self.progress.note(
                f"Only {passed} of the first {len(pairs)} stories pass the filter's rules. `python -m lab check {self.run.id}` tells why; stopping now saves the rest.",
                f"처음 {len(pairs)}편 가운데 {passed}편만 거르기 규칙을 통과했습니다. 지금 멈추고 교사 점검을 해 보는 편이 좋습니다(`python -m lab check {self.run.id}`).",
            )


def add_usage_before(run_: Run, endpoint: Any) -> None:
    """Let an endpoint count on from what the run has used already."""
    before = read_json(run_.usage_file, {})
    endpoint.prompt_tokens += before.get("prompt_tokens", 0)
    endpoint.completion_tokens += before.get("completion_tokens", 0)


def save_usage(run_: Run, endpoint: Any) -> None:
    """Keep an endpoint's count with the run."""
    used = {"prompt_tokens": endpoint.prompt_tokens, "completion_tokens": endpoint.completion_tokens}
    write_json(run_.usage_file, used)


def _set_aside(run_: Run, foreign: set[str], config: GenerateConfig, progress: Progress) -> None:
    """Move rows of another setting into a file beside, or raise Problem if that was not asked for."""
    if not config.set_aside:
        raise Problem(
            f"This run holds {len(foreign)} pairs of another setting (teacher, seed, sampling or grid), and they are not mixed. Make a new run, go on with the old setting, or add --set-aside to move them into a file beside.",
            f"이 실험에는 다른 설정(교사, 시드, 표집, 목록)으로 쓴 쌍이 {len(foreign)}개 있고, 서로 섞지 않습니다. 새 실험을 만들거나, 예전 설정으로 이어 가거나, --set-aside(다른 설정의 쌍 치워 두기)로 옆 파일에 옮겨 주세요.",
        )
    rows = list(read_rows(run_.pairs_file))
    moved = run_.pairs_file.with_name(time.strftime("pairs-%Y%m%d-%H%M%S.jsonl"))
    append_rows(moved, [r for r in rows if r["id"] in foreign])
    write_text(run_.pairs_file, "".join(dump(r) + "\n" for r in rows if r["id"] not in foreign))
    progress.note(
        f"{len(foreign)} pairs of another setting were moved to {moved.name}.",
        f"다른 설정으로 쓴 쌍 {len(foreign)}개를 옮겨 두었습니다: {moved.name}",
    )


def pair_of(id_: str, prompt: Prompt, config: GenerateConfig, revision: str, answer: Answer) -> Pair:
    """The row of an answer."""
    teacher = f"{config.teacher}@{revision}"
    return Pair(
        id_,
        prompt.instruction,
        answer.text,
        prompt.character,
        prompt.keywords,
        teacher,
        answer.finish,
        answer.tokens,
        answer.seconds,
        prompt.split,
    )


def facts_of(run_: Run, plan: Plan | None = None) -> dict[str, Any]:
    """Counts and diversity of the pairs; of pairs that a teacher wrote also by phrasing."""
    return {"run": run_.id} | counts_of(shelf_of(run_.pairs_file).look()) | spread_of(run_, plan)


def spread_of(run_: Run, plan: Plan | None = None) -> dict[str, Any]:
    """How different the stories are; with the plan that they are of also by phrasing."""
    pairs = [(p.id, p.output, p.finish == "length") for p in run_.pairs()]
    texts = [text for _, text, _ in pairs]
    if plan is None:
        return diversity.of(texts)
    phrasings = dict(zip(plan.ids, (p.phrasing for p in plan.prompts), strict=True))
    groups = [phrasings.get(id_, "") for id_, _, _ in pairs]
    return diversity.of(texts) | {"by_phrasing": diversity.by_group(texts, groups, [cut for _, _, cut in pairs])}


def counts_of(shelf: Shelf) -> dict[str, Any]:
    """Pairs, test pairs, coverage of characters and words (how many, and how evenly), tokens, seconds, cut off."""
    oftenest = max(shelf.characters.values(), default=0)
    return {
        "pairs": shelf.count,
        "test": shelf.test,
        "characters": len(shelf.characters),
        "character_most": oftenest,
        "character_least": min(shelf.characters.values(), default=0),
        "keywords": len(shelf.words),
        "tokens": shelf.tokens,
        "seconds": round(shelf.seconds, 1),
        "cut_off": shelf.cut_off,
    }


ERRORS_SHOWN = 20
"""Faulty lines of an import that are named; more would hide the first."""


def read_own(path: Path) -> tuple[list[Pair], list[tuple[int, str, str]]]:
    """A person's own pairs from a .jsonl file, and (line, what is wrong in English, in Korean) of every line that is none.

    A pair that stands twice counts once. Raises Problem when the file cannot be read as text.
    """
    try:
        # Not splitlines: JSON may hold line separators of Unicode as they are.
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(
            f"Cannot read {path}: {error}. Give a UTF-8 file with one JSON object a line.",
            f"파일을 읽을 수 없습니다: {path} ({error}). 한 줄에 JSON 객체 하나씩 적은 UTF-8 파일을 주세요.",
        ) from None
    rows: dict[str, Pair] = {}
    faults: list[tuple[int, str, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _own(line)
        if isinstance(found, Pair):
            rows[found.id] = found
        else:
            faults.append((number, *found))
    return list(rows.values()), faults


def _own(line: str) -> Pair | tuple[str, str]:
    """The pair of a line, or what is wrong with it in both languages."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # a line may nest deeper than the parser can follow
        return f"not JSON ({error})", f"JSON 형식이 아닙니다({error})"
    if not isinstance(row, dict):
        return "not a JSON object", "JSON 객체가 아닙니다"
    for name in ("instruction", "output"):
        if name not in row:
            return f"{name} is missing", f"{name} 항목이 없습니다"
        if not isinstance(row[name], str) or not row[name].strip():
            return f"{name} must be a text that is not empty", f"{name} 항목은 비어 있지 않은 글이어야 합니다"
    character, keywords = row.get("character") or "", row.get("keywords") or []
    if not isinstance(character, str):
        return "character must be a text", "character 항목은 글이어야 합니다"
    if not isinstance(keywords, list) or not all(isinstance(k, str) for k in keywords):
        return "keywords must be a list of texts", "keywords 항목은 글의 목록이어야 합니다"
    instruction, output = row["instruction"].strip(), row["output"].strip()
    id_ = content_id("import", instruction, output)
    split = domain.split_of(character or instruction, keywords)
    return Pair(id_, instruction, output, character, tuple(keywords), "import", split=split)


def import_pairs(run_: Run, path: Path) -> dict[str, Any]:
    """Take a person's own pairs in place of the teacher's.

    Every line is checked before anything is written. Raises Problem that names every faulty line and what is wrong with it.
    """
    rows, faults = read_own(path)
    if faults:
        more = len(faults) - ERRORS_SHOWN
        en = "".join(f"\nline {n}: {why}" for n, why, _ in faults[:ERRORS_SHOWN]) + (
            f"\nand {more} more" if more > 0 else ""
        )
        ko = "".join(f"\n{n}번째 줄: {why}" for n, _, why in faults[:ERRORS_SHOWN]) + (
            f"\n그 밖에 {more}줄" if more > 0 else ""
        )
        raise Problem(
            f"{path.name}: {len(faults)} lines cannot be taken, {len(rows)} can. Mend them and import again; nothing was imported.{en}",
            f"{path.name}: 가져올 수 없는 줄이 {len(faults)}개, 가져올 수 있는 쌍이 {len(rows)}개입니다. 고친 뒤 다시 가져와 주세요. 아무것도 가져오지 않았습니다.{ko}",
        )
    if not rows:
        raise Problem(
            f"{path.name} holds no pair. Each line needs a JSON object with instruction and output.",
            f"{path.name} 파일에 쌍이 하나도 없습니다. 줄마다 instruction 과 output 이 있는 JSON 객체를 적어 주세요.",
        )
    if jobs.look(run_).state in jobs.GOING or next(run_.pairs(), None):
        raise Problem(
            f"Run {run_.id} holds pairs already or is at work. Make a new run for your own.",
            f"실험 {run_.id} 에는 이미 쌍이 있거나 작업이 진행 중입니다. 가져올 쌍을 위해 새 실험을 만들어 주세요.",
        )
    run_.begin("generate", GenerateConfig(pairs=min(len(rows), 50_000), teacher=""))
    write_text(run_.pairs_file, "".join(dump(r.row()) + "\n" for r in rows))
    facts = facts_of(run_)
    run_.finish("generate", facts)
    return facts


EXPORTED_AT_ONCE = 5000


def export_pairs(run_: Run, folder: Path) -> list[Path]:
    """The run's pairs as RUN-pairs.jsonl and RUN-pairs.parquet in ``folder``. Raises Problem when there are none."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    if not next(run_.pairs(), None):
        raise Problem(
            f"Run {run_.id} holds no pairs yet. Generate or import some first.",
            f"실험 {run_.id} 에는 아직 쌍이 없습니다. 먼저 쓰거나 가져와 주세요.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    jsonl, parquet = (folder / f"{run_.id}-pairs.{kind}" for kind in ("jsonl", "parquet"))
    shutil.copyfile(run_.pairs_file, jsonl)
    repair(jsonl)
    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), list: pa.list_(pa.string())}
    schema = pa.schema([(name, kinds[type(value)]) for name, value in Pair("", "", "").row().items()])
    pairs = run_.pairs()
    with pq.ParquetWriter(parquet, schema) as writer:
        while rows := [p.row() for p in itertools.islice(pairs, EXPORTED_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return [jsonl, parquet]
