"""The Publish tab: the licence chain as a drawing, exactly the files that would leave, and the upload itself.

The upload runs here and not in a worker: the visitor's token is an argument of one call and stands nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lab import jobs, licenses
from lab.config import preset_config
from lab.problems import Problem, Stopped
from lab.records import read_json
from lab.run import Run
from lab.ui import form, shared, story
from lab.ui.page import ACT, Page, find, needed, notice
from lab.ui.texts import say

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
KINDS = ("dataset", "model")
SIGNS = {"ok": "✓", "conditional": "!", "unknown": "?", "blocked": "✕"}
UPLOAD: dict[str, Any] = {"concurrency_id": "upload", "concurrency_limit": 4, "show_progress": "hidden", "api_visibility": "private"}  # fmt: skip


def build(page: Page) -> None:
    """Make the tab. The form only makes the cards on a shared Space, as its worker would upload with another token."""
    page.about("about_publish")
    form.build(page, "publish", preset_config("publish", "mini"), locked=shared.shared(), dry_run=True)
    chain = gr.HTML(elem_id="chain")
    empty = gr.HTML()
    made = []
    with gr.Tabs():
        for kind in KINDS:
            with page.label(gr.Tab(""), label=f"{kind}_card"):
                made += [
                    gr.HTML(),
                    gr.Markdown(elem_classes="card"),
                    gr.Code(language="yaml", show_label=False, interactive=False, visible=False),
                ]
    why, send = _build_upload(page)
    files = [f"{kind}/{name}" for kind in KINDS for name in ("README.md", "NOTICE")]
    page.show(view, [empty, *made], lambda run: [run.folder / "publish" / name for name in files])
    page.show(drawing, [chain, why, send], _licence_files)


def _licence_files(run: Run) -> list[Path]:
    arms = [run.stage_folder("train", a) / "config.json" for a in run.arms()]
    stages = [run.stage_folder(s) / "config.json" for s in ("generate", "filter", "publish")]
    return [run.folder / "publish" / "licence.json", run.pairs_file, *stages, *arms]


def _build_upload(page: Page) -> tuple[gr.HTML, gr.Button]:
    """Account, upload and the step to public; the upload button, and above it which clause switches it off."""
    with page.label(gr.Accordion("", open=False, elem_id="hub"), label="upload_section"):
        page.about("upload_space" if shared.shared() else "upload_local")
        with gr.Row(equal_height=True):
            token = page.label(
                gr.Textbox("", type="password", max_length=200, elem_id="hub-token", visible=not shared.shared()),
                label="token",
                info="token_info",
            )
            namespace = page.label(
                gr.Dropdown([], value=None, allow_custom_value=False, elem_id="namespace"),
                label="namespace",
                info="namespace_info",
            )
            who = page.label(gr.Button("", min_width=140, elem_id="account"), value="account")
        why = gr.HTML()
        with gr.Row():
            send = page.label(gr.Button("", variant="primary", elem_id="send-upload"), value="send_upload")
            public = page.label(gr.Button("", elem_id="make-public"), value="make_public")
        result = gr.HTML()
    page.show(uploaded, [result], lambda run: [run.stage_folder("publish") / "done.json"])
    where = [page.run, page.language]
    namespace.change(name_cards, [page.run, namespace], None, **UPLOAD)

    # On a Space Gradio hands the visitor's own token in by the annotation; asked for elsewhere, it would refuse to start.
    if shared.shared():

        def namespaces_of(oauth: gr.OAuthToken | None) -> Any:
            return namespaces(oauth.token if oauth else "")

        def upload_as(
            run_id: str | None, language: str, name: str | None, oauth: gr.OAuthToken | None
        ) -> Iterator[str]:
            yield from upload(run_id, language, oauth.token if oauth else "", name)

        def public_as(run_id: str | None, language: str, oauth: gr.OAuthToken | None) -> Iterator[str]:
            yield from make_public(run_id, language, oauth.token if oauth else "")

        who.click(namespaces_of, None, namespace, **ACT)
        send.click(upload_as, [*where, namespace], result, **UPLOAD)
        public.click(public_as, where, result, **UPLOAD)
    else:
        who.click(lambda key: namespaces(local_token(key)), token, namespace, **ACT)
        send.click(
            lambda run_id, lang, key, name: (yield from upload(run_id, lang, local_token(key), name)),
            [*where, token, namespace],
            result,
            **UPLOAD,
        )
        public.click(
            lambda run_id, lang, key: (yield from make_public(run_id, lang, local_token(key))),
            [*where, token],
            result,
            **UPLOAD,
        )
    return why, send


def local_token(typed: str) -> str:
    """The typed token, else the one that `hf auth login` stored; on a Space never the server's."""
    from huggingface_hub import get_token

    return typed.strip() or ("" if shared.shared() else get_token() or "")


