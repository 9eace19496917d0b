"""The training itself: one student, its rows, TRL's trainer, and everything that watches over it.

What a training says goes to ``log.jsonl`` of its folder, what the student answers meanwhile to ``answers.jsonl``. It
goes on from a checkpoint with the same order of the rows, halves its micro-batch where memory runs out, and runs in
one process or, under ``accelerate launch``, in several that share the effective batch.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, prepare_model_for_kbit_training
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lab import fit
from lab.config import TrainConfig
from lab.models import SMALL, LocalModel, Sampling, open_model, out_of_memory
from lab.problems import Problem, Stopped
from lab.progress import Progress
from lab.records import Pair, append_rows, read_rows

PATIENCE = 3
"""Evaluations without a better held-out loss after which early stopping ends the training."""
RISING = 1.02
"""The last held-out loss over the best one from which the warning about overfitting is given."""
USUAL_SHARE = (0.004, 0.03)
"""Trained share of a LoRA: 0.44 % for rank 16 on q, k, v, o of Qwen2.5-0.5B; above 3 % it is hardly a small adapter."""
MOST_LOGITS = 2**27
"""Numbers in the logits of a micro-batch (half a gigabyte) up to which they are made at once on a CPU."""
WATCHED = 3
"""Requests of the test split that are answered at every evaluation."""
WATCHED_TOKENS = 96
"""Enough to see a story begin; three of them cost about as much as one step of training."""


def processes() -> int:
    """How many processes share this training: more than one under accelerate launch or torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_process() -> bool:
    """Whether this is the process that writes files and speaks."""
    return os.environ.get("RANK", "0") == "0"


def together(value: Any) -> Any:
    """The first process's ``value`` in every process; the others wait for it here."""
    if processes() == 1:
        return value
    PartialState(cpu=fit.pick_device().type == "cpu")
    box = [value]
    broadcast_object_list(box)
    return box[0]


@dataclass(frozen=True)
class Rows:
    """Token ids and labels (-100 where nothing is learned) of every pair, and how many were cut before their end."""

    ids: list[list[int]]
    labels: list[list[int]]
    cut: int

    def dataset(self) -> datasets.Dataset:
        """As the trainer takes it."""
        return datasets.Dataset.from_dict({"input_ids": self.ids, "labels": self.labels})


def conversation(pair: Pair) -> list[dict[str, str]]:
    """The pair as two turns of a chat."""
    return [{"role": "user", "content": pair.instruction}, {"role": "assistant", "content": pair.output}]


def encoded(student: LocalModel, pairs: Sequence[Pair], max_length: int) -> Rows:
    """The pairs in the student's chat format, the answer with its end token as the only thing to learn.

    Raises Problem when the chat template lets no answer end with an end token: such a student would never stop.
    A pair whose request alone fills ``max_length`` is left out.
    """
    ids, labels, cut, ended = [], [], 0, not pairs
    for pair in pairs:
        prompt = student.chat_ids(pair.instruction)
        text = student.tokenizer.apply_chat_template(conversation(pair), tokenize=False)
        whole = student.tokenizer(text, add_special_tokens=False).input_ids
        start = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        end = next((i for i in range(len(whole) - 1, start - 1, -1) if whole[i] in student.end_ids), None)
        if end is not None:
            ended, whole = True, whole[: end + 1]
        if start >= max_length:
            continue
        cut += len(whole) > max_length
        ids.append(whole[:max_length])
        labels.append(([-100] * start + whole[start:])[:max_length])
    if not ended:
        raise Problem(
            f"The chat template of {student.spec} puts no end token after an answer, so the student would never learn to stop. Choose an instruct model whose template ends its turns.",
            f"{student.spec} 모델의 대화 틀(chat template)은 답 끝에 종료 토큰을 붙이지 않아, 학생이 끝맺는 법을 배울 수 없습니다. 차례마다 종료 토큰을 붙이는 instruct 모델을 골라 주세요.",
        )
    return Rows(ids, labels, cut)


