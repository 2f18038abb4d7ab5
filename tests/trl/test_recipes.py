"""The recipes for GPU clusters: every file is what the trainers, accelerate and bash accept."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

import spct_trl_train
from spct_plugin import SPCTConfig

ROOT = Path(__file__).parents[2]
TRL = ROOT / "recipes/trl"
MODELS = ["deepseek-v2-lite", "gemma-2-27b", "qwen3-4b"]
STAGES = {"rft": "rft", "rl": "rl", "meta_rm": "meta-rm"}
BATCH = {"rft": 1024, "rl": 512, "meta_rm": 512}  # paper App. C
ON_A_CPU = ["--use_cpu", "true", "--bf16", "false"]
HEADINGS = ["Goal", "Run", "Expect", "Files", "Differs from the paper"]
PRODUCT = re.compile(r"(\d+) x (\d+) x (\d+) GPUs = (\d+)")

each_model = pytest.mark.parametrize("model", MODELS)
each_stage = pytest.mark.parametrize("stage", STAGES)


def raw(model, stage):
    return yaml.safe_load((TRL / model / f"{stage}.yaml").read_text(encoding="utf-8"))


def product(model, stage):
    keys = raw(model, stage)
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_processes")
    return tuple(keys[name] for name in names)


def parse(stage, path, monkeypatch):
    """Parse as `spct train` does: the trainer's keys, and what is left for accelerate."""
    monkeypatch.setenv("SPCT_CONFIG", "set back by monkeypatch")
    monkeypatch.chdir(path.parent)
    parsed, words, _ = spct_trl_train.parse(STAGES[stage], ["--config", str(path), *ON_A_CPU])
    return parsed, launch_command_parser().parse_args([*words, "script.py"])


@each_model
@each_stage
def test_the_parser_of_the_stage_takes_every_key(model, stage, monkeypatch):
    parsed, launch = parse(stage, TRL / model / f"{stage}.yaml", monkeypatch)
    training = parsed[1]
    assert training.save_strategy == "steps"
    assert training.gradient_checkpointing
    assert launch.num_processes == 8 * launch.num_machines
    assert Path(launch.config_file).is_file()