def _signed_in(token: str) -> str:
    if not token:
        raise Problem(
            "Publishing needs your Hugging Face account. Sign in at the top of the page, or give a token with write access.",
            "공개하려면 허깅페이스 계정이 필요합니다. 위에서 로그인하거나 쓰기 권한이 있는 토큰을 넣어 주세요.",
        )
    return token


def namespaces(token: str) -> Any:
    """The account's name and organisations as choices."""
    from lab.stages import publish

    shared.slow_down()
    found = publish.account(_signed_in(token))
    return gr.update(choices=found, value=found[0])


def name_cards(run_id: str | None, name: str | None) -> None:
    """Make the cards again with the account's name in them once it is known: what is read is what leaves."""
    from lab.stages import publish

    run = find(run_id)
    done = (run.done("publish") if run else None) or {}
    if not (run and name and done.get("dry_run")) or done["model"]["repo"].startswith(f"{name}/"):
        return
    if run.state("publish") != "stale" and jobs.look(run).state not in jobs.GOING:
        with jobs.at_work(run, "publish", ["publish", run.id], say=False) as progress:
            publish.run(run, replace(run.config("publish"), dry_run=True), progress, namespace=name)


def _work(run_id: str | None, language: str, token: str, job: Callable[[Run, Any], None]) -> Iterator[str]:
    """Do ``job`` as the run's job, so that bar, stop and a second viewer work as for every stage."""
    run = needed(run_id, language)
    yield f'<p class="count">{say("uploading", language)}</p>'
    try:
        shared.slow_down()
        _signed_in(token)
        if jobs.look(run).state in jobs.GOING:
            raise Problem(
                "This run has a job at work. Wait for it or stop it first.",
                "이 실험에 이미 진행 중인 작업이 있습니다. 끝나기를 기다리거나 먼저 멈춰 주세요.",
            )
        with jobs.at_work(run, "publish", ["publish", run.id], say=False) as progress:
            job(run, progress)
    except Stopped:
        notice(language, "job_stopped")
    yield uploaded(run, language)[0]


def upload(run_id: str | None, language: str, token: str, namespace: str | None) -> Iterator[str]:
    """Publish what the cards show: dataset, then model; the same settings as the last preview."""
    from lab.stages import publish

    def job(run: Run, progress: Any) -> None:
        if not (run.publish_folder("model") / "README.md").exists():
            raise Problem("Make the cards first and read them.", "먼저 카드를 만들어 읽어 주세요.")
        if run.state("publish") == "stale":
            raise Problem(
                "The rows or the report changed after these cards were made. Make the cards again and read them.",
                "카드를 만든 뒤에 자료나 비교 결과가 바뀌었습니다. 카드를 다시 만들어 읽어 주세요.",
            )
        config = replace(run.config("publish"), dry_run=False)
        publish.run(run, config, progress, token=token, namespace=namespace or "")

    yield from _work(run_id, language, token, job)


def make_public(run_id: str | None, language: str, token: str) -> Iterator[str]:
    """The separate step: both repositories become public."""
    from lab.stages import publish

    yield from _work(run_id, language, token, lambda run, progress: publish.make_public(run, progress, token))


def uploaded(run: Run | None, language: str) -> list[str]:
    """Where the repositories are, once they are there."""
    done = (run.done("publish") if run else None) or {}
    if not done or done.get("dry_run"):
        return [""]
    state = say("is_private" if done.get("private", True) else "is_public", language)
    lines = "".join(
        f'<li><a href="{escape(done[k]["url"])}" target="_blank" rel="noopener">{escape(done[k]["repo"])}</a> <small>{escape(str(done[k]["commit"])[:12])}</small></li>'
        for k in KINDS
    )
    return [f'<div class="welcome"><b>{say("published", language)}</b> {state}<ul>{lines}</ul></div>']


