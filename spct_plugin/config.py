"""The configuration: one YAML file, checked whole before anything runs.

    config = SPCTConfig.load("judge.yaml", overrides=["vote.k=16"])

Unknown keys are errors. Trainer arguments never stand here: they stay in the trainer's own files.
`docs/configuration.md` is generated from the docstrings below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from spct_plugin.config_file import Section, explain, problems, read_settings
from spct_plugin.engines import EngineConfig, Sampling
from spct_plugin.engines.builtin import TransformersConfig
from spct_plugin.errors import ConfigError
from spct_plugin.meta_rm import MetaRM, MetaRMConfig
from spct_plugin.meta_rm.builtin import TransformersMetaConfig
from spct_plugin.plugins import Registry, load_plugins
from spct_plugin.sections import (
    BudgetConfig,
    OpenRLHFConfig,
    ProbesConfig,
    RemoteConfig,
    RewardConfig,
    SamplingConfig,
    ServeConfig,
    StoreConfig,
    TemplateConfig,
    TRLConfig,
    VoteConfig,
)
from spct_plugin.templates import Template, load_meta_template, load_template
from spct_plugin.types import is_list, is_mapping
from spct_plugin.voting import Vote

NO_REWARD_SECTIONS = ("store", "trl", "openrlhf", "plugins", "server", "serve", "probes")
"""Sections that change no reward."""
JUDGE_SECTIONS = ("engine", "meta_rm", "template", "sampling", "budget")
"""Sections that say what the judge is; with `vote`, but for its deadline."""
NAMES_OF_PLUGINS = "a name from a plugin's file needs the file under `plugins:`"
"""Ends what is said of a name that nobody registered."""


def plugin_files(data: Mapping[str, Any], path: Path | None) -> tuple[Path, ...]:
    """Find a configuration's plugin files: relative to it.

    Raises:
        ConfigError: They are not given as a list of files.
    """
    files: Any = data.get("plugins") or []
    if not is_list(files) or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"plugins: expected a list of Python files, found {files!r}")
    home = path.parent if path is not None else Path()
    return tuple(home / file for file in files)


class SPCTConfig(Section):
    """The whole file. Every section may be left out; the default is the bundled tiny GRM."""

    plugins: tuple[Path, ...] = ()
    """Python files to load as plugins; relative to the configuration file."""
    engine: SerializeAsAny[EngineConfig] = TransformersConfig()
    """What answers the judge's prompts; `kind` decides which other keys there are."""
    meta_rm: SerializeAsAny[MetaRMConfig] | None = None
    """What scores judgements, so that only the best are voted; `kind` decides which other keys
    there are. null = all valid judgements are voted. Left out, the bundled GRM comes with the
    bundled meta RM (but for vote.stop: decided); every other engine has none."""
    template: TemplateConfig = TemplateConfig()
    """How a task becomes the judge's prompt, and on which scale it scores."""
    sampling: SamplingConfig = SamplingConfig()
    """How judgements are drawn."""
    vote: VoteConfig = VoteConfig()
    """How many judgements a group gets, and when that is enough."""
    reward: RewardConfig = RewardConfig()
    """From votes to what the trainer receives."""
    budget: BudgetConfig = BudgetConfig()
    """What of a completion the judge gets to read."""
    store: StoreConfig = StoreConfig()
    """Where votes are kept, so that a restart pays for nothing finished."""
    trl: TRLConfig = TRLConfig()
    """For the TRL adapter only."""
    openrlhf: OpenRLHFConfig = OpenRLHFConfig()
    """For the OpenRLHF adapters only."""
    server: RemoteConfig = RemoteConfig()
    """Where a reward server (`spct serve`) judges, instead of this process."""
    serve: ServeConfig = ServeConfig()
    """For `spct serve` only."""
    probes: ProbesConfig = ProbesConfig()
    """Known attacks and gold tasks, judged again and again while a policy trains."""

    @field_validator("engine", "meta_rm", mode="before")
    @classmethod
    def _by_kind(cls, value: object, info: ValidationInfo) -> object:
        """Read a section as the class that its `kind` was registered with."""
        if not is_mapping(value):
            return value
        registry: Registry = info.context or load_plugins()
        kinds = registry.engines if info.field_name == "engine" else registry.meta_rms
        kind = value.get("kind", "transformers")
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(
                f"expected kind: one of {sorted(kinds)}, found {kind!r}; {NAMES_OF_PLUGINS}"
            )
        try:
            return kinds[kind].model_validate(dict(value))
        except ValidationError as error:
            raise ValueError(problems(error)) from None

    @model_validator(mode="after")
    def _decided_without_meta_rm(self) -> Self:
        if self.meta_rm is not None:
            self.check_meta_rm_allowed()
        return self

    @model_validator(mode="after")
    def _judge_stands_in_one_place(self) -> Self:
        if self.server.url is None:
            return self
        vote = self.vote.model_copy(update={"deadline_s": None})
        default = SPCTConfig.model_construct()
        found = [name for name in JUDGE_SECTIONS if getattr(self, name) != getattr(default, name)]
        found += ["vote"] if vote != VoteConfig() else []
        if found:
            raise ValueError(
                f"server.url: a server judges, and what its own file says counts: leave out "
                f"{', '.join(found)}; of `vote` only deadline_s is this side's"
            )
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> SPCTConfig:
        """Read a YAML file and apply overrides to it.

        Args:
            path: The file; None = all defaults.
            overrides: "section.key=value", the value in YAML.

        Raises:
            ConfigError: The file cannot be read or does not describe a usable configuration.
            PluginError: A plugin file cannot be loaded.
        """
        path = Path(path) if path is not None else None
        data = read_settings(path, overrides)
        return cls.of(data, path, load_plugins(plugin_files(data, path)))

    @classmethod
    def of(cls, data: Mapping[str, Any], path: Path | None, registry: Registry) -> SPCTConfig:
        """Check what a file says.

        Args:
            data: What it says.
            path: The file, for messages and for the place of plugins; None = there is none.
            registry: What is registered.

        Raises:
            ConfigError: It does not describe a usable configuration.
        """
        try:
            config = cls.model_validate(
                {**data, "plugins": plugin_files(data, path)}, context=registry
            )
        except ValidationError as error:
            raise ConfigError(explain(error, path)) from None
        config.template_and_vote(registry)
        config.meta_template(registry)
        return config

    def template_and_vote(self, registry: Registry) -> tuple[Template, Vote]:
        """Find what the names stand for.

        Raises:
            ConfigError: Nobody registered the vote or the template, or they cannot be used so.
        """
        if self.vote.how not in registry.votes:
            known = sorted(registry.votes)
            raise ConfigError(
                f"vote.how: expected one of {known}, found {self.vote.how!r}; {NAMES_OF_PLUGINS}"
            )
        if self.vote.stop == "decided" and self.vote.how != "mean":
            raise ConfigError(
                f"vote.stop: 'decided' looks at means and cannot be used with vote.how: "
                f"{self.vote.how!r}; use 'settled' or 'never'"
            )
        name = self.template.name or self.engine.native_template
        if name not in registry.templates:
            return load_template(name, self.template.scale), registry.votes[self.vote.how]
        if self.template.scale is not None:
            raise ConfigError(
                f"template.scale: template {name!r} has its own scale "
                f"{list(registry.templates[name].scale)}; scales belong to template files"
            )
        return registry.templates[name], registry.votes[self.vote.how]

    def meta_template(self, registry: Registry) -> Template | None:
        """Find the template by which the meta RM is shown a task; None without a meta RM.

        Raises:
            ConfigError: There is no such template.
        """
        if self.meta_rm is None:
            return None
        name = self.meta_rm.template or self.meta_rm.native_template
        return load_meta_template(name, registry.templates)

    @property
    def is_bundled(self) -> bool:
        """Whether the bundled GRM judges: a toy that knows only its own toy world."""
        is_tiny = isinstance(self.engine, TransformersConfig) and self.engine.model == "tiny"
        return is_tiny and self.server.url is None

    def with_bundled_meta_rm(self) -> SPCTConfig:
        """Name the bundled meta RM where the bundled GRM judges and nothing is said about one."""
        said = "meta_rm" in self.model_fields_set
        if not self.is_bundled or said or self.vote.stop == "decided":
            return self
        return self.model_copy(update={"meta_rm": TransformersMetaConfig(model="tiny")})

    def build_meta_rm(self, registry: Registry) -> MetaRM | None:
        """Make the meta RM; None when none is configured.

        Raises:
            ConfigError: Its model or template cannot be used.
        """
        template = self.meta_template(registry)
        return self.meta_rm.build(template) if self.meta_rm and template else None

    def check_meta_rm_allowed(self) -> None:
        """Refuse a way to stop that a meta RM makes wrong.

        Raises:
            ConfigError: Votes stop when the best completion is decided.
        """
        if self.vote.stop == "decided":
            raise ConfigError(
                "vote.stop: 'decided' cannot be used with a meta RM, which may yet drop any vote; "
                "use 'settled'"
            )

    def sampling_for(self, template: Template) -> Sampling:
        """Give the sampling with the template's default length filled in."""
        tokens = self.sampling.max_tokens or (384 if template.name == "tiny" else 4096)
        return Sampling(self.sampling.temperature, self.sampling.top_p, tokens)

    def digest(self, wording: str = "") -> str:
        """Identify what changes a reward, the template's wording included: 8 hex digits."""
        data = self.model_dump(mode="json", exclude=set(NO_REWARD_SECTIONS))
        for key in self.engine.addresses:
            data["engine"].pop(key)
        # Without a meta RM nothing is left of it, so that versions from before there was one stay.
        meta_rm = data.pop("meta_rm")
        if self.meta_rm is not None:
            addresses = self.meta_rm.addresses
            data["meta_rm"] = {key: meta_rm[key] for key in meta_rm if key not in addresses}
        del data["reward"]["breaker"]
        text = json.dumps([data, wording], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