class Grouped(Sampler[int]):
    """Rows in effective batches of similar length, in an order that seed and epoch alone decide.

    The trainer's own length grouping draws from the global generator, so that a resumed training would see other
    batches. How an effective batch is cut into micro-batches or over devices changes nothing here.
    """

    WINDOW = 16
    """Effective batches that are sorted by length among themselves; more would make batches of one kind of story."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        whole = len(self) - len(self) % self.batch_size
        width = self.WINDOW * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, whole, width):
            window = sorted(order[start : min(start + width, whole)], key=lambda i: -self.lengths[i])
            batches += [window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)]
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[at]
        yield from sorted(order[whole:], key=lambda i: -self.lengths[i])


class _InGroups:
    """The order of rows and the count of tokens, for both trainers."""

    effective_batch: int

    def _get_train_sampler(self, train_dataset: Any = None) -> Grouped:
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        self.order = Grouped(lengths, self.effective_batch, self.args.data_seed)
        return self.order

    def count(self, inputs: dict[str, Any]) -> None:
        """Add the batch's tokens, padding left out, to what the log tells; TRL does so only in its own loss."""
        self._total_train_tokens += self.accelerator.gather(inputs["attention_mask"].sum()).sum().item()
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]


def answer_logits(model: Any, ids: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """(answer tokens, vocabulary): what a causal model expects at the positions before the ``learned`` tokens.

    The head sees these positions alone; a hook does that, as every call has to go through the wrapped model. ``ids`` are
    padded on the right, where no answer looks, so that attention needs no mask, which would slow it down.
    """
    inner = getattr(model, "module", model)
    hook = inner.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0][:, :-1][learned],))
    try:
        return model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()


class HardTrainer(_InGroups, SFTTrainer):
    """TRL's SFTTrainer: the teacher's words are the target.

    Off a GPU, TRL's head computes every position in tiles, in the backward pass again, with entropy and accuracy: for
    a small vocabulary that is half of a step. There the answer's logits are made at once; the loss is the same.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        learned = inputs["labels"][:, 1:] != -100
        if learned.is_cuda or learned.sum() * self.model.config.vocab_size > MOST_LOGITS or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logits = answer_logits(model, inputs["input_ids"], learned)
        total = torch.nn.functional.cross_entropy(logits.float(), inputs["labels"][:, 1:][learned], reduction="sum")
        if self.model.training:
            self.count(inputs)
        if num_items_in_batch is None:
            return total / learned.sum().clamp(min=1)
        return total / num_items_in_batch * self.accelerator.num_processes


class SoftTrainer(_InGroups, GKDTrainer):
    """TRL's GKDTrainer on the kept pairs: the teacher's distribution at every token of an answer is the target.

    Its held-out loss is the cross-entropy of the words, as in every other arm, so that arms can be compared.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self.model.training:
            return SFTTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
        learned = inputs["labels"][:, 1:] != -100
        with torch.no_grad():
            teacher = answer_logits(self.teacher_model, inputs["input_ids"], learned)
        student = answer_logits(model, inputs["input_ids"], learned)
        loss = self.generalized_jsd_loss(
            student.float(), teacher.float(), beta=0, num_items_in_batch=num_items_in_batch or learned.sum()
        )
        self.count(inputs)
        return loss * self.accelerator.num_processes if num_items_in_batch is not None else loss


def shared_vocabulary(student: LocalModel, teacher: LocalModel) -> bool:
    """Whether the same token ids mean the same text in both, and both distributions have the same length."""
    sizes = [m.model.config.get_text_config().vocab_size for m in (student, teacher)]
    return sizes[0] == sizes[1] and student.tokenizer.get_vocab() == teacher.tokenizer.get_vocab()


def open_teacher(spec: str, student: LocalModel, dtype: torch.dtype) -> LocalModel:
    """The teacher whose distribution is learned. Raises Problem when it speaks in other tokens."""
    teacher = open_model(spec, dtype=dtype)
    if not shared_vocabulary(student, teacher):
        raise Problem(
            f"Method soft needs one vocabulary, but {spec} and {student.spec} have different ones: their distributions cannot be compared token by token. Choose a student of the teacher's family, or use method lora.",
            f"soft 방법에는 교사와 학생의 어휘가 같아야 합니다. {spec}, {student.spec} 모델은 어휘가 달라 토큰별 분포를 견줄 수 없습니다. 같은 계열의 학생을 고르거나 lora 방법을 써 주세요.",
        )
    return teacher


