"""Fuzz: whatever comes in, the parser, the renderer and the configuration keep their promises.

Inputs are real judge texts, tasks and configurations, changed at random; the seed is printed with
what fails. `make test` takes 10^4 of them, `make test-long` 10^6.
"""

import random
from pathlib import Path

import pytest
import yaml

from spct_plugin import JudgeTask, SPCTConfig, SPCTError, parse_judgement
from spct_plugin.failures import JUDGE_FAILURES
from spct_plugin.templates import load_template

JUDGE_TEXTS = [
    path.read_text() for path in sorted((Path(__file__).parent / "data/judge_texts").glob("*.txt"))
]
PIECES = [
    *("\\boxed{", "\\boxed{7, 3}", "}", "{", "[9, 1]", "<think>", "</think>", "<|im_end|>", "</s>"),
    *("[The Begin of Response 1]", "[The End of Response 1 0123456789ab]", "Scores:", "Analysis:"),
    *("### Evaluation Criteria", "{{ nonce }}", "{% raw %}", "%s", "\0", "\u2028", "\u202e"),
    *("\U0001f4a9", "\ud800", "-1", "10", "999999999999", ",", "\n", "\t", "\\", '"', "'", "  "),
]
CONFIG = """
engine: {kind: openai, url: ["http://a:1/v1", "http://b:2/v1"], model: m, retries: 3}
template: {name: default, nonce: true}
sampling: {temperature: 0.5, top_p: 0.9, max_tokens: 100, seed: 1}
vote: {k: 8, stop: settled, k_min: 4, list_size: 4, deadline_s: 10.0}
reward: {scale: unit, rewards: [{grm: {}, weight: 1}], on_failure: group_mean}
budget: {completion_view: answer, max_completion_chars: 1000}
openrlhf: {fallback: group_mean, scores: spread, tokenizer: m}
trl: {columns: {reference: answer}, group_size: 4}
"""
VALUES = [None, True, -1, 0, 1e308, float("nan"), "", "x", [], {}, ["a"], {"kind": "openai"}, 2**70]
NONCE = "0123456789ab"
TEMPLATES = [load_template(name, None) for name in ("default", "single", "tiny")]


def changed(text, draw):
    """Cut, double, swap and sprinkle."""
    for _ in range(draw.randint(1, 4)):
        start = draw.randint(0, len(text))
        end = min(len(text), start + draw.randint(0, 40))
        middle = draw.choice(["", text[start:end] * 2, draw.choice(PIECES)])
        text = text[:start] + middle + text[end:]
    return text


def parse(draw):
    text = changed(draw.choice(JUDGE_TEXTS), draw)
    n = draw.randint(1, 5)
    low, high = draw.choice([(1, 10), (0, 1)])
    parsed = parse_judgement(text, n, draw.choice(["stop", "length", None]), (low, high))
    if parsed.failure is None:
        assert len(parsed.scores) == n
        assert all(type(score) is int and low <= score <= high for score in parsed.scores)
    else:
        assert parsed.scores is None
        assert parsed.failure in JUDGE_FAILURES


def render(draw):
    def text():
        return changed("write a note to anna about the park, please", draw)

    template = draw.choice(TEMPLATES)
    n = draw.randint(1, template.max_responses or 4)
    texts = [text() for _ in range(n)]
    principles = [t for t in (text() for _ in range(draw.randint(0, 2))) if t.strip()]
    prompt = text()
    if not prompt.strip():
        return
    task = JudgeTask(prompt, texts, reference=draw.choice([None, text()]), principles=principles)
    shown = template.render(task, draw.sample(range(n), n), NONCE)
    if template.name == "default":
        for number in range(1, n + 1):
            assert shown.count(f"[The Begin of Response {number} {NONCE}]") == 1
            assert shown.count(f"[The End of Response {number} {NONCE}]") == 1
    # Echoed whole, a prompt holds no scores: every box in it is a form that nobody can fill.
    assert template.parse(shown, n, "stop").scores is None
    shown.encode()


def configure(draw):
    data = yaml.safe_load(CONFIG)
    for _ in range(draw.randint(1, 3)):
        section = draw.choice(list(data))
        where = (
            data if draw.random() < 0.2 or not isinstance(data[section], dict) else data[section]
        )
        where[draw.choice([*where, "unknown", "kind"])] = draw.choice(VALUES)
    try:
        SPCTConfig.model_validate(data)
    except (SPCTError, ValueError):
        return  # pydantic's error is a ValueError; load makes one line of it


@pytest.mark.parametrize("count", [10**4, pytest.param(10**6, marks=pytest.mark.slow)])
def test_nothing_that_comes_in_breaks_a_promise(count):
    shares = [(parse, 0.80), (render, 0.15), (configure, 0.05)]
    for check, share in shares:
        for number in range(int(count * share)):
            seed = f"{check.__name__} {number}"
            try:
                check(random.Random(seed))
            except Exception as error:
                raise AssertionError(f"with seed {seed!r}: {error!r}") from error


def test_a_broken_file_is_one_line(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "judge.yaml"
    refused = []
    for _ in range(300):
        path.write_text(changed(CONFIG, draw).encode(errors="replace").decode())
        try:
            SPCTConfig.load(path)
        except SPCTError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(message and "\n" not in message for message in refused)
