"""The licence chain: terms of teacher and judge -> dataset; these, student base and other data -> student.

The families stand in data/licenses.json, each with its source and how well that was seen (``text``: the terms or the
vendor's card were read; ``second``: a third party quotes them; ``memory``: unverified). Rules: the dataset follows the
terms of the teacher's outputs, and of the judge's, whose scores choose the rows and stand in them; the student must
satisfy these, its base and all other data; the strictest wins; non-commercial and share-alike are contagious; what is
unknown is never called open. This is not legal advice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lab import hub
from lab.config import TrainConfig
from lab.domain import DATA
from lab.problems import Problem
from lab.records import read_json
from lab.run import Run, find_run

Card = Callable[[str, str], dict[str, Any] | None]
"""Looks a Hub model's card up: (id, revision) -> its front matter with ``commit``, or None when it cannot be read."""
NOT_ADVICE = {"en": "This is not legal advice.", "ko": "법률 자문이 아닙니다."}
PERMISSIVE = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0"}
IMPORTED = {"", "import", "imported", "human"}
"""What stands in the place of a teacher's name in rows that no model wrote."""
BROUGHT = "imported rows"
"""How the chain calls rows that were brought along without a word about their licence."""
OWN_JUDGES = {"", "none", "mini"}
"""No judge, and the one of this project, which binds nobody."""
PARTS_KO = {"teacher": "교사", "judge": "심사 모델", "student": "바탕 학생", "data": "자료"}
_WORSE = ("ok", "conditional", "unknown", "blocked")


@cache
def families() -> tuple[dict[str, Any], ...]:
    """The rows of data/licenses.json; the first whose pattern matches wins."""
    return tuple(json.loads((DATA / "licenses.json").read_text("utf-8")))


def family(name: str, data: bool = False) -> dict[str, Any]:
    """The family of a model name (or, with ``data``, of a licence id)."""
    kinds = ("data", "unknown") if data else ("own", "model", "api", "unknown")
    return next(f for f in families() if f["kind"] in kinds and re.search(f["pattern"], name, re.IGNORECASE))


def _spelt(licence: str) -> str:
    """A licence as the Hub spells it: ``GPL 3.0`` is ``gpl-3.0``."""
    return re.sub(r"[\s_]+", "-", licence.strip()).lower()


def licence_family(licence: str) -> dict[str, Any]:
    """The family of a licence as people write it (``CC BY-NC 4.0``), or of the model or provider whose terms it names.

    Rows that somebody brings may come from a model: ``llama3.1``, ``qwen-research`` or ``openai`` bind them as they bind
    a teacher's.
    """
    name = _spelt(licence)
    found = family(name, data=True)
    if found["kind"] != "unknown":
        return found
    named = (f for f in families() if f["kind"] == "model" and name == f.get("name", f["id"]))
    served = family(name)
    return next(named, served if served["kind"] == "api" else found)


def _served(name: str) -> dict[str, Any]:
    """The family of a model behind an endpoint, whatever a router or a cloud puts before its name.

    ``azure/gpt-4o``, ``models/gemini-2.5-pro``, ``us.anthropic.claude-3`` and ``ft:gpt-4o:mine`` are the provider's.
    """
    tails = [name, *(name[m.end() :] for m in re.finditer(r"[/:.]", name))]
    return next((f for tail in tails if (f := family(tail))["kind"] != "unknown"), family("?"))


def stated(text: str) -> tuple[tuple[str, str], ...]:
    """The licences that somebody states, separated by commas: (name, link), the link empty where none stands beside it."""
    links = r"https?://\S+"
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple((re.sub(links, "", p).strip(), (re.findall(links, p) or [""])[0]) for p in parts)


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML front matter of a README.md, empty when there is none or it is broken."""
    import yaml

    found = re.match(r"\s*---\n(.*?)\n---", card.read_text("utf-8")[:65536], re.DOTALL) if card.is_file() else None
    try:
        value = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def _first(value: Any) -> str:
    """A card field that may be a text or a list of texts."""
    return str(value[0] if isinstance(value, list) and value else value or "")


def _commit(revision: str) -> str:
    """A revision that may be a commit of the Hub; what else stands behind an @ (a mark of packed weights) is none."""
    return revision if re.fullmatch(r"[0-9a-f]{7,40}", revision) else ""


def hub_card(name: str, revision: str = "", endpoint: str | None = None) -> dict[str, Any] | None:
    """The front matter of a model's card on the Hub at a revision, with ``commit``; None offline or when there is none.

    Read without a token, as the licence of a gated model is public too; ``LAB_OFFLINE=1`` asks only a given endpoint.
    """
    path = hub.file(name, "README.md", _commit(revision), endpoint)
    # .../snapshots/COMMIT/README.md
    return front_matter(path) | {"commit": path.parent.name} if path else None


def hub_licence(name: str, revision: str = "", endpoint: str | None = None) -> str:
    """The text of a model's own LICENSE file on the Hub at a revision; empty offline or when there is none."""
    path = hub.file(name, "LICENSE", _commit(revision), endpoint)
    return path.read_text("utf-8", errors="replace") if path else ""


