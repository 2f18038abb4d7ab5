"""The reward file and the configuration, loaded and called by OpenRLHF's own executor."""

import asyncio
import importlib.metadata
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from executing import Engine, generate_responses
from openrlhf.utils.agent import AgentExecutorBase, SingleTurnAgentExecutor
from scripted_plugin import content_score

from spct_openrlhf import load_config
from spct_plugin import ConfigError

TEXTS = ["one park", "two parks", "three notes", "four cakes"]


@pytest.fixture
def configured(config_file, monkeypatch, policy):
    """Write the configuration that SPCT_CONFIG names."""

    def write(**sections):
        openrlhf = {"fallback": "group_mean", "tokenizer": str(policy)}
        openrlhf |= sections.pop("openrlhf", {})
        path = config_file(openrlhf=openrlhf, **sections)
        monkeypatch.setenv("SPCT_CONFIG", str(path))
        return path

    return write


@pytest.fixture
def reward_file(spct):
    return spct("path", "openrlhf-reward")[1].strip()


def rollout(executor, engine, prompt, label="", n=4):
    return asyncio.run(generate_responses(executor, engine, prompt, label, n))


def test_each_completion_is_judged_alone(configured, reward_file, tokenizer, prompt, shown):
    configured(vote={"k": 1})
    executor = SingleTurnAgentExecutor([reward_file])
    outputs = rollout(executor, Engine(TEXTS, tokenizer), prompt)
    assert [output["reward"] for output in outputs] == [content_score(text) for text in TEXTS]
    assert sorted(shown()) == sorted([text] for text in TEXTS)


def test_from_many_threads_at_once(configured, reward_file, tokenizer, prompt):
    configured(vote={"k": 1})
    reward_func = SingleTurnAgentExecutor([reward_file]).reward_func
    texts = [f"text {i}" for i in range(200)]
    end = tokenizer.eos_token

    def call(text):
        return reward_func([prompt + text + end], [prompt], [""])["rewards"]

    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(call, texts)) == [content_score(text) for text in texts]


def test_a_failure_gets_the_middle_as_it_has_no_siblings(
    configured, reward_file, tokenizer, prompt
):
    breaker = {"infrastructure": 1, "judge": 1}
    configured(fails="all", reward={"breaker": breaker})
    executor = SingleTurnAgentExecutor([reward_file])
    outputs = rollout(executor, Engine(TEXTS, tokenizer), prompt)
    assert [output["reward"] for output in outputs] == [5.5] * 4
    assert [output["extra_logs"]["spct_failed"] for output in outputs] == [1.0] * 4


def test_what_is_raised_ends_the_run_as_openrlhf_cannot_swallow_it(
    configured, reward_file, tokenizer, prompt
):
    configured(fails="all", reward={"on_failure": "stop"})
    executor = SingleTurnAgentExecutor([reward_file])
    with pytest.raises(BaseException, match=r"^RewardError: 1 of 1 completions") as raised:
        rollout(executor, Engine(TEXTS, tokenizer), prompt, n=1)
    assert type(raised.value).__name__ == "EndRun"


def test_the_outcome_reward_of_a_judge_in_training(configured, reward_file, tokenizer, prompt):
    configured()
    executor = SingleTurnAgentExecutor([reward_file])
    texts = ["\\boxed{3, 8}", "\\boxed{8, 3}", "no box", "\\boxed{3, 8}"]
    label = {"label": 1, "n": 2, "template": "default"}
    outputs = rollout(executor, Engine(texts, tokenizer, cut=[3]), prompt, label)
    assert [output["reward"] for output in outputs] == [1, -1, -1, -1]


def test_the_reward_file_needs_the_policys_tokenizer(configured, reward_file):
    configured(openrlhf={"tokenizer": None})
    with pytest.raises(ConfigError, match=r"openrlhf\.tokenizer: expected the policy's"):
        SingleTurnAgentExecutor([reward_file])
    configured(openrlhf={"tokenizer": "no/such-model"})
    with pytest.raises(ConfigError, match="cannot load the tokenizer of 'no/such-model'"):
        SingleTurnAgentExecutor([reward_file])


@pytest.mark.parametrize(
    "sections", [{"reward": {"scale": "rank"}}, {"openrlhf": {"scores": "spread"}}]
)
def test_what_compares_siblings_is_refused(sections, configured, reward_file):
    configured(**sections)
    with pytest.raises(ConfigError, match="use the group agent"):
        SingleTurnAgentExecutor([reward_file])


def test_abstain_is_refused_unless_a_fallback_is_named(configured):
    configured(openrlhf={"fallback": None})
    with pytest.raises(ConfigError, match=r"set openrlhf\.fallback to group_mean or drop_group"):
        load_config()
    configured(openrlhf={"fallback": "drop_group"})
    assert load_config().reward.on_failure == "drop_group"
    configured(openrlhf={"fallback": None}, reward={"on_failure": "stop"})
    assert load_config().reward.on_failure == "stop"


def test_without_a_configuration_the_way_to_forward_it_is_named(monkeypatch):
    monkeypatch.delenv("SPCT_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="ray job submit --runtime-env-json"):
        load_config()


def test_a_clone_that_was_never_installed_is_an_untested_version(configured, monkeypatch, caplog):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    configured()
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert load_config()
    assert "is tested with openrlhf>=0.11.2,<0.12" in caplog.text


@pytest.mark.parametrize(("version", "warns"), [("0.11.2", 0), ("0.11.1", 1), ("0.12.0", 1)])
def test_an_untested_openrlhf_is_named_with_the_window(
    version, warns, configured, monkeypatch, caplog
):
    configured()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    load_config()
    messages = [record.getMessage() for record in caplog.records]
    expected = f"spct-plugin is tested with openrlhf>=0.11.2,<0.12, found {version}"
    assert sum(expected in message for message in messages) == warns


def test_the_path_of_the_agent_is_a_file_that_openrlhf_can_load(spct, configured):
    configured()
    code, output, errors = spct("path", "openrlhf-agent")
    assert errors == ""
    spec = importlib.util.spec_from_file_location("agent_module", output.strip())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert code == 0
    assert issubclass(module.AgentExecutor, AgentExecutorBase)
    assert module.AgentExecutor()


def test_what_would_end_the_run_late_is_said_with_the_path(spct, configured, monkeypatch):
    configured(openrlhf={"fallback": None})
    code, output, errors = spct("path", "openrlhf-agent")
    assert (code, output.count("spct_openrlhf_agent.py")) == (2, 1)
    assert "the run will end: reward.on_failure: 'abstain'" in errors
    path = configured(openrlhf={"tokenizer": None})
    assert "the reward file needs the policy's" in spct("path", "openrlhf-reward")[2]
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("SPCT_CONFIG", path.name)
    assert "is relative" in spct("path", "openrlhf-agent")[2]
    monkeypatch.delenv("SPCT_CONFIG")
    assert "SPCT_CONFIG is not set here" in spct("path", "openrlhf-reward")[2]
