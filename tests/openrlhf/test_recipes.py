"""The recipes for OpenRLHF: its own parsers and checks read what the scripts say."""

import argparse
import ast
import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

cli = pytest.importorskip("openrlhf.cli", reason="needs the extra `openrlhf`")

from datasets import Dataset  # noqa: E402
from openrlhf.datasets import RewardDataset  # noqa: E402
from transformers import AutoTokenizer, SchedulerType  # noqa: E402

from spct_plugin import SPCTConfig  # noqa: E402
from spct_plugin.cli.path import AdapterFile  # noqa: E402
from spct_plugin.engines.tokenizer import ChatTokenizer  # noqa: E402
from spct_plugin.recipes import copy_recipe  # noqa: E402
from spct_plugin.tiny import MODELS as TINY  # noqa: E402

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes/openrlhf"
CLI = Path(cli.__file__).parent
CLIS = ["train_sft", "train_rm", "train_ppo_ray"]

MODELS = ["deepseek-v2-lite", "gemma-2-27b", "qwen3-4b"]
BATCH = {"rft": 1024, "rl": 512, "rl_ppo": 512, "train_rm": 256}  # paper App. C; 256 pairs
WITH_RAY = ["rl", "rl_ppo"]
VARIANTS = {
    "grpo": {},
    "ppo": {"ALGORITHM": "ppo"},
    "grpo-async": {"ASYNC": "1"},
    "ppo-async": {"ALGORITHM": "ppo", "ASYNC": "1"},
}
SBATCH = re.compile(r"sbatch --nodes=(\d+) \.\./launch/(ray|torchrun)\.sbatch (\./\w+\.sh)")
PRODUCT = re.compile(r"(\d+) x (\d+) x (\d+) GPUs = (\d+)")
FLAG = re.compile(r"--[a-z_]+\.[a-z0-9_.]*[a-z0-9_]")
HEADINGS = ["Goal", "Run", "Expect", "Files", "Differs from the paper"]

each_model = pytest.mark.parametrize("model", MODELS)
each_stage = pytest.mark.parametrize("stage", BATCH)
each_ray_stage = pytest.mark.parametrize("stage", WITH_RAY)
each_variant = pytest.mark.parametrize("variant", VARIANTS)
each_readme = pytest.mark.parametrize("recipe", [*MODELS, "policy"])


@pytest.fixture
def start(tmp_path):
    """Run a command line in a recipe's folder, among programs that only note how they were called.

    Gives the calls, as [["ray", "job", "submit", ...], ...].
    """
    calls, programs = tmp_path / "calls", tmp_path / "programs"
    programs.mkdir()
    notes = f"""#!/bin/bash
printf '%s\\x1f' "$(basename "$0")" "$@" >> {calls}
printf '\\x1e' >> {calls}
"""
    known = "|".join(f"'path {file.value}'" for file in AdapterFile)
    finds = f"""#!/bin/bash
case "$*" in {known}) echo "/site packages/$2.py" ;; *) exit 1 ;; esac
"""
    for name, text in {"torchrun": notes, "ray": notes, "srun": notes, "spct": finds}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(recipe, line, **environment):
        calls.write_text("")
        subprocess.run(
            ["bash", "-c", line],
            cwd=RECIPES / recipe,
            env={"PATH": f"{programs}:{os.environ['PATH']}", **environment},
            check=True,
        )
        return [call.split("\x1f")[:-1] for call in calls.read_text().split("\x1e")[:-1]]

    return run


@pytest.fixture
def parse(start, monkeypatch):
    """Run a stage's script; give what OpenRLHF's train() would get after upstream's checks."""

    def run(recipe, line, **environment):
        [call] = start(recipe, line, **environment)
        return checked(*trainer_of(call), monkeypatch)

    return run


def trainer_of(call):
    """Tell which command line of OpenRLHF a call starts, and with which words."""
    if call[0] == "ray":
        # What `ray job submit` makes of the words, and a shell of that.
        words = shlex.split(subprocess.list2cmdline(call[call.index("--") + 1 :]))
        assert words == call[call.index("--") + 1 :]
        module, *words = words[words.index("-m") + 1 :]
    else:
        module, *words = call[call.index("--module") + 1 :]
    return module.removeprefix("openrlhf.cli."), words


@cache
def tree(cli):
    return ast.parse((CLI / f"{cli}.py").read_text(encoding="utf-8"))


