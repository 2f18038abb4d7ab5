"""SPCT's stages on the real trainers, short: they learn, survive a kill, refuse bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl", reason="needs the extra `trl`")

from spct_plugin.errors import ConfigError, TaskError, TrainingError
from spct_plugin.tiny import MODELS
from spct_plugin.tiny.tasks import labelled_tasks
from spct_plugin.training.chat import Chat
from spct_plugin.training.prompts import JudgePrompts
from spct_plugin.training.rejecting import reject_files, rl_rows, sft_rows

TINY = Path(__file__).parents[2] / "recipes/tiny"
ON_CPU = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make trajectories that need no model, half of them right, and the files made of them."""
    from spct_plugin import SPCTConfig

    folder = tmp_path_factory.mktemp("data")
    with (folder / "trajectories.jsonl").open("w") as file:
        for row in labelled_tasks(5, 24, 2):
            order, label = [0, 1], row["label"]
            right = [9 if i == label else 2 for i in order]
            judgements = [
                {
                    **{"vote": vote, "indices": [0, 1], "order": order, "scores": scores},
                    "text": f"Analysis: {'clear' if vote == 0 else 'vague'}.\n"
                    f"Scores: \\boxed{{{', '.join(map(str, scores))}}}",
                }
                for vote, scores in enumerate([right, right[::-1]])
            ]
            file.write(json.dumps(row | {"judgements": judgements}) + "\n")
    config = SPCTConfig.model_validate({"template": {"name": "tiny"}})
    for name, rows in (("sft", sft_rows), ("rl", rl_rows)):
        made = rows(JudgePrompts(config), Chat("tiny"))
        reject_files([folder / "trajectories.jsonl"], folder / f"{name}.jsonl", made)
    (folder / EMPTY).touch()
    (folder / "judge.yaml").write_text("template: {name: tiny}\n")
    return folder


@pytest.fixture
def stage(data, tmp_path, monkeypatch):
    """Run a stage in this process with the tiny recipe's file; give its output folder."""
    from spct_trl_train import train

    monkeypatch.chdir(data)
    monkeypatch.setenv("SPCT_CONFIG", "judge.yaml")

    def run(name, **keys):
        path = write(tmp_path, name, data, **keys)
        train(name, ["--config", str(path)])
        return tmp_path / "out"

    return run


def write(tmp_path, name, data, **keys):
    recipe = yaml.safe_load((TINY / f"{name.replace('-', '_')}.yaml").read_text())
    recipe |= {"model_name_or_path": str(MODELS / "grm"), "output_dir": str(tmp_path / "out")}
    if name == "meta-rm":
        recipe |= {key: [str(data / "trajectories.jsonl")] for key in TRAJECTORIES}
    else:
        files = str(data / {"rft": "sft.jsonl", "rl": "rl.jsonl"}[name])
        recipe["datasets"] = [{"path": "json", "data_files": files}]
    small = {"max_steps": 2, "per_device_train_batch_size": 8, "logging_steps": 1}
    path = tmp_path / f"{name}.yaml"
    given = {key: value for key, value in (recipe | small | keys).items() if value is not None}
    path.write_text(yaml.safe_dump(given))
    return path


TRAJECTORIES = ("trajectories", "eval_trajectories")


CLUSTER = Path(__file__).parents[2] / "recipes/trl"
# What a CPU and a tiny model cannot do as the recipe says; everything else stays as it is.
SMALLER = {
    **ON_CPU,
    **{"gradient_accumulation_steps": 1, "dtype": "float32", "max_length": 1024},
    **dict.fromkeys(("accelerate_config", "num_machines", "num_processes", "env", "eos_token")),
    **dict.fromkeys(("attn_implementation", "chat_template_path", "general_data", "pad_token")),
    **dict.fromkeys(("router_aux_loss_coef", "model_init_kwargs")),
}
SMALLER_RL = {"use_vllm": False, "max_completion_length": 64, "max_length": None}


