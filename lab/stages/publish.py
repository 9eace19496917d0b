"""Publish: cards, licence, and one atomic commit for the dataset and one for the model.

``prepare`` writes exactly what would leave into publish/dataset and publish/model; ``run`` uploads it, private first,
dataset before model, and reads it back by hash. The token is an argument only: it is never written or logged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lab import licenses
from lab import report as rendering
from lab.checks import REASONS
from lab.config import PublishConfig, TrainConfig, as_json
from lab.domain import DATA
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, read_json, read_rows, write_json, write_text
from lab.retention import number
from lab.run import Run

ATTEMPTS = 6
LARGE = 1_000_000  # bytes of a file that is sent by itself, before the commit that names it
TIMEOUT = 60.0  # seconds for one request; the client's own default is to wait for ever
SECRETS = {
    "token": re.compile(
        r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"
        r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{5,})(?![\w-])"
    ),
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "e-mail": re.compile(r"[\w.+-]+@[\w-]+\.[a-zA-Z]{2,}"),
    "phone number": re.compile(
        r"(?<!\d)(01[016789][- .]?\d{3,4}[- .]?\d{4}|0(2|[3-6]\d|70)[-.) ]\d{3,4}[-. ]\d{4}|\+82[- ]?\d{1,2}[- ]\d{3,4}[- ]\d{4})(?!\d)"
    ),
    "resident number": re.compile(r"(?<!\d)\d{6}\s?-\s?[1-8]\d{6}(?!\d)"),
    "card number": re.compile(r"(?<!\d)(\d{4}[- ]){3}\d{4}(?!\d)"),
}


PLACES = ("teacher", "student", "judge", "human_file")
"""Options that may name a file or a folder of this machine."""


INITIALS = ["g", "kk", "n", "d", "tt", "r", "m", "b", "pp", "s", "ss", "", "j", "jj", "ch", "k", "t", "p", "h"]
MEDIALS = ["a", "ae", "ya", "yae", "eo", "e", "yeo", "ye", "o", "wa", "wae", "oe", "yo", "u", "wo", "we", "wi", "yu", "eu", "ui", "i"]  # fmt: skip
FINALS = ["", *"kkknnntlkmlllplmpptt", "ng", *"ttktpt"]
"""The letters of a Hangul syllable in Latin ones (Revised Romanization, syllable by syllable)."""


def romanised(text: str) -> str:
    """Hangul in Latin letters, so that a Korean title gives a name that says what it is."""

    def syllable(found: re.Match[str]) -> str:
        code = ord(found[0]) - ord("가")
        return INITIALS[code // 588] + MEDIALS[code % 588 // 28] + FINALS[code % 28]

    return re.sub("[가-힣]", syllable, unicodedata.normalize("NFC", text))


def slug(title: str, otherwise: str) -> str:
    """A repository name from a title: ASCII letters, digits, dashes; ``otherwise`` when nothing remains."""
    name = re.sub(r"[^a-z0-9]+", "-", romanised(title).lower()).strip("-")[:60].strip("-")
    return name if re.search(r"[a-z]", name) else f"fairytales-{otherwise}"


def check_repo(name: str) -> str:
    """``namespace/name`` as the Hub accepts it, else a Problem that says what is wrong."""
    part = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
    if (
        not re.fullmatch(f"{part}/{part}", name)
        or "--" in name
        or ".." in name
        or name.endswith(".git")
        or len(name) > 96
    ):
        hint = slug(name.rpartition("/")[2], "tales")
        raise Problem(
            f"Repository name {name!r} is not usable on the Hub: namespace/name of at most 96 ASCII letters, digits, single - . _. Try {hint!r}.",
            f"저장소 이름 {name!r} 은(는) 허브에서 쓸 수 없습니다. '네임스페이스/이름' 꼴로 영문자, 숫자, - . _ 만 96자까지 쓸 수 있습니다. 제안: {hint!r}",
        )
    return name


def found_secrets(text: str) -> list[str]:
    """Kinds of personal data and secrets that the patterns find in a text."""
    return [kind for kind, pattern in SECRETS.items() if pattern.search(text)]


def _licence(run_: Run, config: PublishConfig, trained: TrainConfig) -> dict[str, Any]:
    """The chain of the run and the arm; Problem when it is blocked or unknown without a statement."""
    found = licenses.run_chain(run_, trained, config.data_licence, licenses.hub_card)
    write_json(run_.folder / "publish" / "licence.json", found)
    if found["verdict"] == "blocked":
        raise Problem(
            f"This cannot be published: {' '.join(found['conditions'])} Use another teacher, judge or data. {licenses.NOT_ADVICE['en']}",
            f"공개할 수 없습니다. {' '.join(found['reasons_ko'])} 교사나 심사 모델, 자료를 바꾸어 주세요. {licenses.NOT_ADVICE['ko']}",
        )
    if found["verdict"] == "unknown":
        linked = [(name, link) for name, link in licenses.stated(config.data_licence) if name and link]
        if not linked or not config.private:
            raise Problem(
                f"{' '.join(found['conditions'])} Put its name and link into data_licence (--data-licence 'NAME https://...') and keep the repositories private.",
                f"{' '.join(found['reasons_ko'])} data_licence(--data-licence '이름 https://...') 옵션에 이름과 링크를 적고 비공개로 올려 주세요.",
            )
        name = re.sub(r"[^a-z0-9.-]+", "-", linked[0][0].lower()).strip("-") or "stated-by-the-owner"
        card = {"license": "other", "license_name": name, "license_link": linked[0][1]}
        said = ", ".join(f"{name}, {link}" for name, link in linked)
        for part in ("dataset", "model"):
            if found[part]["verdict"] == "unknown":
                found[part] |= {"licence": f"other: {said} (stated by the owner)", "card": card}
    return found


def _chain_of(found: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The rows of the chain that bind a part: a student's base says nothing about the dataset."""
    return [r for r in found["chain"] if part == "model" or r["what"] != "student"]