def view(run: Run | None, language: str) -> list[Any]:
    """Both cards with the files around them, each with its front matter below."""
    cards = [split(run.publish_folder(kind) / "README.md") if run else ("", "") for kind in KINDS]
    found: list[Any] = ["" if any(text for text, _ in cards) else story.empty("empty_publish", language)]
    for kind, (text, front) in zip(KINDS, cards, strict=True):
        folder = run.publish_folder(kind) if run and text else None
        # The card's pictures are files of the repository, which a browser cannot reach before the upload.
        shown = re.sub(r"!\[([^\]]*)\]\((charts/[^)]*)\)", r"*\2*", text)
        found += [files(folder, language) if folder else "", shown, gr.update(value=front, visible=bool(front))]
    return found


def files(folder: Path, language: str) -> str:
    """Exactly what would leave: every file with its size, and the NOTICE in full."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    rows = "".join(
        f"<tr><td>{escape(p.relative_to(folder).as_posix())}</td><td>{p.stat().st_size:,}</td></tr>" for p in paths
    )
    duties = folder / "NOTICE"
    said = f"<h4>NOTICE</h4><pre>{escape(duties.read_text('utf-8'))}</pre>" if duties.exists() else ""
    title = say("files_title", language, count=len(paths))
    return f'<details><summary>{title}</summary><div class="scroll"><table class="measures">{rows}</table></div>{said}</details>'


def chain_of(run: Run) -> dict[str, Any] | None:
    """The chain that the last cards went by, else the table's; None before there are pairs."""
    stored = read_json(run.folder / "publish" / "licence.json")
    if stored:
        return stored
    if not run.pairs_file.exists():
        return None
    arm = next(iter(run.arms()[-1:]), "")
    return licenses.run_chain(run, run.config("train", arm), run.config("publish").data_licence)


def drawing(run: Run | None, language: str) -> list[Any]:
    """The chain from teacher, data and base to dataset and model, with verdict, clause, source and duties; what switches
    the upload off, and whether it is on.
    """
    found = chain_of(run) if run else None
    if not found:
        return ["", "", gr.update(interactive=False)]
    blocked = found["verdict"] == "blocked"
    clauses = found["reasons_ko" if language == "ko" else "conditions"] if blocked else []
    why = "".join(f"<li>{escape(x)}</li>" for x in clauses)
    terms = "terms_ko" if language == "ko" else "terms"

    def source(row: dict[str, Any]) -> str:
        return (
            f'<div class="link"><small>{say("chain_" + row["what"], language)}</small><b>{escape(row["who"])}</b>'
            f"<span>{escape(row['licence'])}</span><details><summary>{say('terms', language)}</summary>"
            f"<p>{escape(row[terms])}</p><small>{escape(row['source'])} ({say('seen_' + row['seen'], language)})</small></details></div>"
        )

    def made(part: str) -> str:
        one = found[part]
        return (
            f'<div class="link made {one["verdict"]}"><small>{say("made_" + part, language)}</small>'
            f"<b><i>{SIGNS[one['verdict']]}</i> {say('verdict_' + one['verdict'], language)}</b>"
            f"<span>{escape(one['licence'] or say('no_licence', language))}</span></div>"
        )

    above = [source(r) for r in found["chain"] if r["what"] != "student"]
    beside = [source(r) for r in found["chain"] if r["what"] == "student"]
    arrow = '<div class="arrow" aria-hidden="true">→</div>'
    steps = f"<div>{''.join(above)}</div>{arrow}<div>{made('dataset')}</div>{arrow}<div>{''.join(beside)}{made('model')}</div>"  # fmt: skip
    # A run that was published before has no Korean lines.
    stated = found.get("must_state_ko", found["must_state"]) if language == "ko" else found["must_state"]
    duties = "".join(f"<li>{escape(x)}</li>" for x in stated)
    return [
        f'<h3>{say("chain_title", language)}</h3><div class="chain">{steps}</div>'
        f'<div class="welcome"><p><b>{escape(found["answer"][language])}</b></p>'
        f"<details><summary>{say('duties', language)}</summary><ul>{duties}</ul></details>"
        f"<small>{escape(found['not_advice'][language])}</small></div>",
        f'<div class="welcome"><b>{say("verdict_blocked", language)}</b><ul>{why}</ul></div>' if why else "",
        gr.update(interactive=not blocked),
    ]


def split(path: Path) -> tuple[str, str]:
    """(the card's text, its YAML front matter); two empty texts where there is no card."""
    if not path.exists():
        return "", ""
    text = path.read_text("utf-8")
    found = FRONT_MATTER.match(text)
    return (text[found.end() :], found[1]) if found else (text, "")