def checked(cli, words, monkeypatch):
    """Parse and check as the command line does, by its own code, without importing it."""
    [main] = [node for node in tree(cli).body if isinstance(node, ast.If)]
    found = []
    monkeypatch.setattr(sys, "argv", [cli, *words])
    names = {"argparse": Exact, "datetime": datetime, "train": found.append}
    exec(compile(ast.Module(main.body, []), cli, "exec"), names)
    [arguments] = found
    return arguments


class Exact:
    """argparse without abbreviations: a flag is whole, or it is none."""

    @staticmethod
    def ArgumentParser():
        return argparse.ArgumentParser(allow_abbrev=False)


@cache
def flags(cli):
    """Read the flags of a command line from its syntax tree; {prefix} is actor or critic."""
    added = [
        node.args[0]
        for node in ast.walk(tree(cli))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    ]
    names = set()
    for name in added:
        if isinstance(name, ast.Constant):
            names.add(name.value)
        else:
            text = ast.unparse(name).strip("f'")
            names |= {text.replace("{prefix}", prefix) for prefix in ("actor", "critic")}
    return names


def placed(arguments, monkeypatch):
    """Run train_ppo_ray's own train(), its checks included, on nothing; count the GPUs it takes."""
    [train] = [node for node in tree("train_ppo_ray").body if getattr(node, "name", "") == "train"]
    for module in ("", ".ppo_trainer", ".ppo_trainer_async"):
        monkeypatch.setitem(sys.modules, f"openrlhf.trainer{module}", MagicMock())
    names = {node.id: MagicMock() for node in ast.walk(train) if isinstance(node, ast.Name)}
    for builtin in ("range", "getattr"):
        del names[builtin]
    exec(compile(ast.Module([train], []), "train_ppo_ray", "exec"), names)
    names["train"](arguments)

    groups = names["placement_group"]
    gpus = sum(len(call.args[0]) for call in groups.call_args_list)
    for call in names["RayActorGroup"].call_args_list:
        if call.kwargs["pg"] is None:  # it makes a group of its own
            gpus += call.args[0] * call.args[1]
    engines, size, *others = names["create_vllm_engines"].call_args.args
    shares = any(one is groups.return_value for one in others)
    return gpus + (0 if shares else engines * size)


def gpus_of(model, stage, arguments):
    if stage in WITH_RAY:
        return arguments.actor.num_nodes * arguments.actor.num_gpus_per_node
    match = SBATCH.search(text_of(f"{model}/{stage}.sh"))
    return 8 * int(match[1] if match else 1)


def product(arguments, gpus):
    """Give micro batch, accumulation as OpenRLHF computes it, and GPUs."""
    micro, batch = arguments.train.micro_batch_size, arguments.train.batch_size
    assert batch % (micro * gpus) == 0  # DeepSpeed asserts it, too
    return micro, batch // micro // gpus, gpus


def text_of(name):
    return (RECIPES / name).read_text(encoding="utf-8")


# What the scripts say.


@pytest.mark.parametrize(
    "path",
    [path for path in RECIPES.rglob("*") if path.is_file() and "__pycache__" not in path.parts],
    ids=lambda path: str(path.relative_to(RECIPES)),
)
def test_every_flag_that_is_named_is_openrlhfs(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".sh", ".sbatch"):
        subprocess.run(["bash", "-n", path], check=True)
        assert os.access(path, os.X_OK)
    unknown = set(FLAG.findall(text)).difference(*map(flags, CLIS))
    assert not unknown


@each_model
@each_stage
def test_the_batch_is_the_papers_and_the_comment_says_how(model, stage, parse):
    arguments = parse(model, f"./{stage}.sh")
    found = product(arguments, gpus_of(model, stage, arguments))
    assert math.prod(found) == BATCH[stage]
    texts = text_of(f"{model}/rl.sh" if stage in WITH_RAY else f"{model}/{stage}.sh")
    said = [tuple(map(int, numbers)) for numbers in PRODUCT.findall(texts)]
    assert said == [(*found, BATCH[stage])]


def test_the_overview_has_the_same_batches(parse):
    rows = re.findall(r"^\| (\S+) \| ([\w, ]+) \| (.*) \|$", text_of("README.md"), re.MULTILINE)
    found = {
        (model, stage): tuple(map(int, match.groups()))
        for model, stages, cell in rows
        if (match := PRODUCT.fullmatch(cell))
        for stage in stages.split(", ")
    }
    expected = {}
    for model in MODELS:
        for stage in ("rft", *WITH_RAY):
            arguments = parse(model, f"./{stage}.sh")
            gpus = gpus_of(model, stage, arguments)
            expected[model, stage] = (*product(arguments, gpus), BATCH[stage])
    assert found == expected