def _legal(folder: Path, found: dict[str, Any], part: str) -> list[str]:
    """LICENSE, copies of every further licence in LICENSES, and NOTICE of one repository; the licences without a text.

    A text stands in data/licences or, where we have none, in the model's own repository on the Hub.
    """
    licence, rows = found[part]["licence"], _chain_of(found, part)
    main = licence.removeprefix("other: ")
    names = list(dict.fromkeys([main, *found[part]["texts"]]))
    texts = {name: text for name in names if (text := _licence_text(name, rows))}
    sources = [f"- {r['who']}: {r['licence']} ({r['source']})" for r in rows]
    summary = f"Licence: {licence}\n\nThe full terms are those of:\n" + "\n".join(sources) + "\n"
    write_text(folder / "LICENSE", texts.get(main, summary))
    for name in texts.keys() - {main}:
        write_text(folder / "LICENSES" / f"{name}.txt", texts[name])
    about = "This dataset was generated by" if part == "dataset" else "This model was trained on text generated by"
    teachers = ", ".join(r["who"] for r in rows if r["what"] == "teacher") or "imported data"
    lines = [f"{about} {teachers}."]
    if part == "model":
        lines += [f"It modifies {r['who']} ({r['licence']})." for r in rows if r["what"] == "student"]
        if any("Qwen2.5" in r["who"] for r in rows):
            lines.append("Qwen2.5: Copyright Alibaba Cloud.")
    lines += found[part]["must_state"]
    write_text(folder / "NOTICE", "\n".join(lines) + "\n")
    return [name for name in found[part]["texts"] if name not in texts]


def _licence_text(name: str, rows: list[dict[str, Any]]) -> str:
    """The text of a licence: ours, else the LICENSE file of the model in the chain that is under it; empty when there is none."""
    path = DATA / "licences" / f"{name}.txt"
    if path.exists():
        return path.read_text("utf-8")
    models = [r["who"].partition(" ")[0] for r in rows if name in r["texts"]]
    return next((text for spec in models if (text := licenses.hub_licence(*spec.partition("@")[::2]))), "")


def _part(found: dict[str, Any], part: str) -> dict[str, Any]:
    """What the chain found for a part, its lines safe in a list of a card."""
    lines = {
        name: [_cell(x) for x in found[part][name]]
        for name in ("must_state", "must_state_ko", "conditions", "reasons_ko")
    }
    duties = [f"{ko} / {en}" for ko, en in zip(lines["must_state_ko"], lines["must_state"], strict=True)]
    return found[part] | lines | {"duties": duties}


