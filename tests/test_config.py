"""The configuration: one YAML file, wrong ones refused in one line that names the key."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from spct_plugin import ConfigError, PluginError, SPCTConfig
from spct_plugin.config_file import Section
from spct_plugin.config_reference import reference, schema
from spct_plugin.engines import EngineConfig, Sampling
from spct_plugin.engines.builtin import OpenAIConfig, ReplayConfig, TransformersConfig
from spct_plugin.meta_rm import MetaRMConfig
from spct_plugin.meta_rm.builtin import ClassifyConfig, TransformersMetaConfig
from spct_plugin.plugins import load_plugins
from spct_plugin.templates import load_meta_template, load_template

FULL = """
engine:
  kind: openai
  url: http://localhost:8000/v1/
  model: grm
  revision: "3"
meta_rm: {kind: classify, url: "http://localhost:8001/v1", model: meta, revision: "1"}
template: {name: single, nonce: false}
sampling: {temperature: 1.0, max_tokens: 2000}
vote: {k: 16, stop: settled, deadline_s: 30}
reward:
  scale: rank
  on_failure: drop_group
  rewards: [{grm: {}, weight: 2}, {path: "rules.py:short", weight: 0.5}]
  breaker: {infrastructure: 0.2}
budget: {completion_view: full, max_completion_chars: 1000}
store: {path: runs/a}
trl: {columns: {reference: solution}, group_size: 8}
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "judge.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_default_is_the_bundled_judge():
    config = SPCTConfig()
    assert config.engine == TransformersConfig()
    assert (config.vote.k, config.sampling.temperature) == (8, 0.5)
    assert (config.vote.stop, config.reward.scale, config.reward.on_failure) == (
        "never",
        "mean",
        "abstain",
    )
    assert config.store.path is None
    assert config.meta_rm is None
    assert SPCTConfig.load() == config


def test_an_empty_file_is_the_default(file):
    assert SPCTConfig.load(file("")) == SPCTConfig()
    assert SPCTConfig.load(file("# nothing\n")) == SPCTConfig()


def test_a_whole_file_is_read(file):
    config = SPCTConfig.load(file(FULL))
    assert isinstance(config.engine, OpenAIConfig)
    assert config.engine.url == ("http://localhost:8000/v1",)
    assert config.engine.revision == "3"
    assert isinstance(config.meta_rm, ClassifyConfig)
    assert config.meta_rm.url == ("http://localhost:8001",)
    assert (config.template.name, config.template.nonce) == ("single", False)
    assert (config.vote.k, config.vote.stop, config.vote.deadline_s) == (16, "settled", 30.0)
    assert [type(entry).__name__ for entry in config.reward.rewards] == ["GrmReward", "RuleReward"]
    assert config.reward.breaker.infrastructure == 0.2
    assert config.reward.breaker.judge == 0.9
    assert config.store.path == Path("runs/a")
    assert config.trl.columns == {"reference": "solution"}


OVERRIDES = {
    "number": ("vote.k=16", lambda c: c.vote.k == 16),
    "text": ("vote.stop=settled", lambda c: c.vote.stop == "settled"),
    "null": ("sampling.max_tokens=null", lambda c: c.sampling.max_tokens is None),
    "list": ("reward.rewards=[{grm: {}, weight: 2}]", lambda c: c.reward.rewards[0].weight == 2),
    "section": ("vote={k: 2, k_min: 1}", lambda c: (c.vote.k, c.vote.k_min) == (2, 1)),
    "deep": ("reward.breaker.judge=0.5", lambda c: c.reward.breaker.judge == 0.5),
    "equals in the value": ("engine.model=a=b", lambda c: c.engine.model == "a=b"),
    "boolean": ("template.nonce=false", lambda c: c.template.nonce is False),
}