@each_model
def test_fine_tuning_follows_the_paper(model, parse):
    arguments = parse(model, "./rft.sh")
    assert arguments.adam.lr == 5e-6
    assert arguments.data.max_samples * arguments.train.max_epochs == 900 * BATCH["rft"]
    assert math.ceil(900 * arguments.lr_warmup_ratio) == 27
    rejective, general = map(float, arguments.data.dataset_probs.split(","))
    assert arguments.data.dataset == "sft.jsonl,general.jsonl"
    assert (rejective + general, round(general / rejective, 1)) == (1, 5.8)  # 1070K : 186K = 5.75
    assert (arguments.data.input_key, arguments.data.output_key) == ("prompt", "completion")
    assert not arguments.data.input_template
    assert not arguments.data.apply_chat_template
    assert SchedulerType(arguments.lr_scheduler)


@each_model
@each_ray_stage
def test_rl_follows_the_paper(model, stage, parse):
    arguments = parse(model, f"./{stage}.sh")
    rollout, algo = arguments.rollout, arguments.algo
    assert arguments.actor.adam.lr == 4e-7
    assert rollout.n_samples_per_prompt == 4
    assert rollout.batch_size * rollout.n_samples_per_prompt == arguments.train.batch_size
    # As upstream counts them (trainer/ppo_trainer.py, prepare_datasets).
    steps = arguments.data.max_samples * rollout.n_samples_per_prompt // arguments.train.batch_size
    assert steps * arguments.train.num_episodes * arguments.train.max_epochs == 900
    assert math.ceil(900 * arguments.actor.lr_warmup_ratio) == 10
    given = {"gemma-2-27b": 0.08, "deepseek-v2-lite": 0.002}
    assert algo.kl.init_coef == given.get(model, 0.02)
    assert (arguments.data.input_key, arguments.data.label_key) == ("prompt", "label")
    assert not arguments.data.apply_chat_template
    assert arguments.reward.remote_url == ["/site packages/openrlhf-reward.py"]
    assert SchedulerType(arguments.actor.lr_scheduler)


def algorithm(arguments):
    algo = arguments.algo
    critic = bool(arguments.critic.model_name_or_path)
    return algo.advantage.estimator, algo.kl.use_loss, algo.kl.estimator, critic


GRPO, PPO = ("group_norm", True, "k3", False), ("gae", False, "k1", True)


@each_model
def test_one_stage_is_grpo_and_the_other_ppo(model, parse):
    grpo, ppo = parse(model, "./rl.sh"), parse(model, "./rl_ppo.sh")
    assert (algorithm(grpo), algorithm(ppo)) == (GRPO, PPO)
    assert grpo.actor.loss_agg_mode == "seq-mean-token-mean"  # paper Eq. 15
    assert ppo.critic.model_name_or_path == ppo.actor.model_name_or_path
    assert grpo.ckpt.output_dir != ppo.ckpt.output_dir


@each_model
def test_the_pairwise_meta_rm_learns_as_many_judgements_as_the_papers(model, parse):
    arguments = parse(model, "./train_rm.sh")
    assert arguments.adam.lr == 1e-5
    assert 2 * arguments.train.batch_size == 512
    assert arguments.eval.dataset == "eval_pairs.jsonl"
    assert arguments.data.tokenizer_chat_template.endswith("{{ eos_token -}}")
    assert SchedulerType(arguments.lr_scheduler)


@each_model
@each_stage
def test_killed_and_started_again_it_goes_on(model, stage, parse):
    checkpoints = parse(model, f"./{stage}.sh").ckpt
    assert checkpoints.load_enable
    assert checkpoints.save_steps == 100
    assert Path(checkpoints.path).parent == Path(checkpoints.output_dir)


@each_model
@each_stage
def test_a_flag_on_the_command_line_wins(model, stage, parse):
    assert parse(model, f"./{stage}.sh --train.seed 7 --ckpt.save_steps 9").train.seed == 7


def test_a_flag_of_no_release_is_an_error(parse, capsys):
    with pytest.raises(SystemExit):
        parse("qwen3-4b", "./rl.sh --pretrain start")
    assert "--pretrain" in capsys.readouterr().err