@pytest.mark.parametrize("model", ["gemma-2-27b", "deepseek-v2-lite", "qwen3-4b"])
@pytest.mark.parametrize("name", ["rft", "rl", "meta-rm"])
def test_the_recipes_for_clusters_run_on_tiny_models(stage, model, name):
    recipe = yaml.safe_load((CLUSTER / model / f"{name.replace('-', '_')}.yaml").read_text())
    own = ("model_name_or_path", "output_dir", "datasets", "max_steps", "logging_steps")
    own += ("trajectories", "eval_trajectories", "per_device_train_batch_size")
    keys = {key: value for key, value in recipe.items() if key not in own}
    folder = stage(name, **keys | SMALLER | (SMALLER_RL if name == "rl" else {}))
    assert history(folder)[-1]["step"] == 2


def history(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [row for row in state["log_history"] if "loss" in row]


def test_rejective_fine_tuning_learns(stage):
    losses = [row["loss"] for row in history(stage("rft", max_steps=6, num_train_epochs=9))]
    assert losses[-1] < losses[0]


def test_rl_pays_outcomes_and_logs_how_judgements_are(stage):
    rows = history(stage("rl"))
    assert all(abs(row["rewards/outcome_reward/mean"]) <= 1 for row in rows)
    names = {"accuracy", "parse_rate", "ties", "first_wins", "principles", "critique_length"}
    assert {f"outcome_reward/{name}" for name in names} | {"kl"} <= set(rows[0])
    for row in rows:
        share = (row["rewards/outcome_reward/mean"] + 1) / 2
        assert row["outcome_reward/accuracy"] == pytest.approx(share)


def test_the_meta_rm_learns_to_tell_right_from_wrong(stage):
    folder = stage("meta-rm", max_steps=25, num_train_epochs=99, per_device_train_batch_size=16)
    report = json.loads((folder / "meta_rm_report.json").read_text())
    assert report["judgements"] == 48
    assert report["right"] == 0.5
    assert report["auc"] > 0.9
    assert sum(one["count"] for one in report["bins"]) == 48
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["problem_type"] == "multi_label_classification"


def test_a_stage_goes_on_from_its_last_checkpoint(stage):
    stage("rft", max_steps=2, save_strategy="steps", save_steps=1)
    folder = stage("rft", max_steps=4, save_strategy="steps", save_steps=1)
    assert [row["step"] for row in history(folder)] == [1, 2, 3, 4]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_finished_stage_is_left_as_it_is(stage):
    keys = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    before = weights(stage("rft", **keys, lr_scheduler_type="constant"))
    folder = stage("rft", **keys, lr_scheduler_type="constant")
    assert weights(folder) == before
    (folder / "model.safetensors").unlink()  # killed between the last checkpoint and the end
    assert weights(stage("rft", **keys, lr_scheduler_type="constant")) == before
    assert [row["step"] for row in history(folder)] == [1, 2]


def test_checkpoints_of_other_data_are_not_gone_on_with(stage, data, tmp_path):
    keys = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    folder = stage("rft", **keys)
    before = weights(folder)
    other = tmp_path / "other.jsonl"
    other.write_text((data / "sft.jsonl").read_text().replace("clear", "plain"))
    datasets = [{"path": "json", "data_files": str(other)}]
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"of another run \(other data\)"):
            stage("rft", **keys, datasets=datasets)
    assert weights(folder) == before