def _rows_of(found: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The rows of the chain, each field safe in a cell of a card."""
    return [{k: _cell(v) for k, v in r.items()} for r in _chain_of(found, part)]


def _render(name: str, **values: Any) -> str:
    """A card from data/cards; front matter is YAML made from a dict, so no value can break out of it."""
    import yaml
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(DATA / "cards"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    values["front"] = yaml.safe_dump(values["front"], allow_unicode=True, sort_keys=False)
    return env.get_template(name).render(**values)


def _cell(value: Any) -> str:
    """A text that stays inside one cell or line of Markdown, with no markup of its own."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _reason(name: str) -> str:
    """A reason of the filter for a card: in both languages, with the name that stands in the data."""
    return f"{' / '.join(REASONS[name])} (`{name}`)" if name in REASONS else _cell(name)


def _number(value: Any) -> str:
    """A measured value of the training as text."""
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else _cell(value)


SHOWN = (
    "rule_pass_rate",
    "pass_at_4",
    "judge",
    "probes",
    "perplexity",
    "bits_per_byte",
    "reference_bits_per_byte",
    "copied_rate",
    "tokens_per_second",
    "peak_memory_bytes",
    "disk_bytes",
    "parameters",
)
"""Measures in the model card's table."""
PICTURES = ("quality", "quality_speed")
"""Charts of the comparison on the model card."""


def _agreement(run_: Run) -> dict[str, str]:
    """How far filter and judge agree with the people who reviewed, as a sentence in both languages."""
    from lab.review import review_summary

    if not any(True for _ in read_rows(run_.reviews_file)):
        return {"en": "not reviewed by people", "ko": "사람이 검토하지 않음"}
    found = review_summary(run_)
    count = found["reviewed"]
    measured = [(name, k) for name in ("filter", "judge") if (k := found[name])["kappa"] is not None]
    spans = {name: f"{k['kappa']:.2f} [{k['low']:.2f}, {k['high']:.2f}]" for name, k in measured}
    en = ", ".join(f"{name}'s kappa {spans[name]} on {k['rows']} pairs" for name, k in measured)
    words = {"filter": "거르기", "judge": "심사"}
    ko = ", ".join(f"{words[name]}의 카파 {spans[name]}, {k['rows']}쌍" for name, k in measured)
    return {
        "en": f"{count} pairs reviewed by people; {en or 'agreement not defined on so few'}",
        "ko": f"사람이 {count}쌍을 검토함. {ko or '수가 적어 일치도를 잴 수 없음'}",
    }


def _leak_line(report: dict[str, Any]) -> dict[str, str]:
    """What the leak check of the comparison found, as a sentence in both languages."""
    counts = report.get("leak_counts")
    if not counts or not report.get("models"):
        return {"en": "not checked", "ko": "확인하지 않음"}
    reference, probes, test = (counts.get(k, 0) for k in ("reference", "probes", "test"))
    out = report.get("test_pairs_left_out", 0)
    return {
        "en": f"{reference} reference stories and {probes} probes share 30 characters with a training row; {test} test stories do, {out} of them were left out of the perplexity",
        "ko": f"참고 동화 {reference}편과 문항 {probes}개가 학습 자료와 30자를 함께 씁니다. 시험 이야기 가운데서는 {test}편이 그렇고 {out}편은 혼란도에서 뺐습니다",
    }


def _citation(title: str, repo: str, kind: str) -> str:
    """BibTeX of a repository; the address is the Hub's."""
    place = "datasets/" if kind == "dataset" else ""
    year = time.strftime("%Y")
    key = re.sub(r"[^A-Za-z0-9]+", "_", repo).strip("_").lower()
    clean = re.sub(r"[{}\\%]", "", title)
    return f"@misc{{{key},\n  title = {{{clean}}},\n  author = {{{repo.partition('/')[0]}}},\n  year = {{{year}}},\n  url = {{https://huggingface.co/{place}{repo}}}\n}}"


def _index(title: str, arm: str, models: list[dict[str, Any]], dataset: dict[str, str]) -> list[dict[str, Any]]:
    """model-index of the arm: its numeric measures on this project's own prompts."""
    mine = next((m for m in models if (m["who"], m["name"]) == ("arm", arm)), {})
    metrics = [
        {"type": name, "value": value, "name": rendering.BY_KEY[name].en}
        for name in ("rule_pass_rate", "perplexity", "bits_per_byte", "probes", "judge")
        if (value := number(mine, name)) is not None
    ]
    task = {"type": "text-generation", "name": "Korean fairytales"}
    result = {"task": task, "dataset": {**dataset, "name": "held-out prompts of the run"}, "metrics": metrics}
    return [{"name": title, "results": [result]}] if metrics else []


def _grid(pairs: list[Pair]) -> dict[str, int]:
    """What the requests were drawn from, counted in the rows: different requests, characters and groups of key words."""
    return {
        "requests": len({p.instruction for p in pairs}),
        "characters": len({p.character for p in pairs if p.character}),
        "keywords": len({p.keywords for p in pairs if p.keywords}),
    }


def _size(rows: int) -> str:
    """The Hub's size category."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((name for top, name in steps if rows < top), "100K<n<1M")


def _repos(run_: Run, config: PublishConfig, namespace: str, prefix: str) -> tuple[str, str]:
    """Names of both repositories; the title gives the default, the licence what the model's begins with.

    Raises Problem for a name that the Hub or the licence refuses.
    """
    stem, start = slug(run_.meta().get("title", ""), run_.id), prefix.replace(" ", "-")
    model = check_repo(config.model_repo or f"{namespace}/{start}{'-' if start else ''}{stem}")
    given = re.sub(r"[-._]", "", model.partition("/")[2])
    if not given.startswith(prefix.replace(" ", "")):
        hint = f"{start}-{model.partition('/')[2]}"
        raise Problem(
            f"The licence asks for a model name that begins with {prefix!r}, not {model!r}. Rename the model repository, for example {hint!r}.",
            f"라이선스에 따라 모델 이름의 첫머리는 {prefix!r} 이어야 합니다. 지금 이름: {model!r}. 모델 저장소 이름을 바꿔 주세요. 예: {hint!r}",
        )
    return check_repo(config.dataset_repo or f"{namespace}/{stem}-data"), model


def _arm(run_: Run, config: PublishConfig) -> str:
    """The arm to publish: named, else the newest finished one."""
    finished = run_.finished_arms()
    arm = config.arm or (finished[-1] if finished else "")
    if arm not in finished:
        raise Problem(
            f"There is no finished arm {arm!r} to publish. Train one first.",
            f"공개할 학습이 끝난 갈래 {arm!r} 이(가) 없습니다. 먼저 학습해 주세요.",
        )
    return arm


def prepare(run_: Run, config: PublishConfig, namespace: str = "your-name", dataset_commit: str = "") -> dict[str, Any]:
    """Write publish/dataset and publish/model, exactly what would be uploaded; the licence's facts and the names.

    Raises Problem for a blocked or unstated licence, a name the Hub refuses, or personal data and secrets in a kept row.
    """
    arm = _arm(run_, config)
    trained = run_.config("train", arm)
    found = _licence(run_, config, trained)
    dataset_repo, model_repo = _repos(run_, config, namespace, found["model"]["prefix"])
    stages = {
        "generate": _shareable(as_json(run_.config("generate"))),
        "filter": _shareable(as_json(run_.config("filter"))),
        "train": _shareable(as_json(trained)),
    }
    common: dict[str, Any] = {"not_advice": licenses.NOT_ADVICE}
    common["teachers"] = [_cell(t) or "imported" for t in licenses.run_teachers(run_)]
    report = read_json(run_.report_file, {})
    common |= {"leaks": _leak_line(report)}
    common |= {
        "title": _cell(run_.meta().get("title") or run_.id),
        "config_json": json.dumps(stages, ensure_ascii=False, indent=1),
    }
    missing = _prepare_dataset(run_, config, found, dataset_repo, common, stages)
    missing += _prepare_model(run_, arm, found, model_repo, dataset_repo, dataset_commit, common)
    # A teacher's name in the rows carries its revision: FOLDER@HASH.
    judge = run_.config("filter").judge
    names = {x.partition("@")[0] for x in (trained.student, judge, *common["teachers"])} - licenses.IMPORTED
    places = sorted((x for x in names if Path(x).exists()), key=len, reverse=True)
    for kind in ("dataset", "model"):
        for path in sorted(run_.publish_folder(kind).rglob("*")):
            if path.is_file() and path.suffix in ("", ".md", ".json", ".jinja") and path.name != "tokenizer.json":
                text = path.read_text("utf-8", errors="replace")
                for local in places:  # where somebody keeps a model is nobody's business
                    if local in text:
                        text = text.replace(local, Path(local).name)
                        write_text(path, text)
                kinds = found_secrets(text)
                if kinds:
                    raise _leak([f"{kind}/{path.name} ({', '.join(kinds)})"])
    return {
        "verdict": found["verdict"],
        "licence": found["model"]["licence"],
        "missing": sorted(set(missing)),
        "dataset": dataset_repo,
        "model": model_repo,
        "arm": arm,
    }


def _shareable(options: dict[str, Any]) -> dict[str, Any]:
    """A stage's options as a card may show them: a path of this machine as its last part, an endpoint without its address."""
    hidden = {"base_url": "of the owner"}
    return {
        k: hidden.get(k, Path(v).name if k in PLACES and Path(v).exists() else v) if isinstance(v, str) and v else v
        for k, v in options.items()
    }


def _leak(places: list[str]) -> Problem:
    """The problem of personal data or secrets in something that would leave."""
    where = "; ".join(places[:20])
    return Problem(
        f"Personal data or secrets were found, nothing was uploaded: {where}. Remove or reject these, then publish again.",
        f"개인 정보나 비밀 값이 있어 아무것도 올리지 않았습니다: {where}. 지우거나 탈락시킨 뒤 다시 공개해 주세요.",
    )


def _fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _said(pair: Pair) -> str:
    """Every text of a row that a person may have written."""
    return "\n".join((pair.instruction, pair.output, pair.character, *pair.keywords))


def _prepare_dataset(
    run_: Run, config: PublishConfig, found: dict[str, Any], repo: str, common: dict[str, Any], stages: dict[str, Any]
) -> list[str]:
    """Parquet files, card, LICENSE and NOTICE of the dataset; the licences without a text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = _fresh(run_.publish_folder("dataset"))
    verdicts = {v.id: v for v in run_.verdicts()}
    pairs = list(run_.pairs())
    kept = [p for p in pairs if p.id in verdicts and verdicts[p.id].kept]
    if not kept:
        raise Problem(
            "No pair was kept, so there is no dataset to publish. Run the filter first.",
            "남은 쌍이 없어 공개할 자료가 없습니다. 먼저 거르기를 실행해 주세요.",
        )
    leaks = [f"{p.id} ({', '.join(k)})" for p in kept if (k := found_secrets(_said(p)))]
    if leaks:
        raise _leak(leaks)
    names = ("id", "instruction", "output", "character", "keywords", "teacher")
    text = pa.string()
    schema = pa.schema([(n, pa.list_(text) if n == "keywords" else text) for n in names] + [("judge", pa.float64())])

    def write(path: str, rows: list[dict[str, Any]], with_reasons: bool = False) -> None:
        full = schema.append(pa.field("reasons", pa.list_(text))) if with_reasons else schema
        (folder / path).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=full), folder / path)

    def row(pair: Pair) -> dict[str, Any]:
        verdict = verdicts[pair.id]
        spec, at, revision = pair.teacher.partition("@")
        teacher = f"{Path(spec).name}{at}{revision}" if spec and Path(spec).exists() else pair.teacher
        more = {"teacher": teacher, "judge": verdict.judge, "reasons": list(verdict.reasons)}
        return {n: pair.row()[n] for n in names} | more

    splits = {s: [row(p) for p in kept if p.split == s] for s in ("train", "test")}
    files = [{"split": s, "path": f"data/{s}.parquet"} for s, rows in splits.items() if rows]
    for entry in files:
        write(entry["path"], splits[entry["split"]])
    configs = [{"config_name": "default", "data_files": files}]
    # Rejected rows leave too when asked for, but never those that hold personal data or secrets.
    rejected = [p for p in pairs if p.id in verdicts and not verdicts[p.id].kept] if config.rejected else []
    rejected = [p for p in rejected if "pii" not in verdicts[p.id].reasons and not found_secrets(_said(p))]
    if rejected:
        write("rejected/train.parquet", [row(p) for p in rejected], with_reasons=True)
        configs.append(
            {"config_name": "rejected", "data_files": [{"split": "train", "path": "rejected/train.parquet"}]}
        )
    counts = Counter(r for p in pairs if p.id in verdicts for r in verdicts[p.id].reasons)
    reasons = (run_.done("filter") or {}).get("reasons") or dict(counts.most_common())
    front = {"language": ["ko"], **found["dataset"]["card"], "pretty_name": common["title"]}
    front |= {"annotations_creators": ["machine-generated"], "language_creators": ["machine-generated"]}
    front |= {
        "multilinguality": ["monolingual"],
        "size_categories": [_size(len(kept))],
        "source_datasets": ["original"],
    }
    front |= {
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "distillation", "korean", "fairytale"],
        "configs": configs,
    }
    meanings = {
        "id": "행을 만든 것의 해시 / hash of what made the row", "instruction": "교사가 받은 지시문 / what the teacher was asked",
        "output": "이야기 / the story", "character": "주인공 / main character", "keywords": "꼭 들어갈 낱말 / words the story must hold",
        "teacher": "쓴 모델 / model that wrote it", "judge": "심사 점수 1-5, 없으면 null / judge's score 1-5 or null",
    }  # fmt: skip
    sample = row(kept[0])
    card = _render(
        "dataset.md.jinja", front=front, repo=repo, part=_part(found, "dataset"), chain=_rows_of(found, "dataset"), licence_text=found["dataset"]["licence"], total=len(pairs),
        kept=len(kept), train=len(splits["train"]), test=len(splits["test"]), rejected=len(rejected), reasons=[(_reason(name), count) for name, count in reasons.items()],
        prompts=[_cell(p.instruction) for p in kept[:3]], grid=_grid(pairs),
        fields=[(n, m, _cell(sample[n])[:200]) for n, m in meanings.items()], agreement=_agreement(run_),
        citation=_citation(common["title"], repo, "dataset"), duplicates=counts["near_duplicate"], generate=stages["generate"], filter=stages["filter"], **common,
    )  # fmt: skip
    write_text(folder / "README.md", card)
    return _legal(folder, found, "dataset")


WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json")
TOKENIZER = (
    "tokenizer*",
    "chat_template.jinja",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)


def _copy(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files that match, never anything else (optimizer states, logs, TRL's card)."""
    for pattern in patterns:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def _prepare_model(
    run_: Run,
    arm: str,
    found: dict[str, Any],
    repo: str,
    dataset_repo: str,
    dataset_commit: str,
    common: dict[str, Any],
) -> list[str]:
    """Adapter (base on the Hub) or whole model, tokenizer, card, LICENSE and NOTICE; the licences without a text.

    An adapter whose base has no Hub id cannot be loaded by anybody else, so it is merged into its base.
    """
    folder, trained = _fresh(run_.publish_folder("model")), run_.config("train", arm)
    place = run_.stage_folder("train", arm)
    student, adapter = trained.student, (place / "adapter").is_dir()
    done = run_.done("train", arm) or {}
    hub_id, _, revision = student.partition("@")
    commit = done.get("student_revision") or revision
    revision = commit if re.fullmatch(r"[0-9a-f]{40}", commit) else revision
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id)) and not Path(student).exists()
    merged = adapter and not on_hub
    source = place / ("adapter" if adapter else "model")
    if merged:
        _merge(source, student, folder)
    else:
        _copy(source, folder, WEIGHTS)
        _copy(source, folder, TOKENIZER)
    if adapter and on_hub:
        settings = read_json(folder / "adapter_config.json", {}) | {
            "base_model_name_or_path": hub_id,
            "revision": revision or None,
        }
        write_json(folder / "adapter_config.json", settings)
    if not list(folder.glob("*.safetensors")):
        raise Problem(
            f"Arm {arm!r} has no weights in {source.name}/. Train it again.",
            f"갈래 {arm!r} 에 가중치가 없습니다. 다시 학습해 주세요.",
        )
    report = read_json(run_.report_file, {})
    models = report.get("models") or []
    front = {"language": ["ko"], **found["model"]["card"]}
    front["library_name"] = "peft" if adapter and on_hub else "transformers"
    front |= {"pipeline_tag": "text-generation", "datasets": [dataset_repo]}
    if on_hub and trained.method != "scratch":
        front |= {"base_model": hub_id, "base_model_relation": "adapter" if adapter else "finetune"}
    front["tags"] = ["distillation", "synthetic", "korean", "fairytale", *(["lora"] if adapter else [])]
    index = _index(
        common["title"], arm, models, {"type": dataset_repo} | ({"revision": dataset_commit} if dataset_commit else {})
    )
    pictures = [n for n in PICTURES if models and (run_.report_file.parent / "charts" / f"{n}.png").exists()]
    for name in pictures:
        (folder / "charts").mkdir(exist_ok=True)
        shutil.copyfile(run_.report_file.parent / "charts" / f"{name}.png", folder / "charts" / f"{name}.png")
    front |= {"model-index": index} if index else {}
    names = ("steps", "train_loss", "eval_loss", "trainable", "tokens", "seconds", "device", "precision")
    measured = [(k, _number(done[k])) for k in names if done.get(k) is not None]
    beside = () if adapter else ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")
    options = {k: v for k, v in _shareable(as_json(trained)).items() if v != "" and k not in beside}
    has_line = arm in (report.get("retention") or {})
    languages = ("en", "ko")
    prompt = next((p.instruction for p in run_.pairs()), "")
    card = _render(
        "model.md.jinja", front=front, repo=repo, part=_part(found, "model"), chain=_rows_of(found, "model"), licence_text=found["model"]["licence"], adapter=adapter and on_hub,
        merged=merged, base=f"[{hub_id}](https://huggingface.co/{hub_id}){f' at `{revision}`' if revision else ''}" if on_hub else _cell(student), dataset_repo=dataset_repo, dataset_commit=dataset_commit,
        training=[(k, _cell(v)) for k, v in options.items()] + measured, prompts=report.get("prompts"),
        tables={x: rendering.markdown_table(models, SHOWN, x) for x in languages} if models else {},
        pictures=pictures, verdict=report.get("verdict") if models else None, kept={x: rendering.kept_line(report, arm, x) if has_line else "" for x in languages},
        citation=_citation(common["title"], repo, "model"),
        samples=_samples(run_, arm), example_prompt=json.dumps(prompt, ensure_ascii=False), **common,
    )  # fmt: skip
    write_text(folder / "README.md", card)
    return _legal(folder, found, "model")