def test_upstreams_own_checks_are_run(parse, monkeypatch):
    with pytest.raises(AssertionError, match="requires n_samples_per_prompt > 1"):
        parse("qwen3-4b", "./rl.sh --rollout.n_samples_per_prompt 1")
    with pytest.raises(AssertionError, match="must be equal to"):
        placed(parse("qwen3-4b", "./rl.sh --vllm.num_engines 3"), monkeypatch)


# The GPUs.


@each_model
@each_ray_stage
def test_ray_is_asked_for_the_gpus_of_the_nodes(model, stage, parse, monkeypatch):
    match = SBATCH.search(text_of(f"{model}/{stage}.sh"))
    assert placed(parse(model, f"./{stage}.sh"), monkeypatch) == 8 * int(match[1] if match else 1)


@each_variant
def test_the_policy_takes_the_gpus_that_the_judge_leaves(variant, parse, monkeypatch):
    arguments = parse("policy", "./policy.sh", **VARIANTS[variant])
    assert "ray start --head --num-gpus 4" in text_of("policy/README.md")
    assert placed(arguments, monkeypatch) == 4
    assert algorithm(arguments) == (PPO if "ppo" in variant else GRPO)
    assert arguments.train.async_enable == ("async" in variant)
    train = arguments.actor.num_nodes * arguments.actor.num_gpus_per_node
    assert math.prod(product(arguments, train)) == 512


def test_the_policy_is_rewarded_by_whole_groups(parse):
    arguments = parse("policy", "./policy.sh")
    judge = SPCTConfig.load(RECIPES / "policy/judge.yaml")
    assert arguments.train.agent_func_path == "/site packages/openrlhf-agent.py"
    assert arguments.rollout.n_samples_per_prompt == judge.vote.list_size
    assert arguments.data.apply_chat_template
    assert judge.reward.on_failure == "abstain"
    assert judge.openrlhf.fallback


@each_model
def test_the_readme_starts_a_stage_as_its_script_says(model):
    found = SBATCH.findall(text_of(f"{model}/README.md"))
    assert found or model == "qwen3-4b"
    for nodes, launcher, script in found:
        assert (nodes, launcher, script) in SBATCH.findall(text_of(f"{model}/{script}"))


def test_the_policys_readme_asks_for_the_gpus_that_there_are(parse, monkeypatch):
    text = text_of("policy/README.md").replace("\\\n", " ")
    lines = re.findall(r"^(.*)(\./policy\.sh .*?)(?: # .*)?$", text, re.MULTILINE)
    assert len(lines) > 3
    for before, line in lines:
        nodes = SBATCH.search(before + line)
        variables = dict(word.split("=") for word in before.split() if not nodes)
        arguments = parse("policy", line, **variables)
        assert placed(arguments, monkeypatch) == (8 * int(nodes[1]) if nodes else 4)


@each_readme
def test_a_copy_has_all_that_its_scripts_call(recipe, tmp_path, parse):
    copy_recipe(f"openrlhf/{recipe}", tmp_path)
    for script in (tmp_path / recipe).glob("*.sh"):
        assert parse(tmp_path / recipe, f"./{script.name}")
    for name in re.findall(r"\.\./([\w/]+\.\w+)", text_of(f"{recipe}/README.md")):
        assert (tmp_path / name).is_file()


# The judge.


@each_model
def test_the_judge_is_configured_and_lengths_agree(model, parse):
    judge = SPCTConfig.load(RECIPES / model / "judge.yaml")
    lengths = {parse(model, f"./{stage}.sh").data.max_len for stage in BATCH}
    assert lengths == {judge.engine.context}
    assert parse(model, "./rl.sh").rollout.max_new_tokens == judge.sampling.max_tokens
    # start.py takes start/'s tokenizer from where the reward file takes its own.
    assert f" {judge.openrlhf.tokenizer}" in text_of(f"{model}/README.md")
    assert judge.openrlhf.fallback


@each_model
def test_it_is_the_judge_of_the_recipe_for_trl(model):
    ours = SPCTConfig.load(RECIPES / model / "judge.yaml")
    theirs = SPCTConfig.load(ROOT / "recipes/trl" / model / "judge.yaml")
    assert ours.model_copy(update={"openrlhf": theirs.openrlhf}) == theirs


@each_model
def test_the_readmes_overrides_are_valid(model):
    overrides = re.findall(r"-s ([\w.]+=[^\s\"]+)", text_of(f"{model}/README.md"))
    assert len(overrides) > 4
    for override in overrides:
        assert SPCTConfig.load(RECIPES / model / "judge.yaml", [override])