def may_pack() -> bool:
    """Whether a base can be packed to 4 bits here: bitsandbytes is installed and there is a GPU."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


@dataclass(frozen=True)
class Task:
    """What is to be trained, where, on what: everything that stays the same when the trainer is built again."""

    folder: Path
    config: TrainConfig
    source: str
    """SPEC that is opened: the student's, or the folder of an untrained model."""
    teacher: str
    train: Sequence[Pair]
    test: Sequence[Pair]
    progress: Progress

    @property
    def adapter(self) -> bool:
        """Whether an adapter is trained on a frozen base."""
        return self.config.method in ("lora", "soft")

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def note(self, step: int, en: str, ko: str) -> None:
        """Something a person should know, for the tab, the terminal and the job."""
        if first_process():
            append_rows(self.log, [{"step": step, "note": {"en": en, "ko": ko}}])
            self.progress.note(en, ko)


def learn(task: Task, checkpoint: Path | None) -> dict[str, Any]:
    """Train to the end and save; the facts of done.json. Raises Stopped when asked to stop, Problem when it broke down.

    Out of memory halves the micro-batch and goes on from the step where it was.
    """
    at_most, before = 0, int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    while True:
        attempt = _Attempt(task, at_most)
        try:
            return attempt.run(checkpoint, before)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            checkpoint = attempt.save_here() or checkpoint
            at_most = attempt.halved()
        # The next attempt opens the student anew; both together would fit even less.
        del attempt
        gc.collect()
        torch.cuda.empty_cache()


