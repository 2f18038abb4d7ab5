"""The meta RM's training: a scalar model that tells right judgements from wrong ones.

    spct train meta-rm --config meta_rm.yaml

Pointwise binary cross-entropy on Eq. 10 labels, by transformers' own Trainer, as TRL has no trainer
for it. At the end AUC and calibration on the judgements held out.

Source: DeepSeek-GRM (arXiv:2504.02495), section 4 and App. C.
"""

# TRL exports its names lazily, and the trainer takes lists though it says data sets.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)
from trl import ModelConfig

from spct_plugin.budget import view_task
from spct_plugin.config import SPCTConfig
from spct_plugin.data.rows import BadRow
from spct_plugin.engines.tokenizer import ChatTokenizer
from spct_plugin.errors import ConfigError, TaskError
from spct_plugin.evaluation.quality import auc
from spct_plugin.meta_rm import meta_messages
from spct_plugin.plugins import load_plugins
from spct_plugin.templates import load_meta_template
from spct_plugin.training.calibration import calibration_error, reliability
from spct_plugin.training.trajectories import read_trajectories
from spct_trl_run import digest_of, model_name, note, run

Row = dict[str, Any]
"""{"input_ids": tokens, "labels": [1.0 for a right judgement, 0.0 for a wrong one]}"""


@dataclass
class MetaRMArguments:
    """What the meta RM's training asks for beside transformers' own keys."""

    trajectories: list[str] = field(
        default_factory=list, metadata={"help": "Files of spct sample; hinted rows are left out."}
    )
    eval_trajectories: list[str] = field(
        default_factory=list, metadata={"help": "Files of other tasks, for AUC and calibration."}
    )
    template: str = field(
        default="meta", metadata={"help": "How the task is shown before the judgement."}
    )
    pad_token: str | None = field(
        default=None,
        metadata={"help": "A token of the vocabulary, where the model pads with its end token."},
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={"help": "A model whose chat template to use, where this one has none."},
    )
    max_length: int = field(
        # Holds the paper's judgements (220 to 380 tokens, Fig. 7) and two long responses.
        default=4096,
        metadata={"help": "Longest example in tokens; longer ones are left out, never cut."},
    )


def train_meta_rm(script: MetaRMArguments, args: TrainingArguments, model: ModelConfig) -> None:
    """Train, save, and say how well it tells right from wrong.

    Raises:
        SPCTError: Data that cannot be used.
    """
    _refuse(model)
    name = model_name(model)
    chats = ChatTokenizer(
        name,
        padding_side="right",
        pad_token=script.pad_token,
        chat_template_path=script.chat_template_path,
        revision=model.model_revision,
    )
    chats.check_padding()
    config = SPCTConfig.load(os.environ.get("SPCT_CONFIG") or None)
    reader = Reader(chats, config, script.template, script.max_length)
    rows = reader.read(script.trajectories, "trajectories")
    held_out = reader.read(script.eval_trajectories, "eval_trajectories", both=False)
    if args.eval_strategy != "no" and not held_out:
        raise ConfigError("eval_strategy: expected eval_trajectories with judgements, found none")
    random.Random(args.seed).shuffle(rows)
    network = AutoModelForSequenceClassification.from_pretrained(
        name,
        num_labels=1,
        # With one label and no such word, transformers silently trains a squared error.
        problem_type="multi_label_classification",
        pad_token_id=chats.tokenizer.pad_token_id,
        revision=model.model_revision,
        attn_implementation=model.attn_implementation,
        dtype=model.dtype,
    )
    trainer = Trainer(
        model=network,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out or None,
        processing_class=chats.tokenizer,
    )
    run(trainer, {"model": name, "data": digest_of(rows)})
    if held_out:
        _report(trainer, held_out, Path(args.output_dir))


class Reader:
    """Reads trajectories into examples.

    Args:
        chats: Tokenizer of the model to be trained.
        config: Its budget says what of a completion is read; its plugins may bring templates.
        template: Shows the task before the judgement.
        max_length: Longest example in tokens.
    """

    def __init__(
        self, chats: ChatTokenizer, config: SPCTConfig, template: str, max_length: int
    ) -> None:
        self._chats = chats
        self._budget = config.budget
        known = load_plugins(config.plugins).templates
        self._template = load_meta_template(template, known, key="template")
        self._max_length = max_length

    def read(self, paths: Sequence[str], key: str, *, both: bool = True) -> list[Row]:
        """Read files.

        Args:
            paths: Of `spct sample`.
            key: The key that names them, for messages.
            both: Whether right and wrong ones are needed.

        Raises:
            TaskError: Nothing to learn from.
        """
        if both and not paths:
            raise ConfigError(f"{key}: expected files of spct sample, found none")
        found = [example for path in paths for example in self._examples(Path(path))]
        kept = [example for example in found if len(example["input_ids"]) <= self._max_length]
        if len(kept) < len(found):
            longest = max(len(example["input_ids"]) for example in found)
            note(
                f"left out {len(found) - len(kept)} of {len(found)} judgements longer than "
                f"max_length {self._max_length}; the longest has {longest} tokens"
            )
        if both and len({example["labels"][0] for example in kept}) < 2:
            raise TaskError(
                f"{key}: expected right and wrong judgements, found {len(kept)} that are all "
                "alike; take samples that are not hinted, before rejection"
            )
        return kept

    def _examples(self, path: Path) -> Iterator[Row]:
        for found in read_trajectories(path):
            if isinstance(found, BadRow):
                note(f"{found.within(path)}; left out")
                continue
            if found.hinted:
                continue
            task = view_task(
                found.task, self._budget.completion_view, self._budget.max_completion_chars
            )
            for judgement in found.judgements:
                if judgement.scores is not None and found.is_whole(judgement):
                    messages = meta_messages(self._template, task, judgement.order, judgement.text)
                    ids = self._chats.encode(messages, add_generation_prompt=False)
                    yield {"input_ids": ids, "labels": [float(found.is_right(judgement))]}


def _report(trainer: Trainer, rows: Sequence[Row], folder: Path) -> None:
    """Write AUC and calibration on judgements that were held out, and print them."""
    logits: Any = trainer.predict(rows).predictions
    if not trainer.is_world_process_zero():
        return
    scores = [float(logit) for logit in np.asarray(logits).reshape(-1)]
    correct = [bool(row["labels"][0]) for row in rows]
    bins = reliability(scores, correct)
    good = [score for score, right in zip(scores, correct, strict=True) if right]
    bad = [score for score, right in zip(scores, correct, strict=True) if not right]
    report = {
        "judgements": len(rows),
        "right": sum(correct) / len(correct),
        "auc": auc(good, bad),
        "calibration_error": calibration_error(bins),
        "bins": [asdict(one) for one in bins],
    }
    (folder / "meta_rm_report.json").write_text(json.dumps(report, indent=2) + "\n")
    note(
        f"held out: {len(rows)} judgements, {report['right']:.3f} right, AUC {report['auc']}, "
        f"calibration error {report['calibration_error']:.3f}; {folder / 'meta_rm_report.json'}"
    )


def _refuse(model: ModelConfig) -> None:
    """Name keys that another stage heeds and this one would ignore.

    Raises:
        ConfigError: One is set.
    """
    for key in ("use_peft", "load_in_4bit", "load_in_8bit"):
        if getattr(model, key):
            raise ConfigError(f"{key}: the meta RM is trained whole; leave it out")