@pytest.mark.parametrize(("recipe", "line"), [("qwen3-4b", "./rl.sh"), ("policy", "./policy.sh")])
def test_the_configuration_reaches_rays_workers(recipe, line, start):
    for named in ("", "/other/judge.yaml"):
        [call] = start(recipe, line, **({"SPCT_CONFIG": named} if named else {}))
        assert call[:3] == ["ray", "job", "submit"]
        environment = json.loads(call[call.index("--runtime-env-json") + 1])
        expected = named or str(RECIPES / recipe / "judge.yaml")
        assert environment == {"env_vars": {"SPCT_CONFIG": expected}}


# Several nodes.

SLURM = {"SLURM_JOB_NUM_NODES": "4", "SLURMD_NODENAME": "a", "SLURM_CPUS_ON_NODE": "96"}


def test_slurm_starts_torchrun_on_every_node(start):
    [call] = start("gemma-2-27b", "../launch/torchrun.sbatch ./rft.sh --train.seed 7", **SLURM)
    assert call == ["srun", "--cpus-per-task=96", "./rft.sh", "--train.seed", "7"]
    [call] = start("gemma-2-27b", "./rft.sh", NNODES="4", HEAD="a", SLURM_JOB_ID="5")
    said = " ".join(call[: call.index("--module")])
    assert "--nnodes 4 --nproc-per-node 8" in said
    assert "--rdzv-id 5 --rdzv-endpoint a:29500" in said


def test_slurm_starts_ray_on_every_node_and_the_job_on_the_first(start):
    line = "../launch/ray.sbatch ./rl.sh --train.seed 7"
    calls = start("gemma-2-27b", line, **SLURM)
    head, *started, stop = calls
    assert head == ["ray", "start", "--head", "--port", "6379"]
    assert stop == ["ray", "stop"]
    workers, job = sorted(started, reverse=True)
    assert workers[1:5] == ["--nodes=3", "--ntasks=3", "--exclude=a", "--cpus-per-task=96"]
    assert workers[5:] == ["ray", "start", "--address", "a:6379", "--block"]
    assert job[:3] == ["ray", "job", "submit"]
    assert job[-2:] == ["--train.seed", "7"]


def test_one_node_needs_no_workers(start):
    calls = start(
        "qwen3-4b", "../launch/ray.sbatch ./rl.sh", **{**SLURM, "SLURM_JOB_NUM_NODES": "1"}
    )
    assert [call[1] for call in calls] == ["start", "job", "stop"]


# The data.


