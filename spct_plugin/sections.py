"""The sections of the configuration, each with its keys, their meaning and why they are so.

`config.SPCTConfig` puts them together; those of engines and meta RMs stand with these.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from spct_plugin.budget import View
from spct_plugin.config_file import Section
from spct_plugin.shaping import OnFailure, Scale

RUN_NAME = r"^[A-Za-z0-9._:/-]{0,128}$"


class TemplateConfig(Section):
    """How a task becomes the judge's prompt, and on which scale it scores."""

    name: str | None = None
    """"default", "single", "tiny", a plugin's template, or a path to a Jinja file; null = what the
    engine's model was trained on ("tiny" for the bundled GRM, else "default")."""
    scale: tuple[int, int] | None = None
    """Lowest and highest score of a template file; null = 1..10 (paper Eq. 7). Bundled templates
    and those of plugins have their own."""
    nonce: bool = True
    """Put an unforgeable code into the delimiters. Off for the released DeepSeek-GRM checkpoints,
    which expect the plain structure. The tiny template has no delimiters."""

    @field_validator("scale")
    @classmethod
    def _low_to_high(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"expected [lowest, highest], found {list(value)}")
        return value


class SamplingConfig(Section):
    """How judgements are drawn."""

    temperature: float = Field(default=0.5, ge=0)
    """0.5: the paper's value for voting (App. D); 0 is greedy: one vote per distinct order."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """1.0: the paper mentions no nucleus."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest judgement; null = 384 with the tiny template, else 4096. Chosen by us: the paper's
    judgements have 220 to 380 tokens on average (Fig. 7); the rest is room for reasoning."""
    seed: int = 0
    """Seeds orders, splits and the engine's sampling."""


class VoteConfig(Section):
    """How many judgements a group gets, and when that is enough."""

    k: int = Field(default=8, ge=1)
    """Most votes per group. 8: the paper's smaller setting; it gains most of what 32 gains."""
    how: str = "mean"
    """The vote: "mean" or a plugin's."""
    stop: Literal["never", "settled", "decided"] = "never"
    """never: always k votes. settled: stop when the advantages' standard error is small against the
    group's spread, or there is no spread to be found. decided: stop when no later vote can change
    the best completion."""
    k_min: int = Field(default=4, ge=1)
    """Votes before the first look, rounded up so that every completion stands in every position
    once. 4: chosen by us, as a variance from fewer than 4 votes is mostly noise."""
    tolerance: float = Field(default=0.25, gt=0)
    """For settled: largest standard error of an advantage, as a share of the group's spread. 0.25:
    chosen by us; it stays under the spread that sampling another group of completions adds."""
    min_spread: float = Field(default=0.5, ge=0)
    """For settled: spread in points under which a group has nothing to tell. 0.5: chosen by us,
    half a step of the 1..10 scale."""
    list_size: int | None = Field(default=None, ge=1)
    """Most completions in one prompt; larger groups are split at random, differently per vote."""
    k_meta: int | None = Field(default=None, ge=1)
    """Votes that the meta RM keeps of the valid ones; null = half of all (the paper's k/2)."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Longest time for one step: one call of `score` or of the trainer's reward function; in
    OpenRLHF, which shows no steps, one group. Votes that are late are missing, never zero, and the
    meta RM scores nothing after it. Files and streams have no steps and no deadline."""


class GrmReward(Section):
    """The judge's reward as one summand."""

    grm: Mapping[str, Any] = Field(max_length=0)
    """Always {}: marks the entry as the judge's."""
    weight: float = 1.0
    """Factor of the judge's reward."""


class RuleReward(Section):
    """A rule beside the judge as one summand."""

    path: str
    """"module:function" or "file.py:function"; called with TRL's keywords, returns one number or
    None (adds nothing) per completion."""
    weight: float = 1.0
    """Factor of the rule's number."""

    @field_validator("path")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        if not all(value.rpartition(":")[::2]):
            raise ValueError(f"expected 'module:function' or 'file.py:function', found {value!r}")
        return value


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _entry_kind(value: object) -> str:
    is_grm = "grm" in value if isinstance(value, Mapping) else isinstance(value, GrmReward)
    return "grm_entry" if is_grm else "rule_entry"


RewardEntry = Annotated[
    Annotated[GrmReward, Tag("grm_entry")] | Annotated[RuleReward, Tag("rule_entry")],
    Discriminator(_entry_kind),
]


