"""What the parser makes of texts that real judges and policies wrote.

A few of them stand in data/real_texts.jsonl; the larger samples are read where they are at hand.
"""

import json
from pathlib import Path

import pytest

from spct_plugin import JudgeTask, parse_judgement
from spct_plugin.templates import load_template, neutralise

BUNDLED = Path(__file__).parent / "data" / "real_texts.jsonl"
SHARED = Path(__file__).parents[2] / "shared" / "data"
NONCE = "0123456789ab"

needs_samples = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the samples of public data sets are not at ../shared/data"
)


def read(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def bundled(*formats):
    return [row for row in read(BUNDLED) if row["format"] in formats]


def sample(name):
    return read(SHARED / f"{name}.jsonl")


def judge_texts(name):
    """Give (text, finish reason) of every judge text in a sample of another format."""
    rows = sample(name)
    if name == "transcripts_truncated_rewardbench":
        return [(row["output"], "stop") for row in rows]
    if name == "transcripts_judgebench_arena_hard":
        return [(row["response"], "stop") for row in rows]
    if name == "transcripts_rmr1":
        return [(row["answers"], "stop") for row in rows]
    if name == "json_verdicts_wildbench":
        return [(json.dumps(row["parsed_result"]), "stop") for row in rows]
    if name == "pointwise_gpt4_3votes":
        return [(feedback, "stop") for row in rows for feedback in row["gpt4_feedback"]]
    pairs = [tuple(row["completion"]) for row in rows if row["kind"] == "pairwise"]
    ratings = [
        row[key] for row in rows if row["kind"] == "rating" for key in ("score_1", "score_2")
    ]
    return pairs + [tuple(rating) for rating in ratings]


# File: judge texts in it, and how many of them are read as the score of one completion judged
# alone. Those two are judges that solved the problem themselves and boxed a result of 1 or 6;
# nothing tells that box from a score.
FOREIGN = {
    "transcripts_truncated_rewardbench": (100, 0),
    "transcripts_llmbar": (326, 0),
    "transcripts_judgebench_arena_hard": (150, 2),
    "transcripts_rmr1": (9, 0),
    "json_verdicts_wildbench": (120, 0),
    "pointwise_gpt4_3votes": (360, 0),
}


@pytest.mark.parametrize(
    "row",
    bundled("truncated", "rmr1", "llmbar", "arena_hard", "wildbench"),
    ids=lambda r: r["format"],
)
def test_a_few_texts_of_other_formats_give_no_score(row):
    for n in (2, 3, 4):
        assert parse_judgement(row["text"], n, row.get("finish_reason")).scores is None


@needs_samples
@pytest.mark.parametrize("name", FOREIGN)
def test_texts_of_other_formats_give_no_score(name):
    texts = judge_texts(name)
    assert len(texts) == FOREIGN[name][0]
    for text, finish_reason in texts:
        for n in (2, 3, 4, 10):
            assert parse_judgement(text, n, finish_reason).scores is None
    alone = [parse_judgement(text, 1, finish_reason).scores for text, finish_reason in texts]
    assert len(texts) - alone.count(None) == FOREIGN[name][1]


TEMPLATES = {name: load_template(name) for name in ("default", "tiny", "single")}


def echoes(completions):
    """Give what a judge that only copies its prompt could write, for one group."""
    n = len(completions)
    for name, orders in (("default", [range(n)]), ("tiny", [range(n)]), ("single", [[0], [1]])):
        template = TEMPLATES[name]
        for order in orders:
            task = JudgeTask("Solve it.", completions)
            prompt = template.render(task, order, NONCE)
            yield template, len(order), prompt
            yield template, len(order), prompt.partition("#### Output Format")[0]
    for completion in completions:
        for name in ("default", "single"):
            yield TEMPLATES[name], 1, neutralise(completion)


def assert_echoes_give_no_score(completions):
    for template, n, echo in echoes(completions):
        assert template.parse(echo, n, "stop").scores is None


def test_a_few_boxed_answers_echoed_by_the_judge_give_no_score():
    answers = [row["text"] for row in bundled("judgebench_answer")]
    assert any(parse_judgement(a, 1, scale=(-9999, 9999)).scores for a in answers)
    assert_echoes_give_no_score(answers[:2])
    assert_echoes_give_no_score(answers[1:])


@needs_samples
def test_answers_echoed_by_the_judge_give_no_score():
    boxed = 0
    for row in sample("judgebench_pairs"):
        answers = [row["response_A"], row["response_B"]]
        boxed += sum("\\boxed{" in answer for answer in answers)
        assert_echoes_give_no_score(answers)
    assert boxed == 58


def box(scores, separator=", "):
    return f"\\boxed{{{separator.join(map(str, scores))}}}"


FORMS = {
    "template": lambda a, s: f"Specific Criteria: fit (100%)\nAnalysis: {a}\nScores: {box(s)}",
    "bold": lambda a, s: f"**Analysis:** {a}\n\n**Scores: {box(s)}**",
    "headings": lambda a, s: f"### Analysis\n{a}\n\n### Scores\n{box(s, ',')}",
    "output": lambda a, s: f"{a}\n\nOutput: {box(s, ' , ')}.",
    "sub-scores": lambda a, s: f"{a}\n- Accuracy: {box([1] * len(s))}/10\n- Tone: 9\n${box(s)}$",
    "thoughts": lambda a, s: f"<think>\n{a} {box([1] * len(s))}\n</think>\nScores: {box(s)}",
    "text after": lambda a, s: f"{a}\nScores: {box(s)}\n[The End of Response {len(s)}] [1, 1]",
    "lines": lambda a, s: f"{a}\n\\[\n\\boxed{{\n{f',{chr(10)}'.join(map(str, s))}\n}}\n\\]\n",
}


def groups(verdicts, n):
    """Put n verdicts (text, score) at a time into one judge's analysis and scores."""
    for start in range(0, len(verdicts) - n + 1, n):
        texts, scores = zip(*verdicts[start : start + n], strict=True)
        yield "\n".join(f"Response {i + 1}: {text}" for i, text in enumerate(texts)), scores


@pytest.mark.parametrize("form", FORMS)
def test_a_few_boxed_verdicts_are_read_in_every_form(form):
    verdicts = [(row["text"], row["score"]) for row in bundled("wildbench")]
    for n in (1, 2, 4):
        for analysis, scores in groups(verdicts, n):
            assert parse_judgement(FORMS[form](analysis, scores), n).scores == scores


@needs_samples
@pytest.mark.parametrize("form", FORMS)
def test_boxed_verdicts_are_read_in_every_form(form):
    wildbench = [
        (json.dumps(row["parsed_result"], ensure_ascii=False), int(row["score"]))
        for row in sample("json_verdicts_wildbench")
    ]
    gpt4 = [
        verdict
        for row in sample("pointwise_gpt4_3votes")
        for verdict in zip(row["gpt4_feedback"], row["gpt4_score"], strict=True)
    ]
    judged = [
        (n, analysis, scores)
        for verdicts in (wildbench, gpt4)
        for n in (1, 2, 4, 8)
        for analysis, scores in groups(verdicts, n)
    ]
    # 120 and 360 verdicts alone, in pairs, fours and eights.
    assert len(judged) == 120 + 60 + 30 + 15 + 360 + 180 + 90 + 45
    for n, analysis, scores in judged:
        assert parse_judgement(FORMS[form](analysis, scores), n).scores == scores


@needs_samples
@pytest.mark.parametrize("form", FORMS)
def test_scores_of_ten_solutions_are_read_after_any_real_analysis(form):
    analyses = [text for text, _ in judge_texts("transcripts_judgebench_arena_hard")]
    rows = [
        row["score"]
        for row in sample("scores_rewardmath")
        if row["judge"] in ("gpt4_reward", "llama3_70B_reward")
    ]
    assert len(rows) == len(analyses) == 150
    for analysis, scores in zip(analyses, rows, strict=True):
        assert parse_judgement(FORMS[form](analysis, scores), 10).scores == tuple(scores)


@needs_samples
def test_a_real_judgement_cut_before_its_box_is_closed_gives_no_score():
    for row in sample("json_verdicts_wildbench"):
        text = FORMS["template"](json.dumps(row["parsed_result"]), (int(row["score"]),))
        for end in range(0, len(text), 97):
            assert parse_judgement(text[:end], 1).scores is None
        assert parse_judgement(text[:-1], 1).scores is None