def _merge(adapter: Path, student: str, folder: Path) -> None:
    """The adapter merged into its local base, saved with the tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = DATA / "mini" / student[5:] if student.startswith("mini:") else Path(student)
    if not base.is_dir():
        base = Path(read_json(adapter / "adapter_config.json", {}).get("base_model_name_or_path") or "")
    if not (base / "config.json").exists():
        raise Problem(
            f"The base {student!r} of the adapter was not found.",
            f"어댑터의 바탕 모델 {student!r} 을(를) 찾을 수 없습니다.",
        )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    model.save_pretrained(folder)
    _copy(base, folder, TOKENIZER)


def _samples(run_: Run, arm: str) -> list[dict[str, str]]:
    """Two answers of the arm and a bad one, said so: one that a rule found fault with, else the one judged worst."""
    rows = [
        r
        for r in read_rows(run_.answers_file)
        if (r["who"], r["name"]) == ("arm", arm) and r["text"] and not r.get("sample") and not found_secrets(r["text"])
    ]
    clean = [r for r in rows if not r["reasons"]]
    bad = [(r, f"나쁜 예 / bad: {', '.join(map(_reason, r['reasons']))}") for r in rows if r["reasons"]][:1]
    if not bad and len(clean) > 2:
        judged = [r for r in clean if r.get("judge") is not None]
        worst = min(judged or clean[2:], key=lambda r: r.get("judge") or 0)
        clean.remove(worst)
        bad = [(worst, "가장 낮은 점수 / judged worst" if judged else "고르지 않은 예 / not picked")]
    chosen = [(r, "좋은 예 / good") for r in clean[:2]] + bad
    return [{"label": b, "prompt": _cell(r["instruction"]), "text": _cell(r["text"])} for r, b in chosen]


# Upload --------------------------------------------------------------------------------------------------------------


def client(endpoint: str | None, token: str | None) -> Any:
    """An HfApi whose requests end after TIMEOUT."""
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def factory() -> Any:
        client = default_client_factory()
        client.timeout = TIMEOUT
        return client

    set_client_factory(factory)
    return HfApi(endpoint=endpoint, token=token)


def _explain(error: BaseException, what: str) -> Problem:
    """What a Hub failure means and what to do about it. A ValueError is the client's word for a card or name refused."""
    status = getattr(getattr(error, "response", None), "status_code", 400 if isinstance(error, ValueError) else None)
    en, ko = {
        400: (
            "The Hub refused a file, the card or a name. Look at the front matter of the cards, then try again.",
            "허브가 파일이나 카드, 이름을 거절했습니다. 카드의 머리말을 확인한 뒤 다시 시도해 주세요.",
        ),
        401: ("The token is missing, wrong or expired. Sign in again.", "토큰이 없거나 틀렸거나 만료되었습니다. 다시 로그인해 주세요."),
        402: ("The account's plan does not allow this. See its billing page.", "계정의 요금제로는 할 수 없습니다. 결제 설정을 확인해 주세요."),
        403: (
            "The token may not write there. Use a token with write access to this namespace, or another repository name.",
            "이 토큰으로는 그곳에 쓸 수 없습니다. 쓰기 권한이 있는 토큰이나 다른 저장소 이름을 써 주세요.",
        ),
        404: ("The repository was not found or is not yours. Check its name.", "저장소가 없거나 권한이 없습니다. 이름을 확인해 주세요."),
        409: ("It exists already with other settings. Choose another name.", "이미 다른 설정으로 있습니다. 다른 이름을 골라 주세요."),
        412: (
            "Somebody else committed meanwhile; nothing was overwritten. Look at the repository, then try again or choose another name.",
            "그 사이 다른 커밋이 올라왔고 아무것도 덮어쓰지 않았습니다. 저장소를 확인한 뒤 다시 올리거나 다른 이름을 골라 주세요.",
        ),
        429: ("The Hub asks to wait: too many requests. Try again in some minutes.", "요청이 너무 많습니다. 몇 분 뒤에 다시 시도해 주세요."),
    }.get(
        status,
        ("The Hub could not be reached or failed. Try again; what is there already is not sent twice.",
         "허브에 닿지 못했거나 허브가 실패했습니다. 다시 시도해 주세요. 이미 올라간 것은 두 번 올리지 않습니다."),
    )  # fmt: skip
    code = f" ({status})" if status else f" ({type(error).__name__})"
    return Problem(f"{what}{code}: {en}", f"{what}{code}: {ko}")