@pytest.mark.parametrize(("override", "holds"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_an_override_sets_one_key(override, holds):
    assert holds(SPCTConfig.load(overrides=[override]))


def test_overrides_win_over_the_file_and_later_ones_over_earlier(file):
    path = file("vote: {k: 2, k_min: 3}")
    config = SPCTConfig.load(path, ["vote.k=4", "vote.k=5"])
    assert (config.vote.k, config.vote.k_min) == (5, 3)


BAD_OVERRIDES = {
    "no equals": ("vote.k", "expected an override like vote.k=16, found 'vote.k'"),
    "no key": ("=5", "expected an override like"),
    "no YAML": ("vote.k=[1", "the value is not YAML"),
    "an impossible date": ("engine.revision=2024-99-99", "the value is not YAML|2024"),
    "into a value": ("vote.k.x=1", "vote.k: .* found {'x': 1}"),
    "unknown section": ("votes.k=1", "votes: unknown key"),
    "unknown key": ("vote.kk=1", "vote.kk: unknown key"),
    "empty part": ("vote..k=1", "unknown key"),
}


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES.values(), ids=BAD_OVERRIDES.keys())
def test_a_bad_override_is_refused(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        SPCTConfig.load(overrides=[override])
    assert "\n" not in str(caught.value)


def test_an_override_into_a_value_of_the_file_is_refused(file):
    with pytest.raises(ConfigError, match="'vote' is not a section"):
        SPCTConfig.load(file("vote: 5"), ["vote.k=1"])


BAD_FILES = {
    "a list": ("- vote", "expected keys and values, found"),
    "a text": ("vote", "expected keys and values, found 'vote'"),
    "no YAML": ("vote: [1", "is not YAML"),
    "a tab": ("vote:\n\tk: 1", "is not YAML"),
    "an object of Python": ("vote: !!python/object:os.system {}", "is not YAML"),
    "an impossible date": ("engine: {revision: 2024-13-45}", "judge.yaml"),
    "number as key": ("1: 2", "1: "),
    "unknown section": ("votes: {k: 1}", "votes: unknown key; did you mean 'vote'\\? `spct config"),
    "unknown key": ("vote: {min_k: 1}", "vote.min_k: unknown key; did you mean 'k_min'"),
    "unknown key, deep": (
        "reward: {breaker: {judges: 1}}",
        "reward.breaker.judges: unknown key; did you mean 'judge'",
    ),
    "unknown key of an engine": (
        "engine: {kind: replay, paths: a}",
        "engine: path: required, and not there; paths: unknown key; did you mean 'path'",
    ),
    "unknown key like no other": ("vote: {zzz: 1}", "zzz: unknown key; `spct config --schema`"),
    "empty section": ("vote:", "vote: expected a section of keys and values, found None"),
    "text as section": ("vote: settled", "vote: expected a section .*, found 'settled'"),
    "k of zero": ("vote: {k: 0}", "vote.k: .* found 0"),
    "k of a half": ("vote: {k: 1.5}", "vote.k: .* found 1.5"),
    "k as text": ("vote: {k: many}", "vote.k: .* found 'many'"),
    "unknown stop": ("vote: {stop: maybe}", "vote.stop: .*'never'.* found 'maybe'"),
    "negative temperature": ("sampling: {temperature: -1}", "sampling.temperature: .* found -1"),
    "temperature no number": ("sampling: {temperature: .nan}", "sampling.temperature: "),
    "endless temperature": ("sampling: {temperature: .inf}", "sampling.temperature: "),
    "top_p of zero": ("sampling: {top_p: 0}", "sampling.top_p: "),
    "scale of one end": ("template: {scale: [1]}", "template.scale"),
    "scale upside down": ("template: {scale: [10, 1]}", "template.scale"),
    "scale of one value": ("template: {scale: [5, 5]}", "template.scale"),
    "deadline of zero": ("vote: {deadline_s: 0}", "vote.deadline_s: "),
    "breaker over one": ("reward: {breaker: {judge: 2}}", "reward.breaker.judge: "),
    "few characters": ("budget: {max_completion_chars: 5}", "budget.max_completion_chars: "),
    "no judge": ("reward: {rewards: []}", "reward: expected exactly one entry .* found 0"),
    "two judges": ("reward: {rewards: [{grm: {}}, {grm: {}}]}", "expected exactly one .* found 2"),
    "a judge with keys": ("reward: {rewards: [{grm: {k: 1}}]}", r"reward.rewards.0.grm: "),
    "judge and rule": ("reward: {rewards: [{grm: {}, path: 'a:b'}]}", "rewards.0.path: unknown"),
    "rule without function": (
        "reward: {rewards: [{grm: {}}, {path: rules.py}]}",
        "reward.rewards.1.path: expected 'module:function'",
    ),
    "rule without module": ("reward: {rewards: [{grm: {}}, {path: ':f'}]}", "rewards.1.path: "),
    "rule without path": ("reward: {rewards: [{grm: {}}, {weight: 1}]}", "rewards.1.path: requir"),
    "rule as text": ("reward: {rewards: [{grm: {}}, 'a:b']}", "rewards.1: expected a section"),
    "weight that is no number": ("reward: {rewards: [{grm: {}, weight: .nan}]}", "0.weight: "),
    "endless weight": ("reward: {rewards: [{grm: {}, weight: .inf}]}", "0.weight: "),
    "rule's weight no number": (
        "reward: {rewards: [{grm: {}}, {path: 'a:b', weight: .nan}]}",
        "1.weight: ",
    ),
    "unknown engine": ("engine: {kind: magic}", r"engine: expected kind: one of \[.*'openai'"),
    "list as engine kind": ("engine: {kind: [openai]}", "engine"),
    "engine as text": ("engine: openai", "engine: expected a section"),
    "engine without url": ("engine: {kind: openai, model: m}", "engine: url: required"),
    "engine without urls": ("engine: {kind: openai, model: m, url: []}", "engine: url: "),
    "url without scheme": (
        "engine: {kind: openai, model: m, url: localhost:8000}",
        "engine: url: expected http://host:port/v1, found 'localhost:8000'",
    ),
    "engine with an unknown key": ("engine: {kind: replay, path: a, k: 1}", "engine: k: unknown"),
    "unknown meta RM": (
        "meta_rm: {kind: magic}",
        r"meta_rm: expected kind: one of \['classify', 'transformers'\], found 'magic'",
    ),
    "meta RM as text": ("meta_rm: tiny", "meta_rm: expected a section"),
    "meta RM without url": ("meta_rm: {kind: classify, model: m}", "meta_rm: url: required"),
    "meta RM with an unknown key": ("meta_rm: {context: 5}", "meta_rm: context: unknown"),
    "meta RM's template": (
        "meta_rm: {template: nowhere.jinja}",
        r"meta_rm\.template: expected one of .* found 'nowhere\.jinja'",
    ),
    "a meta RM and decided": (
        "meta_rm: {}\nvote: {stop: decided}",
        "vote.stop: 'decided' cannot be used with a meta RM",
    ),
    "the meta RM's template for the judge": (
        "template: {name: meta}",
        r"template\.name: expected one of \['default', 'single', 'tiny'\], .* found 'meta'",
    ),
    "unknown column": ("trl: {columns: {solution: a}}", "trl.columns: expected the keys"),
    "plugins as text": ("plugins: a.py", "plugins: expected a list of Python files, found 'a.py'"),
    "plugin as number": ("plugins: [5]", "plugins: expected a list of Python files"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_in_one_line_that_names_the_key(file, text, message):
    path = file(text)
    with pytest.raises(ConfigError, match=message) as caught:
        SPCTConfig.load(path)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_mistakes_of_a_file_are_named_at_once(file):
    with pytest.raises(ConfigError, match=r"judge\.yaml'.*sampling\.top_p: .*; vote\.k: "):
        SPCTConfig.load(file("vote: {k: 0}\nsampling: {top_p: 2}"))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml': No such file"):
        SPCTConfig.load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        SPCTConfig.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not YAML"):
        SPCTConfig.load(tmp_path / "binary.yaml")


def test_the_configuration_is_frozen():
    with pytest.raises(ValidationError):
        SPCTConfig().vote.k = 9


def test_every_engine_of_the_package_is_known_and_has_a_template(file):
    assert set(load_plugins().engines) == {"transformers", "openai", "replay"}
    assert SPCTConfig().engine.native_template == "tiny"
    assert TransformersConfig(model="some/hub-id").native_template == "default"
    assert SPCTConfig.load(file(FULL)).engine.native_template == "default"
    assert ReplayConfig(path=Path("a")).native_template == "default"


def test_the_meta_rm_may_be_left_out_or_named_by_kind(file):
    assert SPCTConfig.load(file("meta_rm:")).meta_rm is None
    assert SPCTConfig.load(file("meta_rm: {}")).meta_rm == TransformersMetaConfig()
    assert SPCTConfig.load(overrides=["meta_rm.model=some/hub-id"]).meta_rm.model == "some/hub-id"
    tiny, other = TransformersMetaConfig(), TransformersMetaConfig(model="some/hub-id")
    assert (tiny.native_template, other.native_template) == ("tiny", "meta")
    with pytest.raises(NotImplementedError, match="'mute'"):
        MetaRMConfig(kind="mute").build(load_meta_template("meta", {}))


def test_the_meta_rms_template_may_be_a_plugins_or_a_file(tmp_path):
    registry = load_plugins()
    registry = replace(registry, templates=registry.templates | {"mine": load_template("single")})
    path = tmp_path / "mine.jinja"
    path.write_text("{{ responses }}", encoding="utf-8")

    def name(**meta_rm):
        return SPCTConfig.model_validate({"meta_rm": meta_rm}).meta_template(registry).name

    assert name() == "tiny"
    assert name(model="a/b") == "meta"
    assert name(template="mine") == "single"
    assert name(template=str(path)) == str(path)
    assert SPCTConfig().meta_template(registry) is None


def test_a_plugins_template_named_meta_is_for_judges_only():
    registry = load_plugins()
    registry = replace(registry, templates=registry.templates | {"meta": load_template("single")})
    config = SPCTConfig.model_validate({"meta_rm": {"model": "a/b"}, "template": {"name": "meta"}})
    assert config.meta_template(registry).name == "meta"
    assert config.template_and_vote(registry)[0].name == "single"


def test_an_engine_may_be_given_as_an_object():
    assert SPCTConfig(engine=ReplayConfig(path=Path("a"))).engine.path == Path("a")


def test_one_url_or_many():
    one = OpenAIConfig(url="http://a/v1", model="m")
    many = OpenAIConfig(url=["http://a/v1/", "https://b/v1"], model="m")
    assert one.url == ("http://a/v1",)
    assert many.url == ("http://a/v1", "https://b/v1")


def test_an_engine_that_does_not_say_how_it_is_built():
    with pytest.raises(NotImplementedError, match="'mute'"):
        EngineConfig(kind="mute").build()


def test_the_template_is_the_engines_own_unless_named(tmp_path):
    registry = load_plugins()
    mine = tmp_path / "mine.jinja"
    mine.write_text("{{ responses }}", encoding="utf-8")

    def name(**template):
        return SPCTConfig.model_validate({"template": template}).template_and_vote(registry)[0].name

    assert name() == "tiny"
    assert name(name="single") == "single"
    assert name(name=str(mine)) == str(mine)
    config = SPCTConfig.model_validate({"template": {"name": str(mine), "scale": [1, 5]}})
    assert config.template_and_vote(registry)[0].scale == (1, 5)


def test_names_are_checked_when_the_file_is_read():
    for override, message in {
        "vote.how=loudest": r"vote\.how: expected one of \['mean'\], found 'loudest'",
        "template.name=nowhere.jinja": r"template\.name: expected one of",
        "template={name: default, scale: [1, 5]}": "'default' has its own scale",
    }.items():
        with pytest.raises(ConfigError, match=message):
            SPCTConfig.load(overrides=[override])


def test_the_length_of_a_judgement_depends_on_the_template():
    config = SPCTConfig()
    assert config.sampling_for(load_template("tiny")) == Sampling(0.5, 1.0, 384)
    assert config.sampling_for(load_template("default")) == Sampling(0.5, 1.0, 4096)
    set_to_100 = SPCTConfig.load(overrides=["sampling.max_tokens=100"])
    assert set_to_100.sampling_for(load_template("tiny")).max_tokens == 100


@pytest.mark.parametrize(
    "override",
    [
        "engine.revision=v2",
        "sampling.seed=1",
        "vote.k=4",
        "reward.scale=sum",
        "template.nonce=false",
        "budget.completion_view=full",
    ],
)
def test_the_digest_changes_with_what_changes_a_reward(override):
    digest = SPCTConfig.load(overrides=[override]).digest()
    assert len(digest) == 8
    assert digest != SPCTConfig().digest()


@pytest.mark.parametrize(
    "override",
    [
        "store.path=elsewhere",
        "trl.group_size=4",
        "trl.gather_timeout_s=5",
        "engine.batch_size=8",
        "engine.device=cuda",
        "reward.breaker.judge=0.9",
    ],
)
def test_the_digest_does_not_change_with_what_changes_no_reward(override):
    assert SPCTConfig.load(overrides=[override]).digest() == SPCTConfig().digest()


def test_the_digest_does_not_depend_on_where_the_judge_runs():
    digests = {
        SPCTConfig(engine=OpenAIConfig(url=url, model="m", max_in_flight=limit)).digest()
        for url, limit in [("http://a:1/v1", 512), ("http://b:2/v1", 512), ("http://a:1/v1", 8)]
    }
    assert len(digests) == 1


def test_the_digest_without_a_meta_rm_is_that_of_versions_that_had_none():
    data = SPCTConfig().model_dump(
        mode="json",
        exclude={"store", "trl", "openrlhf", "plugins", "server", "serve", "probes", "meta_rm"},
    )
    for key in ("device", "batch_size"):
        del data["engine"][key]
    del data["reward"]["breaker"]
    old = hashlib.sha256(json.dumps([data, ""], sort_keys=True).encode()).hexdigest()[:8]
    assert SPCTConfig().digest() == old


def test_the_digest_knows_the_meta_rm_but_not_where_it_runs():
    def digest(**meta_rm):
        return SPCTConfig.model_validate({"meta_rm": meta_rm}).digest()

    assert digest(model="a") != digest(model="b")
    assert digest() != SPCTConfig().digest()
    assert digest(device="cpu", batch_size=1) == digest()
    server = {"kind": "classify", "model": "m"}
    assert digest(**server, url="http://a") == digest(**server, url="http://b", retries=1)


def test_what_is_printed_can_be_read_again(file, tmp_path):
    config = SPCTConfig.load(file(FULL))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    assert SPCTConfig.load(again) == config
    assert SPCTConfig.load(again).digest() == config.digest()


PLUGIN = """
from typing import Literal
from spct_plugin import hookimpl
from spct_plugin.engines import EngineConfig

class EchoConfig(EngineConfig):
    '''Says what it is told.'''
    kind: Literal["echo"] = "echo"
    words: str
    '''What to say.'''

@hookimpl
def spct_register_engines(register):
    register("echo", EchoConfig)
"""


def test_plugin_files_are_relative_to_the_configuration(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "echo.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "judge.yaml").write_text(
        "plugins: [echo.py]\nengine: {kind: echo, words: hi}", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    config = SPCTConfig.load("run/judge.yaml")
    assert config.engine.words == "hi"
    assert config.plugins == (Path("run/echo.py"),)
    with pytest.raises(ConfigError, match="engine: words: required"):
        SPCTConfig.load("run/judge.yaml", ["engine={kind: echo}"])


def test_the_same_configuration_has_one_digest_wherever_it_is_read_from(tmp_path, monkeypatch):
    (tmp_path / "echo.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "judge.yaml").write_text("plugins: [echo.py]", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    digests = {SPCTConfig.load(p).digest() for p in ("judge.yaml", tmp_path / "judge.yaml")}
    assert len(digests) == 1


def test_a_plugin_file_that_is_not_there_is_a_plugin_error(file):
    with pytest.raises(PluginError, match=r"missing\.py"):
        SPCTConfig.load(file("plugins: [missing.py]"))


def sections(model=SPCTConfig):
    yield model
    for field in model.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from sections(kind)


def kinds():
    registry = load_plugins()
    return [*registry.engines.values(), *registry.meta_rms.values()]


def test_every_key_is_described():
    for model in (*sections(), *kinds()):
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
        assert issubclass(model, Section | EngineConfig | MetaRMConfig)


def test_the_reference_names_every_key_of_every_section():
    page = reference()
    for model in (*sections(), *kinds()):
        for name, field in model.model_fields.items():
            if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                assert f"| `{name}` |" in page, name
    assert "## engine, kind: openai" in page
    assert "## meta_rm, kind: classify" in page
    assert "## reward.rewards, a rule" in page
    assert "| `url` | list of text | required |" in page
    assert "`never` or `settled` or `decided`" in page


def test_the_schema_describes_all_engines_and_is_json():
    document = schema()
    json.dumps(document)
    assert {"plugins", "engine", "vote", "reward"} <= set(document["properties"])
    kinds = [engine["properties"]["kind"] for engine in document["properties"]["engine"]["anyOf"]]
    assert {kind["const"] for kind in kinds} == {"transformers", "openai", "replay"}
    choices = document["properties"]["meta_rm"]["anyOf"]
    named = {choice["properties"]["kind"]["const"] for choice in choices if "properties" in choice}
    assert named == {"transformers", "classify"}
    assert {"type": "null"} in choices
