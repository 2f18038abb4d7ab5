"""The offline main job: TRL's GRPOTrainer trains the tiny policy by the tiny GRM's rewards alone.

    run_demo(Path("runs/demo"), steps=60).table()

The world's program, which no judge ever sees, compares the policies before and after.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from spct_plugin.config import SPCTConfig
from spct_plugin.engines import Engine, Request, Sampling
from spct_plugin.engines.builtin import TransformersConfig
from spct_plugin.errors import ConfigError
from spct_plugin.intervals import bootstrap_mean
from spct_plugin.report import Chart, Group, read_groups, write_report
from spct_plugin.report.charts import Series
from spct_plugin.tiny import MODELS
from spct_plugin.tiny.tasks import HELD_OUT
from spct_plugin.tiny.world import make_instruction, truth

RUN_FILES = {"policy", "store", "trainer"}
HELD_OUT_SEED, TRAINING_SEED = HELD_OUT, 7
# Longest completion: that of the world's own.
MAX_TOKENS = 24
# GRPO on the tiny policy. Beta as in DeepSeekMath (arXiv:2402.03300, section 4.2); the rest chosen
# by us by the truth on training prompts (docs/log.md).
GROUP, PROMPTS_PER_STEP, LEARNING_RATE, BETA = 4, 16, 3e-4, 0.04


@dataclass(frozen=True)
class DemoSettings:
    """What a demo run is.

    Attributes:
        steps: Updates of the policy.
        k: Votes per group of four completions; the meta RM keeps half of them.
        prompts: Held-out prompts on which the policies are compared.
        samples: Completions per held-out prompt and policy.
        seed: Of the training run.
        permuted: The control: rewards are permuted inside each group, so nothing can be learnt.
    """

    steps: int = 20
    k: int = 8
    prompts: int = 200
    samples: int = 2
    seed: int = 0
    permuted: bool = False


@dataclass(frozen=True)
class DemoResult:
    """What came out: truth in [0, 1], the share of an instruction's constraints that is satisfied.

    Attributes:
        before: Mean truth of the policy before training.
        before_interval: Its 95 % interval; all intervals are bootstrapped over prompts.
        after: Mean truth of the policy after training.
        after_interval: Its 95 % interval.
        gain: Mean difference per prompt.
        interval: The 95 % interval of the gain.
        prompts: Held-out prompts.
        steps: Updates.
        k: Votes per group.
        permuted: Whether rewards were permuted.
        seconds: Wall time of all of it.
    """

    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    gain: float
    interval: tuple[float, float]
    prompts: int
    steps: int
    k: int
    permuted: bool
    seconds: float

    def table(self) -> str:
        """Lay the comparison out for a terminal."""
        judge = f"the tiny GRM, k = {self.k}, of which the tiny meta RM keeps half"
        rewards = "permuted inside each group" if self.permuted else judge
        return "\n".join(
            [
                f"rewards            {rewards}",
                f"updates            {self.steps}",
                f"held-out prompts   {self.prompts}",
                f"truth before        {_with_interval(self.before, self.before_interval)}",
                f"truth after         {_with_interval(self.after, self.after_interval)}",
                f"gain               {_with_interval(self.gain, self.interval, '+')}",
                f"seconds            {self.seconds:.0f}",
            ]
        )


def run_demo(
    folder: Path,
    settings: DemoSettings | None = None,
    *,
    report: Path | None = None,
    advance: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> DemoResult:
    """Train, compare, report.

    Args:
        folder: For the trained policy and the store; what an earlier run left there goes.
        settings: What to run.
        report: Where to write the HTML page; None = nowhere.
        advance: Called with what is going on, how much is done, of how much.

    Raises:
        ConfigError: The folder holds files of somebody else.
        RewardError: Most judgements failed.
    """
    settings = settings or DemoSettings()
    start = time.perf_counter()
    _clear(folder)
    prompts = _instructions(HELD_OUT_SEED, settings.prompts)
    advance("asking the policy before", 0, 1)
    before = _truths(MODELS / "policy", prompts, settings)
    _train(folder, settings, advance)
    advance("asking the policy after", 0, 1)
    after = _truths(folder / "policy", prompts, settings)
    gains = [b - a for a, b in zip(before, after, strict=True)]
    mean_before, before_interval = bootstrap_mean(before)
    mean_after, after_interval = bootstrap_mean(after)
    gain, interval = bootstrap_mean(gains)
    result = DemoResult(
        before=mean_before,
        before_interval=before_interval,
        after=mean_after,
        after_interval=after_interval,
        gain=gain,
        interval=interval,
        prompts=settings.prompts,
        steps=settings.steps,
        k=settings.k,
        permuted=settings.permuted,
        seconds=time.perf_counter() - start,
    )
    if report is not None:
        _write_report(result, folder, report)
    return result


def _clear(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from None
    found = {path.name for path in folder.iterdir()}
    if strangers := sorted(found - RUN_FILES):
        raise ConfigError(
            f"expected an empty folder or that of an earlier demo in {str(folder)!r}, found "
            f"{strangers[0]!r}; choose another --folder"
        )
    for name in found:
        shutil.rmtree(folder / name)


def _write_report(result: DemoResult, folder: Path, report: Path) -> None:
    """Write the HTML page of a finished run."""
    groups = read_groups(folder / "store")
    write_report(
        groups,
        report,
        title="spct demo",
        summary={
            "truth before": _with_interval(result.before, result.before_interval),
            "truth after": _with_interval(result.after, result.after_interval),
            "gain": _with_interval(result.gain, result.interval, "+"),
            "held-out prompts": str(result.prompts),
        },
        charts=[_truth_chart(groups)],
    )


def _with_interval(mean: float, ends: tuple[float, float], sign: str = "") -> str:
    low, high = (f"{end:{sign}.3f}" for end in ends)
    return f"{mean:{sign}.3f}  [{low}, {high}]  (95 %)"


def _instructions(seed: int, count: int) -> list[str]:
    """Write instructions; another seed, other instructions."""
    rng = Random(seed)
    return [make_instruction(rng).text for _ in range(count)]


def _train(folder: Path, settings: DemoSettings, advance: Callable[[str, int, int], None]) -> None:
    """Run GRPO on the tiny policy and save it in `folder`/policy."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    import spct_trl

    config = SPCTConfig.model_validate(
        {
            "engine": {"kind": "transformers", "model": "tiny"},
            "vote": {"k": settings.k},
            "store": {"path": str(folder / "store")},
        }
    )
    reward: Any = spct_trl.make_reward(config)
    prompts = _instructions(TRAINING_SEED, settings.steps * PROMPTS_PER_STEP)
    rows = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts]
    trainer = GRPOTrainer(
        model=str(MODELS / "policy"),
        reward_funcs=_permuting(reward, settings.seed) if settings.permuted else reward,
        args=GRPOConfig(
            output_dir=str(folder / "trainer"),
            max_steps=settings.steps,
            seed=settings.seed,
            per_device_train_batch_size=PROMPTS_PER_STEP * GROUP,
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            beta=BETA,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            cache_implementation="static",
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(MODELS / "policy"),
        callbacks=[_progress(advance)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder / "policy"))


def _permuting(reward: Any, seed: int) -> Any:
    """Wrap the judge's reward so that inside each group it belongs to nobody in particular."""
    rng = Random(seed)

    async def permuted_reward(**keywords: Any) -> list[float | None]:
        rewards = await reward(**keywords)
        for start in range(0, len(rewards), GROUP):
            group = rewards[start : start + GROUP]
            rng.shuffle(group)
            rewards[start : start + GROUP] = group
        return rewards

    return permuted_reward


def _progress(advance: Callable[[str, int, int], None]) -> Any:
    """Make a trainer callback that reports every update."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Progress(TrainerCallback):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
        ) -> None:
            advance("training", state.global_step, state.max_steps)

    return Progress()


def _truths(path: Path, prompts: Sequence[str], settings: DemoSettings) -> list[float]:
    """Let a policy answer every prompt; give each prompt's mean truth over the samples."""
    from spct_plugin.engines.transformers import TransformersEngine

    engine = TransformersEngine(TransformersConfig(model=str(path), dtype="float32"))
    answers = asyncio.run(_answers(engine, prompts, settings))
    return [
        sum(truth(prompt, text) for text in texts) / len(texts)
        for prompt, texts in zip(prompts, answers, strict=True)
    ]


async def _answers(
    engine: Engine, prompts: Sequence[str], settings: DemoSettings
) -> list[list[str]]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=MAX_TOKENS)
    votes = tuple(range(settings.samples))
    choices = await asyncio.gather(
        *(engine.generate(Request(prompt, votes, sampling, HELD_OUT_SEED)) for prompt in prompts)
    )
    return [[choice.text for choice in answers] for answers in choices]


def _truth_chart(groups: Sequence[Group]) -> Chart:
    """Draw the truth of what the policy wrote in training, which neither it nor the judge saw."""
    steps: dict[int, list[float]] = {}
    for group in groups:
        truths = [truth(group["prompt"][-1]["content"], text) for text in _texts(group)]
        steps.setdefault(group["step"], []).extend(truths)
    ys = [sum(values) / len(values) for values in steps.values()]
    return Chart(
        "Truth",
        "Share of the instructions' constraints that the completions of a step satisfy, by the "
        "world's program. No reward is made of it.",
        [Series("truth", list(steps), ys)],
    )


def _texts(group: Group) -> list[str]:
    return [c if isinstance(c, str) else c[-1]["content"] for c in group["completions"]]