def patiently(
    what: str, progress: Progress | None, action: Callable[[], Any], landed: Callable[[], Any] | None = None
) -> Any:
    """``action`` with retries for 408, 429, 5xx and lost connections. Raises Problem when it fails for good.

    ``landed`` is asked when a commit is refused for its parent (412), as an earlier try may be in its place although
    its answer was lost; a true answer is the result. Without ``progress`` no stop is heard.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    for attempt in range(ATTEMPTS):
        if progress and progress.stopping:
            raise Stopped
        wait = min(2.0**attempt, 30.0)
        try:
            return action()
        except LocalEntryNotFoundError as error:
            # A download's word for a Hub that cannot be reached; its cause says why.
            failed: BaseException = error.__cause__ or error
        except (HfHubHTTPError, httpx.HTTPError, ConnectionError, RuntimeError, ValueError) as error:
            failed = error
        if isinstance(failed, HfHubHTTPError):
            status = failed.response.status_code
            if status == 412 and landed:
                result = landed()
                if result:
                    return result
            if status not in (408, 429) and status < 500:
                raise _explain(failed, what)
            after = failed.response.headers.get("Retry-After", "")
            wait = min(float(after), 300.0) if after.isdigit() else wait
        elif isinstance(failed, ValueError):
            raise _explain(failed, what)
        if attempt < ATTEMPTS - 1:
            for _ in range(max(1, round(wait / 0.2))):  # in short naps, so that a stop is heard
                if progress and progress.stopping:
                    raise Stopped
                time.sleep(0.2)
    raise _explain(failed, what)


def _files(folder: Path) -> dict[str, Path]:
    """Path in the repository -> local file."""
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _sha256(path: Path) -> str:
    """The hash of a file of any size, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same(path: Path, entry: Any) -> bool:
    """Whether a remote entry holds the bytes of a local file (git blob id, or sha256 of an LFS object)."""
    if entry.lfs:
        return entry.lfs.sha256 == _sha256(path)
    data = path.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _upload(run_: Run, kind: str, repo: str, api: Any, progress: Progress, unsure: bool) -> dict[str, Any]:
    """One repository: made private, one commit, read back by hash. Repeating it changes nothing.

    ``unsure`` of the licence: a repository that is public already gets nothing new.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files, note = _files(run_.publish_folder(kind)), run_.folder / "publish" / "commits.json"
    patiently(f"create {repo}", progress, lambda: api.create_repo(repo, repo_type=kind, private=True, exist_ok=True))
    info = patiently(f"look at {repo}", progress, lambda: api.repo_info(repo, repo_type=kind))
    ours = read_json(note, {}).get(f"{kind}:{repo}")

    def remote() -> dict[str, Any]:
        listed = patiently(
            f"list {repo}", progress, lambda: list(api.list_repo_tree(repo, repo_type=kind, recursive=True))
        )
        return {e.path: e for e in listed if hasattr(e, "blob_id") and e.path != ".gitattributes"}

    def landed() -> str:
        there = remote()
        same = set(there) == set(files) and all(_same(files[p], there[p]) for p in files)
        return patiently(f"look at {repo}", progress, lambda: api.repo_info(repo, repo_type=kind)).sha if same else ""

    if not info.private and ours is None:
        raise Problem(
            f"{repo} exists and is public. Make it private on the Hub or choose another name.",
            f"{repo} 저장소가 이미 공개 상태로 있습니다. 허브에서 비공개로 바꾸거나 다른 이름을 골라 주세요.",
        )
    if not info.private and unsure:
        raise Problem(
            f"{repo} is public, but its licence is unknown now. Make it private on the Hub, then publish again.",
            f"{repo} 저장소가 공개 상태인데 이제 라이선스를 알 수 없습니다. 허브에서 비공개로 바꾼 뒤 다시 공개를 실행해 주세요.",
        )
    there = remote()
    commit = landed()
    if not commit:
        if there and info.sha != ours:
            raise Problem(
                f"{repo} holds commits that this run did not make; nothing was overwritten. Choose another name.",
                f"{repo} 저장소에 이 실험이 올리지 않은 커밋이 있어 아무것도 덮어쓰지 않았습니다. 다른 이름을 골라 주세요.",
            )
        added = [CommitOperationAdd(p, str(path)) for p, path in files.items()]
        # The large ones before the commit, one by one, so that a stop is heard between them.
        large = [a for a in added if a.upload_info.size >= LARGE]
        for number, one in enumerate(large, 1):
            patiently(
                f"upload {one.path_in_repo}",
                progress,
                lambda one=one: api.preupload_lfs_files(repo, [one], repo_type=kind, free_memory=False),
            )
            progress.step(progress.job["done"], number / (len(large) + 1), file=one.path_in_repo)
        operations = [*added, *(CommitOperationDelete(p) for p in there if p not in files)]

        def send() -> str:
            message = f"Publish {kind} of run {run_.id}"
            return api.create_commit(
                repo, operations, commit_message=message, repo_type=kind, parent_commit=info.sha
            ).oid

        commit = patiently(f"upload {repo}", progress, send, landed)
    # Before anything is read back: whatever happens then, the next try knows this commit for this run's own.
    write_json(note, read_json(note, {}) | {f"{kind}:{repo}": commit})
    _read_back(kind, repo, commit, files, api, progress)
    prefix = "datasets/" if kind == "dataset" else ""
    return {"repo": repo, "url": f"{api.endpoint}/{prefix}{repo}", "commit": commit}


def _read_back(kind: str, repo: str, commit: str, files: dict[str, Path], api: Any, progress: Progress) -> None:
    """Fetch every file at ``commit`` and compare it by hash. Raises Problem that says what is safe when the Hub goes away."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            try:
                got = patiently(
                    f"read back {repo}",
                    progress,
                    lambda name=name: api.hf_hub_download(
                        repo, name, repo_type=kind, revision=commit, local_dir=folder
                    ),
                )
            except Problem as problem:
                raise Problem(
                    f"{problem.en} The upload itself ended: {repo} is whole at commit {commit[:12]}, only the comparison with your files was cut off. Publish again; it goes on with the comparison.",
                    f"{problem.ko} 올리기는 끝났습니다: {repo}, 커밋 {commit[:12]}. 내 파일과 견주는 일만 끊겼으니 다시 공개하면 거기서부터 이어집니다.",
                ) from None
            if _sha256(Path(got)) != _sha256(path):
                raise Problem(
                    f"{repo}: {name} came back different. Publish again.",
                    f"{repo}: {name} 파일이 다르게 돌아왔습니다. 다시 공개해 주세요.",
                )
            Path(got).unlink()  # so that a large model needs the disk of its largest file only


