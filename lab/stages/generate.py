"""Generate: the teacher answers seeded prompts; every row is written as soon as its batch is done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lab import domain
from lab.config import GenerateConfig
from lab.problems import Problem
from lab.progress import Progress
from lab.records import Answer, Pair, Prompt, append_rows, content_id, repair, write_text
from lab.run import Run


def row_id(prompt: Prompt, config: GenerateConfig, revision: str) -> str:
    """A hash of all that made the row: prompt, teacher at revision, sampling, seed."""
    sampling = [config.temperature, config.top_p, config.max_new_tokens, config.seed]
    return content_id(prompt.instruction, config.teacher, revision, sampling)


def run(run_: Run, config: GenerateConfig, progress: Progress) -> dict[str, Any]:
    """Write pairs until the run holds ``config.pairs`` of this setting.

    Rows of the same setting that are there already are kept and counted. Raises Problem when the file holds
    rows of another setting: they are never mixed.
    """
    from lab.models import Sampling, open_model

    there = {pair.id for pair in run_.pairs()}
    # A longer list begins with the shorter one, so this also knows the rows of a run that once asked for more.
    known = domain.prompts(len(there) + config.pairs, config.seed, domain.Grid.of(config.characters, config.words))
    prompts = known[: config.pairs]
    if len(prompts) < config.pairs:
        raise Problem(
            f"The grid holds only {len(prompts)} different prompts, {config.pairs} are asked for. Add characters or words.",
            f"서로 다른 지시문을 {len(prompts)}개까지만 만들 수 있는데 {config.pairs}개가 필요합니다. 주인공이나 낱말을 더해 주세요.",
        )
    model = open_model(config.teacher, config.revision)
    try:
        ids = [row_id(p, config, model.revision) for p in known]
        foreign = there - set(ids)
        if foreign:
            raise Problem(
                f"This run holds {len(foreign)} pairs of another setting (teacher, seed, sampling or grid). Make a new run, or go on with the old setting.",
                f"이 실험에는 다른 설정(교사, 시드, 표집, 목록)으로 쓴 쌍이 {len(foreign)}개 있습니다. 새 실험을 만들거나 예전 설정으로 이어 가 주세요.",
            )
        repair(run_.pairs_file)
        run_.begin("generate", config)
        todo = [i for i in range(len(prompts)) if ids[i] not in there]
        done = len(prompts) - len(todo)
        progress.begin("generate", len(prompts), done)
        sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
        started, tokens = time.perf_counter(), 0
        # Chunks of a few batches: requests of similar length meet in one batch, and a stop waits for one batch only.
        size = config.batch_size or getattr(model, "default_batch", lambda: model.CONCURRENCY)()
        for at in range(0, len(todo), size * 4):
            chunk = todo[at : at + size * 4]
            answers = model.write(
                [prompts[i].instruction for i in chunk],
                sampling,
                [int(ids[i], 16) for i in chunk],
                size,
                progress.note,
            )
            for index, answer in answers:
                i = chunk[index]
                append_rows(run_.pairs_file, [_pair(ids[i], prompts[i], config, model.revision, answer).row()])
                done += 1
                tokens += answer.tokens
                progress.step(done, tokens_per_second=tokens / (time.perf_counter() - started))
    finally:
        model.close()
    facts = facts_of(run_)
    run_.finish("generate", facts)
    return facts


def _pair(id_: str, prompt: Prompt, config: GenerateConfig, revision: str, answer: Answer) -> Pair:
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


def facts_of(run_: Run) -> dict[str, Any]:
    """Counts and diversity of the pairs: coverage of characters, distinct-1/2/3 on words, tokens, seconds."""
    pairs = list(run_.pairs())
    facts: dict[str, Any] = {
        "run": run_.id,
        "pairs": len(pairs),
        "test": sum(p.split == "test" for p in pairs),
        "characters": len({p.character for p in pairs}),
        "keywords": len({k for p in pairs for k in p.keywords}),
        "tokens": sum(p.tokens for p in pairs),
        "seconds": round(sum(p.seconds for p in pairs), 1),
        "cut_off": sum(p.finish == "length" for p in pairs),
    }
    texts = [p.output.split() for p in pairs]
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
        facts[f"distinct_{n}"] = round(len(set(grams)) / len(grams), 4) if grams else 0.0
    return facts


def import_pairs(run_: Run, path: Path) -> dict[str, Any]:
    """Take a person's own pairs in place of the teacher's.

    Every line is checked before anything is written. Raises Problem with the line and what is wrong with it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(
            f"Cannot read {path}: {error}. Give a UTF-8 file with one JSON object a line.",
            f"파일을 읽을 수 없습니다: {path} ({error}). 한 줄에 JSON 객체 하나씩 적은 UTF-8 파일을 주세요.",
        ) from None
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            instruction, output = row["instruction"], row["output"]
            character, keywords = row.get("character") or "", list(row.get("keywords") or [])
            if not (
                isinstance(instruction, str) and instruction.strip() and isinstance(output, str) and output.strip()
            ):
                raise ValueError("instruction and output must be texts that are not empty")
            if not isinstance(character, str) or not all(isinstance(k, str) for k in keywords):
                raise ValueError("character must be a text and keywords a list of texts")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise Problem(
                f"{path.name}, line {number}: {what}. Each line needs instruction and output. Nothing was imported.",
                f"{path.name} {number}번째 줄: {what}. 줄마다 instruction 과 output 이 있어야 합니다. 아무것도 가져오지 않았습니다.",
            ) from None
        id_ = content_id("import", instruction, output)
        group = character or instruction
        split = domain.split_of(group, keywords)
        rows[id_] = Pair(
            id_, instruction.strip(), output.strip(), character, tuple(keywords), "import", split=split
        ).row()
    if not rows:
        raise Problem(
            f"{path.name} holds no pair. Each line needs a JSON object with instruction and output.",
            f"{path.name} 파일에 쌍이 하나도 없습니다. 줄마다 instruction 과 output 이 있는 JSON 객체를 적어 주세요.",
        )
    if next(run_.pairs(), None):
        raise Problem(
            f"Run {run_.id} holds pairs already. Make a new run for your own.",
            f"실험 {run_.id} 에는 이미 쌍이 있습니다. 가져올 쌍을 위해 새 실험을 만들어 주세요.",
        )
    run_.begin("generate", GenerateConfig(pairs=len(rows), teacher=""))
    write_text(run_.pairs_file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows.values()))
    facts = facts_of(run_)
    run_.finish("generate", facts)
    return facts
