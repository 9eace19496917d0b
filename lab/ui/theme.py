"""The look: warm paper, quiet ink, one accent; colours of charts are Okabe and Ito's, safe for colour-blind eyes."""

from __future__ import annotations

import gradio as gr

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
FONTS = ["Pretendard", "Noto Sans KR", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic", "sans-serif"]

CSS = """
:root { --ink:#3b2f2a; --soft:#726259; --paper:#fffdf8; --line:#eadfce; --accent:#a8502f; --wash:#f6ecdf; }
.dark { --ink:#efe6da; --soft:#b9a99a; --paper:#2a2421; --line:#463c35; --accent:#e79a72; --wash:#362e29; }
.gradio-container { max-width:1120px !important; width:100% !important; margin:0 auto !important; }
.gradio-container main { width:100%; } .main.app { padding:1rem clamp(.75rem,4vw - .2rem,2rem) !important; }
.gradio-container { word-break:keep-all; overflow-wrap:break-word; } .prose, .html-container { overflow-wrap:anywhere; }
/* Paragraphs begin where the fields begin: at the edge of the page, and inside a drawer at the edge of its fields. */
.gradio-container .html-container { padding:0 !important; }
.gradio-container .block .block .html-container { padding:.2rem .75rem !important; }
/* What says nothing just now takes no gap either. */
.block:has(> .html-container > .prose:empty) { display:none; }
/* Closed drawers stand in one line, an open one takes it all. */
#drawers { gap:.6rem; } #drawers > .block { flex:1 1 auto; width:auto; } #drawers > .block:has(> .label-wrap.open) { flex-basis:100%; }
#language .wrap { justify-content:flex-end; }
#stop, #go-on { align-self:center; flex:0 1 auto; min-height:2.6rem; }
#figures > * { flex:1 1 27.5rem; min-width:min(27.5rem,100%); } @media (min-width:641px) { #figures .measures :is(td, th) { padding:.3rem .7rem; } }
#cut-save { width:calc(100% - 1.5rem); margin:0 .75rem; }
.gradio-container:has(#greeting:not(.hidden, .hide)) :is(#bar, #checklist, #strip, #job) { display:none !important; }
#whole, #new { align-self:flex-end; flex:0 1 auto; min-height:2.6rem; }
.masthead h1 { display:flex; align-items:center; font-size:1.7rem; line-height:1.25; margin:0; color:var(--ink); letter-spacing:-.02em; }
.masthead p { margin:.15rem 0 0; color:var(--soft); }
.steps { display:flex; flex-wrap:wrap; align-items:center; gap:.4rem; }
.step { display:inline-flex; margin:0 !important; align-items:center; gap:.4rem; padding:.25rem .7rem; border:1px solid var(--line); cursor:pointer;
  border-radius:99px; background:var(--paper); color:var(--ink); font-size:.86rem; white-space:nowrap; font-family:inherit; }
.step:hover { border-color:var(--accent); } .step small { color:var(--soft); }
.step i { width:.6rem; height:.6rem; border-radius:50%; border:2px solid var(--soft); box-sizing:border-box; }
.step.is-done i { background:#009E73; border-color:#009E73; } .step.is-partial i { background:#E69F00; border-color:#E69F00; }
.step.is-stale i { border-color:#D55E00; border-style:dashed; } .step.is-failed i, .step.is-died i { background:#D55E00; border-color:#D55E00; border-radius:2px; }
.step.is-running i { background:#0072B2; border-color:#0072B2; animation:beat 1.2s ease-in-out infinite; }
@keyframes beat { 50% { opacity:.35; } } @media (prefers-reduced-motion:reduce) { .step.is-running i { animation:none; } }
.gradio-container :is(button, input, textarea, summary, a):focus-visible { outline:2px solid var(--accent) !important; outline-offset:1px; }
.job { min-height:4.4rem; display:flex; flex-direction:column; justify-content:center; border:1px solid var(--line); border-radius:12px; padding:.7rem .9rem; background:var(--paper); color:var(--ink); }
.job .line { display:flex; flex-wrap:wrap; justify-content:space-between; gap:.2rem 1rem; font-variant-numeric:tabular-nums; }
.job .bar { height:.5rem; border-radius:99px; background:var(--wash); margin-top:.5rem; overflow:hidden; }
.job .bar b { display:block; height:100%; background:var(--accent); border-radius:99px; transition:width .4s; }
.job .small { color:var(--soft); font-size:.86rem; margin-top:.3rem; } .job.failed, .job.died { border-color:#D55E00; }
.about { color:var(--soft); line-height:1.65; margin:.2rem 0 .4rem; }
.empty { border:1.5px dashed var(--line); border-radius:14px; padding:2rem 1.2rem; text-align:center; color:var(--soft); background:var(--paper); line-height:1.7; }
.standing { margin:.2rem 0 .5rem; padding:.5rem .9rem; border-left:4px solid var(--accent); border-radius:4px 10px 10px 4px; background:var(--wash); color:var(--ink); line-height:1.6; }
.standing:is(.stale, .failed) { border-left-color:#D55E00; } .standing.cut { border-left-color:#E69F00; }
.tabitem:has(.standing:is(.going, .failed, .cut)) .block:has(> .html-container > .prose > .empty:is([data-key=empty_generate], [data-key=empty_filter], [data-key=empty_train], [data-key=empty_compare], [data-key=empty_publish])), #figures:not(:has(*)) { display:none; }
.welcome { border-radius:14px; padding:1rem 1.2rem; background:var(--wash); color:var(--ink); line-height:1.7; }
.welcome p { margin:.2rem 0; } .welcome h2 { font-size:1.15rem; margin:0 0 .3rem; color:var(--ink); } .welcome ol { margin:0 0 0 1.2rem !important; padding:0 !important; }
.needs { color:var(--soft); line-height:1.65; } .needs b { color:var(--ink); }
.checks { list-style:none; margin:0; padding:0; display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr)); gap:.7rem; }
.checks li { border:1px solid var(--line); border-left:4px solid var(--soft); border-radius:12px; padding:.7rem .9rem; background:var(--paper); color:var(--ink); display:flex; flex-wrap:wrap; gap:.15rem .6rem; align-items:baseline; }
.checks li.ok { border-left-color:#009E73; } .checks li.warn { border-left-color:#E69F00; }
.checks b { flex:1 1 60%; } .checks .state { font-size:.8rem; color:var(--soft); } .checks .value { flex:1 1 100%; font-size:1.05rem; font-variant-numeric:tabular-nums; }
.checks small, .checks p { flex:1 1 100%; margin:0; color:var(--soft); font-size:.84rem; line-height:1.6; }
.go { border:0; background:none; padding:.25rem 0; color:var(--accent); cursor:pointer; font-size:.86rem; font-family:inherit; text-decoration:underline; }
.facts { display:flex; flex-wrap:wrap; gap:.6rem; margin:.2rem 0 .8rem; }
.facts div { flex:1 1 7rem; border:1px solid var(--line); border-radius:12px; padding:.5rem .8rem; background:var(--paper); }
.facts b { display:block; font-size:1.35rem; color:var(--ink); font-variant-numeric:tabular-nums; } .facts small { color:var(--soft); }
.stories { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr)); gap:.9rem; }
.story { border:1px solid var(--line); border-radius:14px; padding:1rem 1.15rem; background:var(--paper); color:var(--ink); display:flex; flex-direction:column; }
.story.dropped { border-left:4px solid #D55E00; } .story.kept { border-left:4px solid #009E73; }
.story .ask { color:var(--soft); font-size:.86rem; line-height:1.5; border-bottom:1px dashed var(--line); padding-bottom:.5rem; margin-bottom:.6rem; white-space:pre-line; }
.story .text { line-height:1.85; font-size:1rem; white-space:pre-wrap; }
.story .foot { margin-top:auto; padding-top:.6rem; display:flex; flex-wrap:wrap; gap:.35rem; font-size:.8rem; color:var(--soft); }
.chip { border-radius:99px; padding:.08rem .55rem; background:var(--wash); color:var(--ink); }
.chip.bad { background:#fbe3d6; color:#7a2d00; } .chip.good { background:#d9f0e7; color:#00513b; }
.story mark { color:inherit; border-radius:.25rem; padding:0 .12em; background:#ffe6a8; } .story mark.word { background:#cfe6f7; }
.story mark.fault { background:#ffd0ba; border-bottom:2px solid #D55E00; }
.story mark.same { background:none; border-bottom:2px dotted var(--soft); border-radius:0; padding:0; }
.stories.answers { grid-template-columns:repeat(auto-fill,minmax(min(100%,18rem),1fr)); } .asked { margin:1.4rem 0 .5rem; font-weight:600; color:var(--ink); line-height:1.6; }
.dark .story mark { background:#6b5316; } .dark .story mark.word { background:#1f4a66; } .dark .story mark.fault { background:#7c3516; }
/* A shadow at an edge says that a table goes on there; it lies under what is as wide as the screen. */
.scroll { --ground:var(--body-background-fill); overflow-x:auto; background:linear-gradient(to right,var(--ground) 40%,transparent) left / 2.4rem 100% no-repeat local,
  linear-gradient(to left,var(--ground) 40%,transparent) right / 2.4rem 100% no-repeat local, linear-gradient(to right,rgba(90,60,30,.28),transparent) left / .7rem 100% no-repeat,
  linear-gradient(to left,rgba(90,60,30,.28),transparent) right / .7rem 100% no-repeat; }
.measures, .measures tr { border:0 !important; } .measures { border-collapse:collapse; width:100%; color:var(--ink); font-variant-numeric:tabular-nums; }
.measures th, .measures td { text-align:right; padding:.5rem .7rem; border:0 !important; border-bottom:1px solid var(--line) !important; white-space:nowrap; }
.measures th:first-child, .measures td:first-child { text-align:left; } .measures small { color:var(--soft); display:block; font-weight:400; }
.count { color:var(--soft); font-size:.86rem; }
#look .story .text { max-height:20rem; overflow-y:auto; }
.findings { list-style:none; margin:.5rem 0 0 !important; padding:0 !important; } .findings li { margin:.35rem 0; line-height:1.6; }
.faults td:last-child, .faults th:last-child { text-align:left; white-space:normal; }
#merge, #gguf { align-self:flex-end; }
.measures.arms { min-width:46rem; } .arms .note td { text-align:left; white-space:normal; color:var(--soft); font-size:.84rem; padding-top:0; } .arms td:first-child .chip { font-weight:400; white-space:nowrap; }
.command textarea, .command input { font-family:monospace; font-size:.86rem; }
.columns { gap:.9rem !important; } .columns > .column { gap:0; } .columns .block:has(.said) { background:var(--block-background-fill); padding:.2rem .8rem .6rem; } .in-line { color:var(--soft); margin:0; min-height:1.6em; line-height:1.6; }
/* A column's head stands above the stories, not over the first line of one that was scrolled. */
.teller .bubble-wrap { height:calc(100% - 2.4rem) !important; margin-top:2.4rem; }
.teller .bubble-wrap { background:none !important; }
.teller .wrapper > label { display:block !important; max-width:calc(100% - 5rem); overflow:hidden; text-overflow:ellipsis; white-space:nowrap; }
.teller .wrapper > label span { display:inline-block; vertical-align:-2px; margin-right:.4rem; }
.teller .message, .teller .prose { font-size:1.02rem; line-height:1.85; white-space:pre-wrap; word-break:keep-all; overflow-wrap:anywhere; }
/* As high as the longest usual note, whatever stands in it: nothing below moves while stories grow. */
.said { height:7rem; overflow-y:auto; color:var(--soft); font-size:.84rem; line-height:1.6; } .said p { margin:.1rem 0; overflow-wrap:anywhere; }
.said .who { color:var(--ink); font-weight:600; } .said .chips { display:flex; flex-wrap:wrap; gap:.3rem; }
.tally { border:1px solid var(--line); border-radius:12px; padding:.7rem 1rem; background:var(--paper); color:var(--ink); line-height:1.7; }
.tally ul { margin:.2rem 0 0 1.1rem; } .chip.pick { background:#e3e0f5; color:#2f2569; }
.chain { display:flex; align-items:stretch; gap:.6rem; margin:.4rem 0 .8rem; } .chain > div { flex:1 1 0; display:flex; flex-direction:column; gap:.5rem; justify-content:center; min-width:0; }
.chain .arrow { flex:0 0 auto; font-size:1.4rem; color:var(--soft); } .link { border:1px solid var(--line); border-radius:12px; padding:.6rem .8rem; background:var(--paper); color:var(--ink); overflow-wrap:anywhere; }
.link b, .link span, .link small { display:block; } .link b i { font-style:normal; margin-right:.25em; } .link small { color:var(--soft); } .link.made { border-width:2px; } .link.made.ok { border-color:#009E73; } .link.made.conditional { border-color:#E69F00; }
.link.made.unknown { border-color:#6b6b6b; border-style:dashed; } .link.made.blocked { border-color:#D55E00; border-style:double; border-width:4px; }
.measures tr.axis th { text-align:left; color:var(--soft); padding-top:1rem; } .duels small { display:block; color:var(--soft); }
footer { display:none !important; } #job:has(.job.idle) { display:none !important; } /* an idle job says nothing */
.modebar-container { display:none !important; } /* Plotly's own buttons: English alone; dragging zooms, a double click goes back */
.dark .tab-container button.selected { color:var(--accent) !important; } .dark .step.is-running i { background:#56B4E9; border-color:#56B4E9; }
.dark .block:has(.js-plotly-plot) { background:var(--paper) !important; } /* the charts' blue needs a dark ground */
/* A card's tables break between words, not between letters; what is too wide is moved sideways. */
.card table { display:block; overflow-x:auto; border:0 !important; padding:0 !important; } .card :is(th, td) { border-color:var(--line) !important; word-break:keep-all !important; overflow-wrap:break-word; }
.dark .js-plotly-plot text:not(.funnellayer *) { fill:var(--ink) !important; } /* what stands on a bar has the bar's ink */
.gradio-container dl dt { font-weight:600; margin-top:.7rem; } .gradio-container dl dd { margin:.1rem 0 0; color:var(--soft); overflow-wrap:anywhere; }
/* Gradio lets these rules reach only what stands inside its .contain. */
@media (max-width:640px) {
  .measures td { overflow-wrap:normal; } .measures td:first-child, .measures th:first-child { min-width:7.5rem; white-space:normal !important;
    position:sticky; left:0; background:var(--body-background-fill); }
  #bar { display:grid !important; grid-template-columns:minmax(0,7.5rem) 1fr; gap:.6rem !important; align-items:end; }
  #bar .form { display:contents; } #bar #run { grid-column:1 / -1; } #bar .block { border-radius:12px; }
  #cast > .form { flex-direction:column; } .teller { height:20rem !important; } .job { min-height:3.2rem; }
  .said { height:8.6rem; } #prompt textarea { min-height:4rem; } /* the hint takes two lines, a request may take one */ #ledger-page, #answer-page { flex-grow:1 !important; } #story-search { min-width:0 !important; }
  #ledger-search { order:1; flex-basis:100% !important; }
  /* The tabs in the first look: who holds a phone knows what it is. */
  #head { flex-wrap:nowrap !important; align-items:center; } #head > .column { min-width:0 !important; } #head > .column:last-child { flex:0 0 auto !important; }
  #drawers { gap:.4rem; flex-wrap:nowrap; }
  #drawers:has(.label-wrap.open) { flex-wrap:wrap; } #drawers > .block { padding:.55rem .6rem !important; }
  #drawers > .block > .label-wrap { font-size:.86rem; gap:.2rem; white-space:nowrap; }
  .step:is(.is-done, .is-empty, .is-running) small { position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); }
  .steps { gap:.22rem; } .step { position:relative; gap:.25rem; }
  #language .wrap { flex-wrap:nowrap; gap:.3rem; } #language label { padding:.3rem .5rem; }
  .masthead p, #bar .info-text { display:none !important; } .step { padding:.25rem .32rem; font-size:.77rem; } .step i { width:.5rem; height:.5rem; }
  .chain { flex-direction:column; } .chain .arrow { text-align:center; transform:rotate(90deg); }
  .tab-container button { padding:.6rem .2rem !important; font-size:.86rem !important; }
  .tab-container[role=tablist] button { flex:1 1 auto; justify-content:center; text-align:center; } #stop, #go-on { flex:1 1 100%; } #start-generate, #start-train { order:-1; }
  #votes > button, #again, #dice, #clear { flex:1 1 40%; } .row:has(> #start-train) { align-items:stretch; }
  .card :is(th, td) { padding:.35rem .5rem !important; font-size:.84rem; }
  .facts { gap:.45rem; } .facts div { flex-basis:6.4rem; padding:.45rem .6rem; } .facts b { font-size:1.2rem; }
  .column, .row { --layout-gap:.7rem; } .masthead h1 { font-size:1.2rem; }
  .measures th, .measures td { padding:.4rem .45rem; font-size:.84rem; }
  /* Teacher and both students in one look: intervals and names may break. */
  .measures.models td, .measures.models th { padding:.4rem .2rem; white-space:normal; } .measures.models td:first-child, .measures.models th:first-child { min-width:6.4rem; }
  .measures.models td:not(:first-child), .measures.models th:not(:first-child) { min-width:4.3rem; } .measures.models small { font-size:.7rem; } .measures.models th small { font-size:.62rem; }
}
"""


HEAD = """
<script>
// Enter that only confirms a half-composed Hangul syllable must not send. Safari ends the composition first and then
// tells the key with code 229.
for (const kind of ["keydown", "keypress", "keyup"])
  window.addEventListener(kind, e => {
    if (e.key === "Enter" && (e.isComposing || e.keyCode === 229)) e.stopImmediatePropagation();
  }, true);
// A link to a tab: anything with data-go, by mouse or keyboard.
document.addEventListener("click", e => {
  const go = e.target.closest("[data-go]");
  if (go) document.getElementById(`tab-${go.dataset.go}-button`)?.click();
});
</script>
"""
"""What the page runs besides Gradio: the guard of the input method and links between tabs."""


def theme() -> gr.themes.Base:
    """Soft shapes on warm paper; fonts of the machine, none fetched."""
    paper = gr.themes.Color(
        "#fffdf9",
        "#faf5ec",
        "#f3e9da",
        "#e8dac5",
        "#d3bfa5",
        "#a8937c",
        "#7a6a5c",
        "#5c4e44",
        "#433832",
        "#2f2724",
        "#211b19",
        name="paper",
    )
    clay = gr.themes.Color(
        "#fdf4ef",
        "#fae5da",
        "#f3c9b4",
        "#e9a685",
        "#d97f57",
        "#bb6138",
        "#a8502f",
        "#8a3f25",
        "#6c321f",
        "#54281a",
        "#3a1b12",
        name="clay",
    )
    return gr.themes.Soft(
        primary_hue=clay, secondary_hue=clay, neutral_hue=paper, font=FONTS, font_mono=["monospace"]
    ).set(
        body_background_fill="#fbf6ed",
        body_background_fill_dark="#211b19",
        button_primary_background_fill="#a8502f",
        button_primary_background_fill_hover="#8a3f25",
        button_primary_text_color="#ffffff",
        button_primary_background_fill_dark="#a8502f",
        block_label_text_color="#5c4e44",
        block_title_text_color="#5c4e44",
        block_info_text_color="#7a6a5c",
        body_text_color_subdued="#726259",
        body_text_color_subdued_dark="#b9a99a",
        color_accent="#a8502f",
        checkbox_label_background_fill_selected="#a8502f",
        checkbox_label_text_color_selected_dark="#ffffff",
        button_secondary_background_fill_dark="#5c4e44",
        button_secondary_background_fill_hover_dark="#8a3f25",
        button_primary_background_fill_hover_dark="#8a3f25",
        link_text_color_dark="#e9a685",
        checkbox_border_color="#8f8072",
        checkbox_border_color_hover="#7a6a5c",
        input_placeholder_color="#726259",
        input_placeholder_color_dark="#b9a99a",
        input_background_fill_dark="#2f2724",
        block_label_background_fill_dark="#8a3f25",
        block_title_background_fill="transparent",
        block_title_padding="0",
        block_label_background_fill="#f6ecdf",
        block_label_text_color_dark="#efe6da",
        block_title_text_color_dark="#efe6da",
        block_info_text_color_dark="#b9a99a",
    )