def origins(
    spec: str, run_owner: str | None = None, card: Card | None = None, seen: tuple[str, ...] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """What a model SPEC comes from: (name, family) for each ancestor whose terms bind it.

    A trained arm inherits its student base and its teachers or the licences stated for its rows; a local folder is
    traced through its adapter configuration and its card; a Hub model through its card when ``card`` can read it. What
    cannot be traced is unknown, as is a model that comes, by its cards, from itself (``seen`` are those on the way).
    """
    spec = spec.strip()
    if spec in seen:
        return [(spec, family("?"))]
    seen = (*seen, spec)
    if spec.startswith("run:"):
        run_id, _, arm = spec[4:].partition("/")
        try:
            run = find_run(run_id, run_owner)
        except Problem:
            return [(spec, family(spec))]
        base = read_json(run.stage_folder("train", arm) / "config.json", {}).get("student", "")
        teachers = run_teachers(run)
        parts = [name for name in teachers if name not in IMPORTED]
        brought = [(name, licence_family(name)) for name, _ in stated(run.config("publish").data_licence)]
        if len(parts) < len(teachers):
            parts += [] if brought else ["?"]
        else:
            brought = []
        taught = [(o, f | {"taught": True}) for name in parts for o, f in origins(name, run_owner, card, seen)]
        return origins(base or "?", run_owner, card, seen) + taught + brought
    if spec.startswith("api:"):
        return [(spec, _served(spec[4:]))]
    name = spec.partition("@")[0]
    folder = Path(name)
    if name and folder.is_dir():
        if folder.resolve().parent == (DATA / "mini").resolve():
            return [(spec, family(f"mini:{folder.resolve().name}"))]
        facts = front_matter(folder / "README.md")
        base = read_json(folder / "adapter_config.json", {}).get("base_model_name_or_path") or _first(
            facts.get("base_model")
        )
        found = origins(base, run_owner, card, seen) if base else []
        licence = _first(facts.get("license"))
        if licence:
            licence = _first(facts.get("license_name")) or licence if licence == "other" else licence
            found.append((f"{spec} ({licence})", licence_family(licence)))
        return found or [(spec, family("?"))]
    return _on_the_hub(spec, name, run_owner, card, seen)


def _on_the_hub(
    spec: str, name: str, run_owner: str | None, card: Card | None, seen: tuple[str, ...]
) -> list[tuple[str, dict[str, Any]]]:
    """The family of a Hub id by the table, checked against its card: where they differ, both bind and the strictest wins."""
    known = family(name)
    facts = card(name, spec.partition("@")[2]) if card and known["kind"] in ("model", "unknown") else None
    licence = _first((facts or {}).get("license"))
    if not facts or not licence:
        return [(spec, known)]
    source = f"https://huggingface.co/{name} at {facts['commit'][:12]}"
    if licence == "other":
        licence = _first((facts or {}).get("license_name")) or licence
    if licence in (known["id"], known.get("name")):
        return [(spec, known | {"source": f"{known['source']}; the card says so too: {source}", "seen": "text"})]
    by_card = licence_family(licence)
    if by_card["kind"] == "unknown" and known["kind"] == "unknown":
        link = facts.get("license_link") or source
        return [(spec, known | {"conditions": f"own terms, {licence}: {link}", "conditions_ko": f"자체 약관, {licence}: {link}", "source": source})]  # fmt: skip
    by_card = by_card | {"source": f"{source}: license {licence}", "seen": "text"}
    found = [(f"{spec} (card: {licence})", by_card)]
    if known["kind"] == "unknown":
        base = _first(facts.get("base_model"))
        return found + (origins(base, run_owner, card, seen) if base else [])
    return [(spec, known), *found]


def run_teachers(run: Run) -> list[str]:
    """The teachers named in the pairs of a run, sorted; an empty name stands for imported rows."""
    return sorted({pair.teacher for pair in run.pairs()}) or [run.config("generate").teacher]


def _label(f: dict[str, Any], name: str) -> str:
    """The licence id as shown: ``apache-2.0`` or ``other: qwen-research``."""
    if f["id"] == "=":
        return _spelt(name)
    return f"other: {f['name']}" if f["id"] == "other" else f["id"]


def _free(link: dict[str, Any]) -> bool:
    """Whether a part leaves what is made from it free: a teacher or judge whose weights have a licence, its outputs none."""
    return (
        link["what"] in ("teacher", "judge")
        and link["family"]["outputs"] == "yes"
        and link["family"]["kind"] == "model"
    )


def _texts(f: dict[str, Any], name: str) -> list[str]:
    """The licences whose copies go along with what is made, by the names of their files in data/licences."""
    return f.get("texts") or [x for x in [f.get("name") or _label(f, name)] if x]


def _resolve(links: list[dict[str, Any]], student: str) -> dict[str, Any]:
    """Verdict, licence, duties and reasons for something made from ``links`` (part, name, family)."""
    verdict, en, ko, state, state_ko = "ok", [], [], [], []
    whole = any(link["what"] == "student" for link in links)
    named = "the name" if whole else "a model trained on this dataset has a name that"
    named_ko = "이름은" if whole else "이 데이터셋으로 학습한 모델의 이름은"

    def add(level: str, reason_en: str, reason_ko: str) -> None:
        nonlocal verdict
        verdict = max(verdict, level, key=_WORSE.index)
        en.append(reason_en)
        ko.append(reason_ko)

    for link in links:
        name, f = link["who"], link["family"]
        part = (
            "teacher" if f.get("taught") else link["what"]
        )  # an arm's teacher binds as one, whoever learns from the arm
        where = f"{name}: {f['conditions']} [{f['family']}; source: {f['source']}]"
        where_ko = f"{name}: {f['conditions_ko']} [{f['family']}; 출처: {f['source']}]"
        if part == "judge" and f["outputs"] in ("no", "conditional"):
            where += " Its scores choose the rows and stand in them; filtered with the judge mini or none, they do not."
            where_ko += " 심사 점수가 행을 고르고 행에 적히기 때문입니다. 심사 모델을 mini 나 none 으로 바꾸어 다시 거르면 해당하지 않습니다."
        if f["kind"] == "unknown":
            add(
                "unknown",
                f"{name}: the licence is unknown. State its licence and a link.",
                f"{name}: 라이선스를 알 수 없습니다. 라이선스와 링크를 밝혀 주세요.",
            )
        elif f["kind"] == "api" and part == "student":
            add(
                "blocked",
                f"{name}: there are no weights to train or publish.",
                f"{name}: 학습하거나 공개할 가중치가 없습니다.",
            )
        elif f["outputs"] == "no" and part == "student" and f["kind"] == "data":
            add("blocked", where, where_ko)  # a licence that forbids what is made from the base: no derivatives
        elif part == "student" and (f["outputs"] == "no" or f["id"] == "other"):
            add("conditional", where, where_ko)  # a base under its own terms: the student stays under them
        elif f["outputs"] == "no" and not (
            f.get("only_students") and re.search(f["only_students"], student, re.IGNORECASE)
        ):
            add("blocked", where, where_ko)
        elif f["outputs"] in ("no", "conditional"):
            add("conditional", where, where_ko)
        if f["kind"] == "model" and name.startswith("api:"):
            add("ok", f"{name}: the host may add terms of its own.", f"{name}: 제공 업체가 조건을 더할 수 있습니다.")
        if f["seen"] == "memory" and f["kind"] == "model":
            add(
                "conditional",
                f"{name}: the terms were not read; read them before publishing.",
                f"{name}: 약관을 확인하지 못했습니다. 공개 전에 읽어 주세요.",
            )
        duties = [
            (f.get("built_with"), f"'{f.get('built_with')}'", f"문구 표시: '{f.get('built_with')}'"),
            (f.get("prefix"), f"{named} begins with '{f.get('prefix')}'", f"{named_ko} '{f.get('prefix')}'(으)로 시작"),
            (f.get("notice"), f"NOTICE: {f.get('notice')}", f"NOTICE 파일: {f.get('notice')}"),
            (f.get("attribution"), f"attribution of {name}", f"저작자 표시: {name}"),
            (f.get("non_commercial"), "non-commercial use only", "비상업적 용도로만 사용"),
            (True, f"{part}: {name}", f"{PARTS_KO[part]} 밝히기: {name}"),
        ]
        state += [line for asked, line, _ in duties if asked]
        state_ko += [line for asked, _, line in duties if asked]
    fams = [link["family"] for link in links]
    # cc-by-nc-sa asks for both; a share-alike licence without NC forbids to add NC or use restrictions.
    binding = [x for x in links if not _free(x)]
    labels = {_label(x["family"], x["who"]) for x in binding} - {""}
    alike = {_label(x["family"], x["who"]) for x in links if x["family"].get("share_alike")}
    strict = labels - PERMISSIVE
    if "cc-by-nc-sa-4.0" in alike:
        strict -= {"cc-by-nc-4.0"}
    prefixes = {f["prefix"] for f in fams if f.get("prefix")}
    longest = max(prefixes, key=len, default="")  # "Llama 3" begins with "Llama" too
    if alike and len(strict) > 1:
        both = ", ".join(sorted(strict))
        add(
            "blocked",
            f"Share-alike clashes: {both} cannot both be kept.",
            f"동일 조건 변경 허락이 부딪힙니다: {both} 조건을 함께 지킬 수 없습니다.",
        )
    if not all(longest.startswith(p) for p in prefixes):
        both = ", ".join(sorted(prefixes))
        add("blocked", f"One name cannot begin with all of: {both}.", f"이름이 한꺼번에 시작할 수 없습니다: {both}")
    if verdict in ("blocked", "unknown"):
        licence, card = None, {}
    elif not strict:
        # CC BY rows stay CC BY; else Apache-2.0, the strictest of the rest (notices, patents), which CC0 and MIT allow.
        licence = "cc-by-4.0" if "cc-by-4.0" in labels else "apache-2.0"
        card = {"license": licence}
    else:
        own = next(
            (f for link in binding if (f := link["family"]).get("link") and _label(f, link["who"]) in strict), {}
        )
        # Named custom terms are stricter than a bare NC licence and are named first.
        ordered = sorted(strict, key=lambda x: (not x.startswith("other"), x))
        licence = (
            ordered[0] if len(ordered) == 1 else "other: " + " and ".join(x.removeprefix("other: ") for x in ordered)
        )
        card = {"license": licence}
        if licence.startswith("other: "):
            name = re.sub(r"[^a-z0-9.-]+", "-", licence.removeprefix("other: ").lower())
            card = {"license": "other", "license_name": name, "license_link": own.get("link", "LICENSE")}
    return {
        "verdict": verdict,
        "licence": licence,
        "card": card,
        "conditions": list(dict.fromkeys(en)),
        "reasons_ko": list(dict.fromkeys(ko)),
        "must_state": list(dict.fromkeys(state)),
        "must_state_ko": list(dict.fromkeys(state_ko)),
        "texts": list(dict.fromkeys(t for x in binding for t in _texts(x["family"], x["who"]))),
        "prefix": longest,
        "non_commercial": any(f.get("non_commercial") for f in fams),
    }


def chain(
    teacher: str | tuple[str, ...],
    student: str,
    data: tuple[str, ...] = (),
    owner: str | None = None,
    card: Card | None = None,
    judge: str = "",
) -> dict[str, Any]:
    """The licence chain of a student and the verdict: ``ok``, ``conditional``, ``blocked`` or ``unknown``.

    ``teacher`` may be several, whose terms all bind, or empty when all data is brought along (then ``data`` names its
    licences). ``judge`` is the model whose scores choose the rows. ``dataset`` and ``model`` hold the verdict of each
    part; the top level is the model's. ``owner`` limits ``run:`` look-ups; ``card`` (``hub_card`` when online) also reads
    the models' own cards at their revisions.
    """
    base = "" if student.startswith(("mini:", "scratch")) else student.partition("@")[0]
    teachers = [t for t in ((teacher,) if isinstance(teacher, str) else teacher) if t]
    found = {name: f for t in teachers for name, f in origins(t, owner, card)}
    sources: list[dict[str, Any]] = [{"what": "teacher", "who": n, "family": f} for n, f in found.items()]
    judged = [] if judge in OWN_JUDGES else [x for x in origins(judge, owner, card) if x[0] not in found]
    sources += [{"what": "data", "who": d.strip(), "family": licence_family(d)} for d in data if d.strip()]
    if not sources:
        sources = [{"what": "data", "who": BROUGHT, "family": family("?")}]
    sources += [{"what": "judge", "who": n, "family": f} for n, f in judged]
    bases = [{"what": "student", "who": n, "family": f} for n, f in origins(student, owner, card)]
    base_names = [b["who"] for b in bases] if base else [""]  # an arm's own base comes first
    model, dataset = _resolve(sources + bases, base_names[0]), _resolve(sources, base_names[0])
    rows = [
        {
            "what": x["what"],
            "who": x["who"],
            "family": x["family"]["family"],
            "licence": x["family"]["licence"],
            "outputs": x["family"]["outputs"],
            "terms": x["family"]["conditions"],
            "terms_ko": x["family"]["conditions_ko"],
            "notice": x["family"].get("notice", ""),
            "texts": _texts(x["family"], x["who"]),
            "source": x["family"]["source"],
            "seen": x["family"]["seen"],
        }
        for x in sources + bases
    ]
    answer = _answer(model)
    return {**model, "answer": answer, "not_advice": NOT_ADVICE, "dataset": dataset, "model": model, "chain": rows}


def run_chain(run: Run, trained: TrainConfig, data_licence: str, card: Card | None = None) -> dict[str, Any]:
    """The chain of a run and one of its arms: every teacher in the rows, the judge that chose them, what was brought along.

    ``data_licence`` states the licences of what was brought; without a name there it is unknown, whoever else wrote rows.
    """
    names = run_teachers(run)
    teachers = [n for n in names if n not in IMPORTED] + ([trained.teacher] if trained.method == "soft" else [])
    brought = any(n in IMPORTED for n in names) or (trained.data == "human" and bool(trained.human_file))
    data = (tuple(name for name, _ in stated(data_licence) if name) or (BROUGHT,)) if brought else ()
    return chain(tuple(teachers), trained.student, data, run.owner, card, judge=run.config("filter").judge)


def explain(found: dict[str, Any], language: str = "en") -> str:
    """What ``chain`` found as text for a terminal: the answer, the chain with its sources, the duties."""
    terms = "terms_ko" if language == "ko" else "terms"
    lines = [found["answer"][language], ""]
    lines += [
        f"{x['what']}: {x['who']} -> {x['licence']}; {x[terms]} [{x['source']}; {x['seen']}]" for x in found["chain"]
    ]
    duties = found["must_state_ko" if language == "ko" else "must_state"]
    lines += ["", *(f"- {line}" for line in duties), "", NOT_ADVICE[language]]
    return "\n".join(lines)


def _answer(model: dict[str, Any]) -> dict[str, str]:
    """The plain answer to the question: may the student be Apache-2.0?"""
    why, why_ko = " ".join(model["conditions"]), " ".join(model["reasons_ko"])
    if model["licence"] == "apache-2.0" and model["verdict"] == "ok":
        return {"en": "May the student be Apache-2.0? Yes.", "ko": "학생 모델을 Apache-2.0으로 공개할 수 있나요? 네."}
    if model["licence"] == "apache-2.0":
        return {
            "en": f"May the student be Apache-2.0? Yes, if: {why}",
            "ko": f"학생 모델을 Apache-2.0으로 공개할 수 있나요? 조건부로 네. {why_ko}",
        }
    word = ("Unknown.", "알 수 없습니다.") if model["verdict"] == "unknown" else ("No.", "아니요.")
    return {
        "en": f"May the student be Apache-2.0? {word[0]} {why}",
        "ko": f"학생 모델을 Apache-2.0으로 공개할 수 있나요? {word[1]} {why_ko}",
    }