@pytest.fixture
def data(tmp_path, monkeypatch, capsys):
    """Go where start/ is the tiny judge; give a function that runs a script of data/."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECIPES / "qwen3-4b/judge.yaml", tmp_path)
    AutoTokenizer.from_pretrained(TINY / "grm").save_pretrained("start")

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(RECIPES / f"data/{script}.py"))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_general_data_is_rendered_as_judgements_are(data):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    Path("messages.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    [row] = data("general", "start", "messages.jsonl")
    tokenizer = AutoTokenizer.from_pretrained("start")
    text = row["prompt"] + row["completion"]
    assert text.endswith(tokenizer.eos_token)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text.removesuffix(tokenizer.eos_token).startswith(
        rendered.rstrip("\n").removesuffix(tokenizer.eos_token)
    )


def test_prompts_carry_the_conversation_to_the_judge(data):
    turns = [{"role": "user", "content": "Name a prime."}]
    rows = [
        {"id": "a", "prompt": "Name a prime.", "completions": ["7", "8"], "reference": "7"},
        {"id": "b", "prompt": turns, "completions": ["7", "8"]},
    ]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert data("prompts", "tasks.jsonl") == [
        {"prompt": turns, "label": {"messages": turns, "reference": "7"}},
        {"prompt": turns, "label": {"messages": turns, "reference": None}},
    ]


def judged(number, scores, text="Scores: \\boxed{...}", **keys):
    """Lay out a row of spct sample whose best completion is the second."""
    judgements = [
        {"vote": vote, "indices": [0, 1], "order": [1, 0], "scores": pair, "failure": None}
        | {"text": f"{text} {vote}", "tokens": 3, "finish_reason": "stop"}
        for vote, pair in enumerate(scores)
    ]
    return {
        "id": f"task-{number}",
        "prompt": f"Name prime {number}.",
        "completions": ["8", "7"],
        "label": 1,
        "judgements": judgements,
        **keys,
    }


def test_a_pair_is_read_alike_in_training_and_in_use(data, parse):
    tokenizer = AutoTokenizer.from_pretrained("start")
    rows = [
        judged(1, [(3, 9), (9, 3), (5, 5)], text=f"no end {tokenizer.eos_token} here"),
        judged(2, [(3, 9), (2, 9)]),
        judged(3, [(3, 9), (9, 3)], hinted=True),
        judged(4, [(3, 9), (9, 3)], text="much too long " * 20_000),
    ]
    Path("trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = data("pairs", "trajectories.jsonl")
    assert [pair["chosen"][1]["content"][-1] for pair in pairs] == ["0", "0"]
    assert [pair["rejected"][1]["content"][-1] for pair in pairs] == ["1", "2"]
    assert "Name prime 1." in pairs[0]["chosen"][0]["content"]

    strategy = SimpleNamespace(args=parse("qwen3-4b", "./train_rm.sh"))
    rows = Dataset.from_list(pairs)
    training = RewardDataset(rows, tokenizer, 16384, strategy, num_processors=None)
    tokenizer.save_pretrained("runs/train_rm")
    use = ChatTokenizer("runs/train_rm")
    for side, key in ((0, "chosen"), (2, "rejected")):
        ids = training[0][side][0].tolist()
        assert ids == use.encode(pairs[0][key], add_generation_prompt=False)
        assert [place for place, one in enumerate(ids) if one == tokenizer.eos_token_id] == [
            len(ids) - 1
        ]


def test_training_starts_with_a_chat_template_and_without_foreign_code(data, monkeypatch):
    def snapshot_download(base, *, local_dir, allow_patterns):
        assert base == "base"
        assert "*.safetensors" in allow_patterns
        Path(local_dir).mkdir()
        auto_map = {"AutoModelForCausalLM": "modeling.Model"}
        config = {"model_type": "qwen3", "auto_map": auto_map}
        Path(local_dir, "config.json").write_text(json.dumps(config))
        return local_dir

    shutil.move("start", "chat")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    unused = next(iter(AutoTokenizer.from_pretrained("chat").get_vocab()))
    monkeypatch.setattr(sys, "argv", ["start.py", "base", "chat", unused])
    runpy.run_path(str(RECIPES / "launch/start.py"))
    tokenizer = AutoTokenizer.from_pretrained("start")
    assert (tokenizer.pad_token, bool(tokenizer.chat_template)) == (unused, True)
    assert json.loads(Path("start/config.json").read_text()) == {"model_type": "qwen3"}


# The documents.


@each_model
def test_the_estimates_follow_from_what_the_overview_says(model, parse):
    lines = text_of("README.md").splitlines()
    row = next(line for line in lines if line.startswith(f"| {model} ("))
    size, *active = map(float, re.findall(r"([\d.]+)B", row))
    _, gpus, states, hours = (re.findall(r"[\d.]+", cell) for cell in row.strip("| ").split(" | "))
    gpus = int(gpus[0])
    assert gpus == gpus_of(model, "rl", parse(model, "./rl.sh"))
    expected = [round(bytes_each * size / gpus, 1) for bytes_each in (16, 18, 34)]
    assert list(map(float, states)) == expected
    assert f"{expected[2]:.0f} GB of states" in text_of(f"{model}/rl_ppo.sh")
    share = 128 * (active or [size])[0] / 27.2 / gpus
    expected = [round(share * paper, 1) for paper in (19.2, 15.6, 19.2 / 2)]
    assert list(map(float, hours)) == expected


@each_readme
def test_the_readme_has_its_headings_and_is_short(recipe):
    text = text_of(f"{recipe}/README.md")
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == HEADINGS
    assert len(text.splitlines()) <= 60
    assert "Not yet run" in text


def test_the_overview_is_short():
    assert len(text_of("README.md").splitlines()) <= 60


@pytest.mark.parametrize(
    "path",
    [path for path in RECIPES.rglob("*.*") if path.suffix != ".pyc"],
    ids=lambda path: str(path.relative_to(RECIPES)),
)
def test_every_file_that_is_named_is_there(path):
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"(?<![\w./$-])[\w./-]+\.(?:yaml|md|sh|sbatch|py|jinja)\b", text)
    folders = (RECIPES / name for name in (*MODELS, "policy", "data", "launch"))
    places = [path.parent, RECIPES, ROOT / "recipes", ROOT, *folders]
    assert not [name for name in names if not any((place / name).is_file() for place in places)]