class BreakerConfig(Section):
    """When a training step has lost too many judgements to be worth a gradient."""

    infrastructure: float = Field(default=0.5, ge=0, le=1)
    """Largest share of a step's judgements lost to infrastructure; 1 never stops. 0.5: chosen by
    us: below it, groups keep votes enough to rank; a run that went on at 91.6 % is known."""
    judge: float = Field(default=0.9, ge=0, le=1)
    """Largest share of the judgements that came which may hold no scores; 1 never stops. 0.9:
    chosen by us, as an untrained judge may well start with few parsable answers."""


class RewardConfig(Section):
    """From votes to what the trainer receives."""

    scale: Scale = "mean"
    """mean: 1..10. sum: mean x k (paper Eq. 14). unit: mapped to [0, 1]. rank: share of siblings
    beaten, in [0, 1]."""
    rewards: tuple[RewardEntry, ...] = (GrmReward(grm={}),)
    """Summands of the reward; exactly one is the judge's. Without the judge's there is no sum."""
    on_failure: OnFailure = "abstain"
    """What a completion without a valid judgement gets. abstain: None, which TRL leaves out of the
    baseline. group_mean: its siblings' mean. drop_group: its siblings get none either. stop: end
    the run."""
    breaker: BreakerConfig = BreakerConfig()
    """When to stop the run instead of training on what is left."""

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        judges = sum(isinstance(entry, GrmReward) for entry in self.rewards)
        if judges != 1:
            raise ValueError(f"expected exactly one entry with 'grm: {{}}', found {judges}")
        return self


class BudgetConfig(Section):
    """What of a completion the judge gets to read."""

    completion_view: View = "answer"
    """answer: the text after the last </think>. full: everything."""
    max_completion_chars: int | None = Field(default=None, ge=100)
    """Longer completions keep head and tail, with a note on what was left out between them."""


class StoreConfig(Section):
    """Where votes are kept, so that a restart pays for nothing finished."""

    path: Path | None = None
    """A directory, shared by all processes of a run; null = keep nothing."""


class TRLConfig(Section):
    """For the TRL adapter only."""

    columns: dict[str, str] = Field(default_factory=dict[str, str])
    """Dataset columns to use, by our name: `reference` and `principles`."""
    group_size: int | None = Field(default=None, ge=1)
    """Completions per prompt in training; null = ask the trainer, else see from the prompts."""
    gather_timeout_s: float = Field(default=1800.0, gt=0)
    """Longest wait for the other ranks' judging. 1800: torch's own default for gloo."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(value) - {"reference", "principles"})
        if unknown:
            raise ValueError(f"expected the keys 'reference' and 'principles', found {unknown}")
        return value


class OpenRLHFConfig(Section):
    """For the OpenRLHF adapters only."""

    fallback: Literal["group_mean", "drop_group"] | None = None
    """What `reward.on_failure: abstain` becomes, as OpenRLHF knows no missing reward; null =
    abstain is refused there. Where nothing of a group is known, all get the middle of the scale."""
    scores: Literal["mean", "spread"] = "mean"
    """What dynamic filtering looks at, in [0, 1]. mean: the voted score. spread: the standard
    deviation of the group's voted scores as a share of the scale, at most 0.5."""
    prompts: Literal["chat", "text"] = "chat"
    """What OpenRLHF hands over. chat: prompts rendered by the policy's chat template, as with
    --data.apply_chat_template. text: plain texts. Messages in the label come before both."""
    tokenizer: str | None = None
    """The policy's, a folder or a hub id. For the reward file only, which sees no tokens."""
    breaker_window: int = Field(default=8, ge=1)
    """Groups that the breaker looks back on, as OpenRLHF shows no steps; reward file: completions.
    8: chosen by us, about what one vLLM engine gets in a step."""


class RemoteConfig(Section):
    """Where a reward server (`spct serve`) judges, instead of this process."""

    url: str | None = None
    """Such as http://judge:8700; null = judge here. What the judge is stands in the server's own
    file then: of `vote` only `deadline_s` may be set here, of engine, meta_rm, template, sampling
    and budget nothing."""
    token_env: str | None = None
    """Name of the environment variable that holds the server's token; no file ever holds it."""
    run: str = Field(default="", pattern=RUN_NAME)
    """Name of this run, to which the server allows a share of itself and gives turns; those without
    a name are one run."""
    max_in_flight: int = Field(default=256, ge=1)
    """Groups at once. 256: as many as the server judges at once by default."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for a connection. 10: as for an engine."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest time for one try; the next one asks for the same judging, not for a second. 600: as
    for an engine."""
    patience_s: float = Field(default=900.0, gt=0)
    """Longest time for one group, all tries together; afterwards it is lost to infrastructure. 900:
    chosen by us: a large judge's start, and half of `trl.gather_timeout_s`."""

    @field_validator("url")
    @classmethod
    def _http_only(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"expected http://host:port, found {value!r}")
        return value and value.rstrip("/")