def signed_in(token: str | None, endpoint: str | None, offline: Problem, signed_out: Problem) -> tuple[Any, str]:
    """(client, token): the given token, or off a Space the stored one. Raises ``offline`` or ``signed_out``.

    A Hub on this machine may be used even where the network is forbidden.
    """
    local = urlparse(endpoint or "").hostname in ("127.0.0.1", "localhost")
    if os.environ.get("LAB_OFFLINE") == "1" and not local:
        raise offline
    from huggingface_hub import get_token

    token = token or (None if os.environ.get("SPACE_ID") else get_token())
    if not token:
        raise signed_out
    return client(endpoint, token), token


def account(token: str, endpoint: str | None = None) -> list[str]:
    """The namespaces that a token may publish to: its owner's, then the organisations'. Problem when the Hub refuses it."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        found = client(endpoint or os.environ.get("HF_ENDPOINT") or None, token).whoami()
    except (HfHubHTTPError, httpx.HTTPError, ConnectionError) as error:
        raise _explain(error, "sign in") from None
    return [found["name"], *(o["name"] for o in found.get("orgs", ()) if o.get("roleInOrg") != "read")]


def run(
    run_: Run,
    config: PublishConfig,
    progress: Progress,
    token: str | None = None,
    endpoint: str | None = None,
    namespace: str = "",
) -> dict[str, Any]:
    """Prepare both folders and, unless it is a dry run, publish them: dataset first, then the model that cites it.

    ``namespace`` (an organisation) is where repositories without a name go; the token's owner by default.
    """
    run_.begin("publish", config)
    progress.begin("publish", 4)
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
    if config.dry_run:
        ready = prepare(run_, config, namespace or "your-name")
        _say_missing(ready, progress)
        blank = {"url": None, "commit": None}
        facts = {"dataset": {"repo": ready["dataset"], **blank}, "model": {"repo": ready["model"], **blank}}
        facts |= {"verdict": ready["verdict"], "dry_run": True}
    else:
        offline = Problem(
            "LAB_OFFLINE=1 forbids the network. Unset it or use --dry-run.",
            "LAB_OFFLINE=1 이면 올릴 수 없습니다. 끄거나 --dry-run 을 써 주세요.",
        )
        signed_out = Problem(
            "Publishing needs a Hugging Face token with write access. Sign in.",
            "공개하려면 쓰기 권한이 있는 허깅페이스 토큰이 필요합니다. 로그인해 주세요.",
        )
        api, token = signed_in(token, endpoint, offline, signed_out)
        name = namespace or patiently("sign in", progress, api.whoami)["name"]
        ready = prepare(run_, config, name)
        progress.step(1)
        unsure = ready["verdict"] == "unknown"
        _say_missing(ready, progress)
        dataset = _upload(run_, "dataset", ready["dataset"], api, progress, unsure)
        progress.step(2)
        prepare(run_, config, name, dataset["commit"])
        model = _upload(run_, "model", ready["model"], api, progress, unsure)
        progress.step(3)
        facts = {"dataset": dataset, "model": model, "verdict": ready["verdict"], "private": config.private}
        if not config.private:
            for kind in ("dataset", "model"):
                _publicise(api, kind, facts[kind]["repo"], progress)
    run_.finish("publish", facts)
    progress.step(4, stop=False)
    return facts


def _say_missing(ready: dict[str, Any], progress: Progress) -> None:
    """Name the licences whose text is within reach neither here nor on the Hub."""
    if ready["missing"]:
        names = ", ".join(ready["missing"])
        progress.note(
            f"LICENSE only names the terms of {names}. Put their full text there before making it public.",
            f"LICENSE 파일에 약관 이름만 있습니다({names}). 공개하기 전에 전문을 넣어 주세요.",
        )


def _publicise(api: Any, kind: str, repo: str, progress: Progress) -> None:
    """Make one repository public."""
    patiently(f"make {repo} public", progress, lambda: api.update_repo_settings(repo, private=False, repo_type=kind))


def make_public(run_: Run, progress: Progress, token: str, endpoint: str | None = None) -> None:
    """The separate step after a private upload: both repositories of the run become public."""
    done = run_.done("publish")
    if not done or done.get("dry_run"):
        raise Problem(
            "Nothing has been uploaded yet. Publish first.", "아직 올린 것이 없습니다. 먼저 공개를 실행해 주세요."
        )
    if done["verdict"] not in ("ok", "conditional"):
        raise Problem(
            "The licence is unknown, so the repositories stay private.", "라이선스를 알 수 없어 비공개로 둡니다."
        )
    api = client(endpoint or os.environ.get("HF_ENDPOINT") or None, token)
    for kind in ("dataset", "model"):
        _publicise(api, kind, done[kind]["repo"], progress)
    write_json(run_.stage_folder("publish") / "done.json", done | {"private": False})