@each_stage
def test_an_unknown_key_is_an_error(stage, tmp_path, monkeypatch, capsys):
    path = tmp_path / f"{stage}.yaml"
    path.write_text("output_dir: runs/out\nlearning_rat: 1.0e-5\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse(stage, path, monkeypatch)
    assert "learning_rat" in capsys.readouterr().err


@each_model
@each_stage
def test_the_batch_is_the_papers_and_the_comment_says_how(model, stage):
    per_device, accumulation, gpus = product(model, stage)
    assert per_device * accumulation * gpus == BATCH[stage]
    text = (TRL / model / f"{stage}.yaml").read_text(encoding="utf-8")
    expected = (per_device, accumulation, gpus, BATCH[stage])
    assert [tuple(map(int, found)) for found in PRODUCT.findall(text)] == [expected]


def test_the_overview_has_the_same_batches():
    rows = re.findall(r"^\| (\S+) \| ([\w, ]+) \| (.*) \|$", overview(), re.MULTILINE)
    found = {
        (model, stage): tuple(map(int, match.groups()))
        for model, stages, cell in rows
        if (match := PRODUCT.fullmatch(cell))
        for stage in stages.split(", ")
    }
    assert found == {
        (model, stage): (*product(model, stage), BATCH[stage])
        for model in MODELS
        for stage in STAGES
    }


def overview():
    return (TRL / "README.md").read_text(encoding="utf-8")


@each_model
def test_the_estimates_follow_from_what_the_overview_says(model):
    row = next(line for line in overview().splitlines() if line.startswith(f"| {model} ("))
    size, *active = map(float, re.findall(r"([\d.]+)B", row))
    _, gpus, states, hours = (re.findall(r"[\d.]+", cell) for cell in row.strip("| ").split(" | "))
    gpus = int(gpus[0])
    assert gpus == raw(model, "rl")["num_processes"]
    assert list(map(float, states)) == [round(16 * size / gpus, 1), round(18 * size / gpus, 1)]
    share = 128 * (active or [size])[0] / 27.2 / gpus
    expected = [round(share * paper, 1) for paper in (19.2, 15.6, 19.2 / 2)]
    assert list(map(float, hours)) == expected


@each_model
def test_rl_calls_the_reward_with_whole_groups(model):
    keys = raw(model, "rl")
    rounds = keys.get("steps_per_generation", keys["gradient_accumulation_steps"])
    assert keys["per_device_train_batch_size"] * rounds % keys["num_generations"] == 0
    assert keys["gradient_accumulation_steps"] % rounds == 0  # else rollouts outlive the weights


@each_model
def test_the_judge_is_configured_and_lengths_agree(model):
    judge = SPCTConfig.load(TRL / model / "judge.yaml")
    rl = raw(model, "rl")
    assert (judge.engine.kind, judge.meta_rm.kind) == ("openai", "classify")
    assert judge.engine.context == raw(model, "rft")["max_length"]
    assert judge.engine.context == raw(model, "meta_rm")["max_length"]
    assert judge.engine.context == rl.get("vllm_max_model_length", judge.engine.context)
    assert judge.sampling.max_tokens == rl["max_completion_length"]
    assert rl["env"] == {"SPCT_CONFIG": "judge.yaml"}


@each_model
def test_the_readmes_overrides_are_valid(model):
    text = (TRL / model / "README.md").read_text(encoding="utf-8")
    overrides = re.findall(r"-s ([\w.]+=[^\s\"]+)", text)
    assert len(overrides) > 4
    for override in overrides:
        assert SPCTConfig.load(TRL / model / "judge.yaml", [override])


@each_model
def test_the_stages_follow_the_papers_rl(model):
    keys = raw(model, "rl")
    given = {
        "learning_rate": 4e-7,
        "max_steps": 900,
        "num_generations": 4,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "use_bias_correction_kl": False,
        "mask_truncated_completions": False,
        "beta": {"gemma-2-27b": 0.08, "deepseek-v2-lite": 0.002}.get(model, keys["beta"]),
    }
    assert {name: keys[name] for name in given} == given
    assert raw(model, "rft")["learning_rate"] == 5e-6
    assert raw(model, "meta_rm")["learning_rate"] == 1e-5


@each_model
def test_the_readme_has_its_headings_and_is_short(model):
    text = (TRL / model / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == HEADINGS
    assert len(text.splitlines()) <= 60
    assert "Not yet run" in text


def test_the_overview_is_short():
    assert len(overview().splitlines()) <= 60


@pytest.mark.parametrize(
    "path",
    [*TRL.rglob("*.yaml"), *TRL.rglob("*.md")],
    ids=lambda path: str(path.relative_to(TRL)),
)
def test_every_file_that_is_named_is_there(path):
    names = re.findall(r"[\w./-]+\.(?:yaml|md|sh|sbatch|py)\b", path.read_text(encoding="utf-8"))
    places = (path.parent, TRL, ROOT, *(TRL / model for model in MODELS))
    assert not [name for name in names if not any((place / name).is_file() for place in places)]


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_accelerate_reads_its_files(name):
    config = load_config_from_file(str(TRL / f"accelerate/{name}.yaml"))
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (8, 1, "bf16")


@pytest.fixture
def commands(tmp_path):
    """Run a launch script among programs that only say how they were called.

    Each waits until all are started, as the end of the training ends the server.
    """
    started = tmp_path / "started"
    says = f"""#!/bin/bash
echo "$(basename "$0") $@ gpus=$CUDA_VISIBLE_DEVICES" >> {started}
for _ in {{1..100}}; do (($(wc -l < {started}) >= PROGRAMS)) && exit; sleep 0.1; done
"""
    stubs = {name: says for name in ("srun", "spct", "vllm")}
    stubs["scontrol"] = '#!/bin/bash\ntr , "\\n" <<< "$3"\n'
    stubs["python"] = "#!/bin/bash\nexit 1\n"
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, model, programs, **environment):
        started.write_text("")
        path = TRL / "launch" / script
        subprocess.run(["bash", "-n", path], check=True)
        done = subprocess.run(
            ["bash", path, *arguments],
            cwd=TRL / model,
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "PROGRAMS": str(programs),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, sorted(started.read_text().splitlines()), done.stderr

    return run


def test_slurm_starts_one_launcher_per_node_and_the_server_on_the_last(commands):
    code, started, _ = commands(
        *("slurm.sbatch", "rl", "--max_steps", "3"),
        model="gemma-2-27b",
        programs=2,
        SLURM_JOB_NODELIST="a,b,c,d,e",
    )
    assert code == 0
    server, training = started
    assert "--nodelist=e ../launch/vllm_policy.sh runs/rft 8192 8" in server
    assert "--ntasks=4 --nodelist=a,b,c,d bash -c" in training
    assert "rl --config rl.yaml --main_process_ip a --main_process_port 29500" in training
    assert "--vllm_server_host e --max_steps 3" in training


def test_slurm_wants_the_nodes_that_the_batch_was_computed_for(commands):
    code, started, errors = commands(
        *("slurm.sbatch", "meta-rm"), model="gemma-2-27b", programs=0, SLURM_JOB_NODELIST="a,b"
    )
    assert (code, started) == (2, [])
    assert "expected 4 nodes that train and 0 that serve, found 2" in errors


def test_one_node_trains(commands):
    code, started, _ = commands("local.sh", "meta-rm", model="qwen3-4b", programs=1)
    assert (code, started) == (0, ["spct train meta-rm --config meta_rm.yaml gpus="])


def test_one_node_trains_beside_a_server_with_the_flags_of_trl(commands):
    vllm_serve = pytest.importorskip("trl.scripts.vllm_serve")
    code, (training, server), _ = commands(
        *("local.sh", "rl", "--vllm_mode", "server"),
        model="qwen3-4b",
        programs=2,
        TRAIN_GPUS="0,1",
        VLLM_GPUS="2,3",
    )
    assert code == 0
    assert training == "spct train rl --config rl.yaml --vllm_mode server gpus=0,1"
    assert server.startswith("vllm serve runs/rft --host 0.0.0.0 --port 8000 --max-model-len 16384")
    assert server.endswith("gpus=2,3")
    if hasattr(vllm_serve, "build_command"):
        asked = vllm_serve.build_command(vllm_serve.ScriptArguments(model="m"))
        assert " ".join(asked[asked.index("--weight-transfer-config") :]) in server