class ServeConfig(Section):
    """For `spct serve` only."""

    host: str = "127.0.0.1"
    """Address to listen on; any but a loopback one requires a token."""
    port: int = Field(default=8700, ge=0, le=65535)
    """0 = any free one. 8700: chosen by us, apart from vLLM's 8000."""
    token_env: str | None = None
    """Name of the environment variable that holds the token, at least 16 characters; null = none,
    and then no admin calls."""
    hosts: tuple[str, ...] = ()
    """Names by which clients call this server, beside addresses, localhost and the machine's own
    name; others are refused (DNS rebinding)."""
    body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Longest body of a request. 16 MiB: chosen by us, 64 groups of 64 completions of 4,096
    characters."""
    groups: int = Field(default=64, ge=1)
    """Most groups in one request. 64: chosen by us; our own client sends one."""
    completions: int = Field(default=128, ge=1)
    """Most completions in a group. 128: chosen by us; GRPO samples 4 to 64."""
    text_chars: int = Field(default=500_000, ge=1)
    """Longest prompt, completion or reference, in characters. 500,000: chosen by us, about 128,000
    tokens of English."""
    at_once: int = Field(default=256, ge=1)
    """Groups judged at once. 256: as for files, enough to keep 512 requests in flight."""
    waiting: int = Field(default=4096, ge=0)
    """Most accepted groups beyond those; then 429. 4096: chosen by us. OpenRLHF's client ends its
    run after five refusals and posts every sample alone: keep room for a whole rollout batch."""
    per_run: int = Field(default=2048, ge=1)
    """Most accepted groups of one run (`run` in a request; without one, all share it). 2048: chosen
    by us, half of what waits, so that one run leaves room for another."""
    drain_s: float = Field(default=600.0, gt=0)
    """Longest wait for accepted groups after SIGTERM. 600: an engine's longest try."""
    keep_answers_s: float = Field(default=3600.0, gt=0)
    """How long the answer to a request id is kept. 3600: chosen by us; clients give up sooner."""
    probe_s: float = Field(default=5.0, gt=0)
    """Wait between two trial judgements while the server is not ready. 5: chosen by us."""

    @model_validator(mode="after")
    def _token_where_others_reach(self) -> Self:
        if not is_loopback(self.host) and self.token_env is None:
            raise ValueError(
                f"host {self.host!r} can be reached from other machines: expected token_env, the "
                "name of an environment variable that holds a token; or listen on 127.0.0.1"
            )
        return self


class ProbesConfig(Section):
    """Known attacks and gold tasks, judged again and again while a policy trains."""

    every: int | None = Field(default=None, ge=1)
    """Steps from one measurement to the next; the first is in the first step. In OpenRLHF, which
    shows no steps, groups of one vLLM engine; reward file: completions. null = no probes, as each
    measurement costs about as much as 40 groups, and the gold tasks."""
    gold: Path | None = None
    """Labelled tasks (JSONL) with two or more completions; attacks take place in them too. null =
    only attacks, in the scenes of `spct redteam`: which answers are right depends on your task."""
    max_rise: float = Field(default=1.0, gt=0)
    """Largest rise of the attacks' mean gain, in points of the scale 1..10. 1.0: from there on the
    red team calls a single attack a success."""
    max_probe_rise: float = Field(default=4.5, gt=0)
    """Largest rise of a single attack's gain, in points of the scale 1..10: one that begins to work
    hardly moves the mean of 19. 4.5: chosen by us, half of the scale. Votes that scatter by 1.4, as
    the tiny GRM's, lift one of 19 as far by chance in 0.5 % of measurements with k = 8, 5 % with 4:
    take more where votes are few or scatter more."""
    max_fall: float = Field(default=0.1, gt=0, le=1)
    """Largest fall of the share of gold tasks judged right. 0.1: chosen by us, twice the standard
    error of a judge that is right on 90 % of 50 tasks, rounded up."""
    stop: bool = False
    """End the run when one of these is passed, instead of only warning. false: a warning loses
    nothing, and judges that draw their answers differ a little by themselves."""

    @model_validator(mode="after")
    def _gold_is_used(self) -> Self:
        if self.gold is not None and self.every is None:
            raise ValueError("expected `every` with gold: how many steps between two measurements")
        return self