def test_a_stage_that_was_killed_goes_on_without_loss_or_repetition(data, tmp_path):
    keys = {"max_steps": 12, "num_train_epochs": 99, "save_strategy": "steps", "save_steps": 1}
    path = write(tmp_path, "rft", data, **keys)
    command = [sys.executable, "-m", "spct_trl_train", "rft", "--config", str(path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out/checkpoint-2").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out/model.safetensors").exists()
    subprocess.run(command, env=env, check=True, timeout=240)
    assert [row["step"] for row in history(tmp_path / "out")] == list(range(1, 13))


def test_a_checkpoint_that_was_not_written_whole_is_passed_over(tmp_path):
    from spct_trl_run import last_checkpoint

    for step, state in ((9, '{"global_step": 9}'), (10, "{"), (11, None), (12, "[]")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert last_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["rft", "meta-rm"])
def test_a_loss_that_is_no_number_stops_the_run(stage, name):
    with pytest.raises(TrainingError, match="lower learning_rate"):
        stage(name, learning_rate=1e30, max_grad_norm=1e30, max_steps=8, warmup_steps=0)


def middle_length(data):
    rows = [json.loads(line) for line in (data / "sft.jsonl").read_text().splitlines()]
    chat = Chat("tiny")
    return sorted(chat.tokens(row["prompt"] + row["completion"]) for row in rows)[len(rows) // 2]


def test_rows_that_are_too_long_are_left_out_and_counted(stage, data, caplog):
    stage("rft", max_length=middle_length(data))
    [line] = [line for line in caplog.messages if line.startswith("spct: left out")]
    assert f"rows longer than max_length {middle_length(data)}; the longest has" in line


def test_rows_that_are_all_too_long_end_the_run(stage):
    with pytest.raises(TaskError, match=r"all \d+ rows are longer than max_length 20; the longest"):
        stage("rft", max_length=20)


def test_general_data_is_mixed_in_at_a_ratio(tmp_path):
    from spct_trl_stages import general_rows

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = tmp_path / "general.jsonl"
    path.write_text((json.dumps({"messages": turns}) + "\n") * 30)
    rows = general_rows(str(path), Chat("tiny"), 100, 20, seed=0)
    assert rows.num_rows == 20
    assert rows[0] == {"prompt": "<|user|>hi<|assistant|>", "completion": "hello<|end|>"}
    with pytest.raises(TaskError, match="expected 40 rows for general_ratio, found 30"):
        general_rows(str(path), Chat("tiny"), 100, 40, seed=0)


def test_general_data_counts_beside_the_rejective_rows(stage, tmp_path):
    path = tmp_path / "general.jsonl"
    path.write_text((json.dumps({"prompt": "<|user|>hi", "completion": "x<|end|>"}) + "\n") * 40)
    folder = stage(
        "rft", general_data=str(path), general_ratio=0.5, max_steps=-1, num_train_epochs=1
    )
    [last] = history(folder)[-1:]
    assert last["step"] == 5  # 24 rejective rows and 12 general ones, 8 a step


EMPTY = "empty.jsonl"
BAD = {
    "no such file": ({"datasets": [{"path": "json", "data_files": "no.jsonl"}]}, TaskError, "data"),
    "an empty file": ({"datasets": [{"path": "json", "data_files": EMPTY}]}, TaskError, "data"),
    "no data": ({"datasets": None}, ConfigError, "datasets"),
    "no model": ({"model_name_or_path": None}, ConfigError, "model_name_or_path"),
}


LABELS = {"of another": 5, "none": None, "text": "0", "negative": -1}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS.keys())
def test_labels_that_do_not_fit_end_the_run_before_it_begins(stage, data, tmp_path, label):
    rows = [json.loads(line) | {"label": label} for line in (data / "rl.jsonl").open()]
    path = tmp_path / "rl.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TaskError, match="row 1: expected the place of the best"):
        stage("rl", datasets=[{"path": "json", "data_files": str(path)}])


def test_prompts_that_leave_no_room_for_a_judgement_are_left_out(stage):
    with pytest.raises(TaskError, match=r"rows are longer than the context without max_compl"):
        stage("rl", max_completion_length=1020)


def test_evaluation_needs_its_split_and_its_rows_are_not_cut_either(stage):
    with pytest.raises(ConfigError, match="expected a split 'test'"):
        stage("rft", eval_strategy="steps", eval_steps=1)
    with pytest.raises(ConfigError, match="eval_trajectories"):
        stage("meta-rm", eval_strategy="steps", eval_steps=1, eval_trajectories=[])


def test_a_judgement_of_a_part_is_neither_right_nor_wrong(data, tmp_path):
    from spct_plugin import SPCTConfig
    from spct_plugin.engines.tokenizer import ChatTokenizer
    from spct_trl_meta_rm import Reader

    rows = [json.loads(line) for line in (data / "trajectories.jsonl").open()]
    for row in rows:
        row["judgements"][1] |= {"indices": [0], "order": [0], "scores": [5]}
    path = tmp_path / "parts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = Reader(ChatTokenizer(str(MODELS / "grm")), SPCTConfig(), "tiny", 1024)
    found = reader.read([str(path)], "trajectories", both=False)
    assert [row["labels"] for row in found] == [[1.0]] * len(rows)


@pytest.mark.parametrize(("keys", "error", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_trained_is_one_clear_line(stage, keys, error, words):
    with pytest.raises(error, match=words) as caught:
        stage("rft", **keys)
    assert "\n" not in str(caught.value)


def test_a_meta_rm_needs_right_and_wrong_ones(stage, data, tmp_path):
    hinted = tmp_path / "hinted.jsonl"
    rows = [json.loads(line) for line in (data / "trajectories.jsonl").read_text().splitlines()]
    hinted.write_text("".join(json.dumps(row | {"hinted": True}) + "\n" for row in rows))
    with pytest.raises(TaskError, match="found 0 that are all alike"):
        stage("meta-rm", trajectories=[str(hinted)])
    with pytest.raises(ConfigError, match="expected a token of"):
        stage("meta-rm", pad_token="<none>")
    with pytest.raises(ConfigError, match="set pad_token"):
        stage("meta-rm", pad_token="<|end|>")
    with pytest.raises(ConfigError, match="use_peft"):
        stage("meta-rm", use_peft=True)


def test_the_meta_rm_may_pad_with_any_token_of_the_vocabulary(stage):
    folder = stage("meta-rm", pad_token="<|user|>")
    config = json.loads((folder / "config.json").read_text())
    assert config["pad_token_id"] == Chat("tiny").tokenizer.get_vocab()["<|user|>"]


def test_other_rewards_are_for_trl(stage):
    with pytest.raises(ConfigError, match="trl grpo"):
        stage("rl", reward_funcs=["spct_trl.grm_reward"])


def test_a_key_of_nobody_is_an_error(data, tmp_path):
    path = write(tmp_path, "rft", data, learning_rat=1.0)
    from spct_trl_train import train

    with pytest.raises(ConfigError, match=r"spct train: .*learning_rat"):
        train("rft", ["--config", str(path)])
    with pytest.raises(ConfigError, match="invalid int value: 'many'"):
        train("rft", ["--config", str(path), "--max_steps", "many"])


def test_trl_grpo_finds_the_outcome_reward_by_dotted_path(data, tmp_path):
    path = write(tmp_path, "rl", data, max_steps=1, env={"SPCT_CONFIG": str(data / "judge.yaml")})
    command = [str(Path(sys.executable).with_name("trl")), "grpo", "--config", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "out/checkpoint-1/trainer_state.json").read_text())
    assert "outcome_reward/accuracy" in state["log_history"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rft", "rl", "meta-rm"])
def test_every_stage_runs_as_two_processes(data, tmp_path, name):
    path = write(tmp_path, name, data, num_processes=2, num_machines=1)
    env = os.environ | {"OMP_NUM_THREADS": "1", "SPCT_CONFIG": str(data / "judge.yaml")}
    env |= {"ACCELERATE_USE_CPU": "true"}
    spct = str(Path(sys.executable).with_name("spct"))
    keys = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [spct, "train", name, "--config", str(path), *keys]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=540, check=False, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert history(tmp_path / "out")[-1]["step"] == 2