class _Attempt:
    """A trainer with its student, built for one size of micro-batch."""

    def __init__(self, task: Task, at_most: int) -> None:
        config = task.config
        self.task, self.stopped = task, False
        device, self.precision = fit.device_and_precision()
        # Full fine-tuning keeps fp32 master weights; a frozen base may be half precision.
        dtype = self.precision.dtype if task.adapter else torch.float32
        self.student = open_model(task.source, dtype=dtype, four_bit=config.four_bit)
        teacher = open_teacher(task.teacher, self.student, self.precision.dtype) if config.method == "soft" else None
        self.parameters, self.revision = self.student.parameters, self.student.revision
        train, test = (encoded(self.student, pairs, config.max_length) for pairs in (task.train, task.test))
        if not train.ids:
            raise Problem(
                f"No request is shorter than {config.max_length} tokens, so there is no answer to learn. Raise the longest example.",
                f"지시문이 모두 {config.max_length}토큰보다 길어 배울 답이 남지 않습니다. 예제 최대 길이를 늘려 주세요.",
            )
        self.cut = train.cut
        size = fit.size_of(self.student.model.config, self.parameters)
        teacher_size = fit.size_of(teacher.model.config, teacher.parameters) if teacher else None
        longest = max(map(len, train.ids))
        # Weights are in memory already.
        free = fit.free_memory(device) + self.student.size_bytes + (teacher.size_bytes if teacher else 0)
        self.plan = fit.plan(size, config, longest, self.precision.dtype, free, processes(), teacher_size)
        rows = next(n for n in fit.divisors(config.batch_size // processes()) if n <= (at_most or self.plan.rows))
        self.rows = rows
        self.steps = fit.steps(len(train.ids), config)
        self.evaluates = bool(test.ids)
        self.trainer: Any = self._build(rows, train, test, teacher, bool(at_most) or self.plan.recompute, device.type)
        self.trained = [p for p in self.trainer.model.parameters() if p.requires_grad]
        for p in self.trained:
            p.data = p.data.float()
        assert all(p.dtype is torch.float32 for p in self.trained)
        self.learned = sum(p.numel() for p in self.trained)
        self.first, self.moved = _traces(self.trained), False

    def _build(
        self, rows: int, train: Rows, test: Rows, teacher: LocalModel | None, recompute: bool, device: str
    ) -> Any:
        task, config = self.task, self.task.config
        every = max(1, math.ceil(self.steps / config.evaluations))
        # Recomputing small layers on a CPU costs more than it saves.
        recompute = recompute and self.parameters >= SMALL
        datasets.disable_progress_bars()
        arguments: dict[str, Any] = {
            "output_dir": str(task.folder),
            "max_steps": self.steps,
            "per_device_train_batch_size": rows,
            "per_device_eval_batch_size": rows,
            "gradient_accumulation_steps": config.batch_size // processes() // rows,
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": "cosine",
            # A short training would end inside its warm-up.
            "warmup_steps": min(config.warmup_steps, self.steps // 4),
            "max_length": config.max_length,
            "packing": False,
            "seed": config.seed,
            "data_seed": config.seed,
            "bf16": self.precision.bf16,
            "fp16": self.precision.fp16,
            "use_cpu": self.precision.use_cpu,
            "gradient_checkpointing": recompute,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "eval_strategy": "steps" if self.evaluates else "no",
            "eval_steps": every,
            "save_strategy": "steps",
            "save_steps": every,
            "save_total_limit": 2,
            "load_best_model_at_end": self.evaluates,
            "metric_for_best_model": "eval_loss" if self.evaluates else None,
            "greater_is_better": False,
            "report_to": [],
            "disable_tqdm": True,
            "dataloader_pin_memory": device == "cuda",
            "ddp_find_unused_parameters": False,
        }
        model = self.student.model
        if config.four_bit:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=recompute)
        pad = self.student.tokenizer.pad_token_id
        given: dict[str, Any] = {
            "model": model,
            "processing_class": self.student.tokenizer,
            "train_dataset": train.dataset(),
            "eval_dataset": test.dataset() if self.evaluates else None,
            "data_collator": DataCollatorForLanguageModeling(self.student.end_ids[0] if pad is None else pad),
            "peft_config": LoraConfig(
                task_type="CAUSAL_LM",
                r=config.lora_r,
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                target_modules=fit.targets(config),
            )
            if task.adapter
            else None,
            "callbacks": [_Watcher(self), *([_stopper(task.log)] if config.early_stopping and self.evaluates else [])],
        }
        if teacher:
            # lmbda 0: on the kept pairs, not on what the student would write.
            soft = GKDConfig(**arguments, lmbda=0.0, beta=0.0, temperature=1.0, disable_dropout=False)
            trainer: Any = SoftTrainer(teacher_model=teacher.model, args=_one_device(soft), **given)
        else:
            trainer = HardTrainer(args=_one_device(SFTConfig(**arguments)), **given)
        trainer.effective_batch = config.batch_size
        # It prints to stdout, where a caller may expect nothing but one JSON object; TRL's card names no licence.
        trainer.remove_callback(PrinterCallback)
        trainer.create_model_card = lambda *_, **__: None
        return trainer

    def run(self, checkpoint: Path | None, before: int) -> dict[str, Any]:
        """Train, save, and tell; ``before`` steps were there when this process began."""
        task, trainer = self.task, self.trainer
        task.progress.begin("train", self.steps, int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
        if (short := self.plan.warning(self.student.device.type)) and checkpoint is None:
            task.note(0, short["en"], short["ko"])
        started = time.perf_counter()
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.state
        if self.stopped:
            raise Stopped
        if checkpoint is None and not self.moved:
            raise Problem(
                f"No weight has changed after {state.global_step} steps: not one optimizer step was taken. In fp16 this means that every step overflowed; lower the learning rate ({task.config.learning_rate:g}), or train on a device with bf16.",
                f"{state.global_step}단계를 지났지만 바뀐 가중치가 없습니다. 최적화 단계가 한 번도 적용되지 않았습니다. fp16에서는 매번 넘쳤다는 뜻이니 학습률({task.config.learning_rate:g})을 낮추거나 bf16을 쓰는 장치에서 학습해 주세요.",
            )
        self._save()
        rows = list(read_rows(task.log))
        losses = [r["loss"] for r in rows if "loss" in r]
        spent = sum(r.get("seconds", 0.0) for r in rows)
        share = self.learned / self.parameters
        held_out = state.best_metric
        if self.evaluates and held_out is None:
            held_out = trainer.evaluate()["eval_loss"]
        warnings = self._warnings(rows, share)
        for en, ko in warnings:
            task.note(state.global_step, en, ko)
        return {
            "steps": state.global_step,
            "train_loss": sum(losses) / len(losses) if losses else result.training_loss,
            "eval_loss": held_out,
            "best_step": int(state.best_model_checkpoint.rpartition("-")[2]) if state.best_model_checkpoint else None,
            "student_revision": self.revision,
            "parameters": self.parameters,
            "trainable": self.learned,
            "trainable_share": round(share, 5),
            "device": self.student.device.type,
            "precision": str(self.precision.dtype).removeprefix("torch."),
            "batch": f"{self.rows} x {task.config.batch_size // processes() // self.rows} x {processes()}",
            "tokens": next((r["tokens"] for r in reversed(rows) if "tokens" in r), 0),
            "seconds": round(spent or time.perf_counter() - started, 2),
            "resumed_at": before,
            "warnings": [{"en": en, "ko": ko} for en, ko in warnings],
        }

    def look_for_change(self) -> None:
        """Note that a step has changed the weights; the best checkpoint, loaded at the end, may be of a step without one."""
        # Weights that are spread over devices cannot be read here.
        self.moved = self.moved or self.trainer.is_fsdp_enabled or _traces(self.trained) != self.first

    def _warnings(self, rows: list[dict[str, Any]], share: float) -> list[tuple[str, str]]:
        """What a person should know of a training that went through."""
        found = []
        held_out = [(r["step"], r["eval_loss"]) for r in rows if "eval_loss" in r]
        if held_out:
            step, best = min(held_out, key=lambda x: x[1])
            last = held_out[-1][1]
            if last > best * RISING:
                found.append(
                    (
                        f"Overfitting: the held-out loss was lowest at step {step} ({best:.3f}) and rose to {last:.3f}. The student of step {step} is kept; fewer epochs or more pairs would help.",
                        f"과적합: 검증 손실이 {step}번째 단계에서 가장 낮았다가({best:.3f}) {last:.3f}까지 올랐습니다. {step}번째 단계의 학생을 남겼습니다. 에폭을 줄이거나 쌍을 늘려 보세요.",
                    )
                )
        told = share_warning(self.task.config, self.parameters, share) if self.task.adapter else None
        found += [told] if told else []
        if self.cut:
            found.append(
                (
                    f"{self.cut} of {len(self.task.train)} pairs were cut at {self.task.config.max_length} tokens, so their end was not learned. Raise the longest example.",
                    f"쌍 {len(self.task.train)}개 가운데 {self.cut}개가 {self.task.config.max_length}토큰에서 잘려 끝맺음을 배우지 못했습니다. 예제 최대 길이를 늘려 주세요.",
                )
            )
        return found

    def _save(self) -> None:
        """Adapter or model with its tokenizer; written aside first, as a folder that is there counts as trained."""
        target = self.task.folder / ("adapter" if self.task.adapter else "model")
        aside = target.with_name(f".{target.name}")
        if first_process():
            shutil.rmtree(aside, ignore_errors=True)
        if self.task.adapter:
            self.trainer.model.peft_config["default"].base_model_name_or_path = self.task.config.student
        self.trainer.save_model(str(aside))
        if first_process():
            for extra in ("README.md", "training_args.bin"):
                (aside / extra).unlink(missing_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)

    def save_here(self) -> Path | None:
        """A checkpoint of the last whole step; the weights are still as it left them."""
        step = self.trainer.state.global_step
        if step == 0:
            return None
        folder = self.task.folder / f"checkpoint-{step}"
        if not (folder / "trainer_state.json").exists():
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
        return folder

    def halved(self) -> int:
        """The next smaller micro-batch, with a word about it. Raises Problem when one row is too much."""
        task, step = self.task, self.trainer.state.global_step
        if self.rows == 1 or processes() > 1:
            raise Problem(
                f"Not enough memory for a micro-batch of {self.rows} rows. Shorten the longest example ({task.config.max_length} tokens), pack the base to 4 bits, or choose a smaller student or more devices; then train again.",
                f"메모리가 부족합니다(한 번에 {self.rows}개). 예제 최대 길이({task.config.max_length}토큰)를 줄이거나, 4비트로 압축하거나, 더 작은 학생이나 더 많은 장치를 고른 뒤 다시 학습해 주세요.",
            )
        rows = next(n for n in fit.divisors(task.config.batch_size) if n <= self.rows // 2)
        task.note(
            step,
            f"Out of memory at step {step}: micro-batch halved to {rows} rows, accumulation doubled; the effective batch stays {task.config.batch_size}.",
            f"{step}번째 단계에서 메모리가 부족해 한 번에 처리하는 행을 {rows}개로 줄이고 누적을 늘렸습니다. 실효 배치는 {task.config.batch_size} 그대로입니다.",
        )
        return rows


def _stopper(log: Path) -> EarlyStoppingCallback:
    """The trainer's early stopping; of a training that goes on it knows how long nothing has got better."""
    stopper = EarlyStoppingCallback(PATIENCE)
    held_out = [r["eval_loss"] for r in read_rows(log) if "eval_loss" in r]
    if held_out:
        stopper.early_stopping_patience_counter = len(held_out) - 1 - held_out.index(min(held_out))
    return stopper


def _one_device(arguments: Any) -> Any:
    """A process keeps to one GPU, however many it sees: more are for accelerate launch, and TRL refuses DataParallel."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def share_warning(config: TrainConfig, parameters: int, share: float) -> tuple[str, str] | None:
    """A word about an adapter that is unusually small or large for its base."""
    low, high = USUAL_SHARE
    # Of a small model any useful rank is a large share.
    if parameters < SMALL or low <= share <= high:
        return None
    return (
        f"The adapter trains {share:.2%} of the weights; {low:.1%} to {high:.0%} is usual. Look at LoRA rank {config.lora_r} and its layers.",
        f"어댑터가 전체 가중치의 {share:.2%}를 학습했습니다. 보통은 {low:.1%}~{high:.0%}입니다. LoRA 랭크({config.lora_r})와 층을 확인해 주세요.",
    )


def _traces(parameters: Sequence[torch.Tensor]) -> list[tuple[float, float]]:
    """Two numbers of each tensor that an optimizer step changes."""
    return [(p.detach().double().sum().item(), p.detach().double().norm().item()) for p in parameters]


class _Watcher(TrainerCallback):
    """Writes log.jsonl and answers.jsonl, tells the progress, hears a stop and refuses a broken loss."""

    def __init__(self, attempt: _Attempt) -> None:
        self.attempt, self.task = attempt, attempt.task
        self.at = time.perf_counter()
        # TRL counts its tokens from each start of the process.
        self.tokens = next((r["tokens"] for r in reversed(list(read_rows(self.task.log))) if "tokens" in r), 0)
        # The same three for every arm of the run.
        self.asked = [p.instruction for p in sorted(self.task.test, key=lambda p: p.id)[:WATCHED]]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.at = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The trainer says so itself, but not through accelerate's wrappers of a resumed epoch in several processes.
        self.attempt.trainer.order.set_epoch(int(state.epoch or 0))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "loss" not in logs:
            return
        loss = logs["loss"]
        if not math.isfinite(loss) or loss == 0:
            raise Problem(
                f"The loss became {loss} at step {state.global_step}: training has broken down. Lower the learning rate ({args.learning_rate:g}) and train again.",
                f"{state.global_step}번째 단계에서 손실 값이 {loss}: 학습이 망가졌습니다. 학습률({args.learning_rate:g})을 낮추고 다시 학습해 주세요.",
            )
        row = {k: logs[k] for k in ("loss", "learning_rate", "grad_norm") if k in logs}
        # fp16 finds its loss scale in the first steps by overflowing; JSON has no NaN.
        if not math.isfinite(row.get("grad_norm", 0)):
            row["grad_norm"] = None
        self._write(state, row | {"tokens": self.tokens + int(logs.get("num_tokens", 0)), "memory": _memory()})
        self.attempt.look_for_change()
        self.task.progress.step(state.global_step, stop=False, loss=loss)
        # Every step is logged, and the trainer looks whether to save right after.
        if together(self.task.progress.stopping) and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.attempt.stopped = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        self._write(state, {"eval_loss": metrics["eval_loss"]})
        # A model that is spread over devices answers only where all take part.
        if first_process() and not self.attempt.trainer.is_fsdp_enabled:
            self._answer(state.global_step)
        self.at = time.perf_counter()

    def _write(self, state: Any, row: dict[str, Any]) -> None:
        now = time.perf_counter()
        if first_process():
            append_rows(self.task.log, [{"step": state.global_step, **row, "seconds": round(now - self.at, 4)}])
        self.at = now

    def _answer(self, step: int) -> None:
        trainer, opened = self.attempt.trainer, self.attempt.student
        model = trainer.accelerator.unwrap_model(trainer.model)
        speaker = LocalModel(opened.spec, model, opened.tokenizer, opened.revision)
        with trainer.compute_loss_context_manager():
            answers = dict(
                speaker.write(self.asked, Sampling(0.0, 1.0, WATCHED_TOKENS), [0] * len(self.asked), WATCHED)
            )
        rows = [{"step": step, "instruction": q, "text": answers[i].text} for i, q in enumerate(self.asked)]
        append_rows(self.task.folder / "answers.jsonl", rows)


def _memory() -> int:
    """Bytes in use: the GPU's peak, or what this process holds."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss
