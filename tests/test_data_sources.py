"""Every source reads rows of its set's true schema: right best, right strength, right refusals."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spct_plugin import TaskError
from spct_plugin.data.filters import task_row
from spct_plugin.data.sources import Example, Skip
from spct_plugin.data.sources.builtin import SOURCES
from spct_plugin.data.sources.generic import chosen_rejected, hh_rlhf, ranked
from spct_plugin.data.sources.verifiable import last_box, same_answer

FOLDER = Path(__file__).parent / "data/sources"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def rows(name):
    found = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    return [{"rows": found}] if SOURCES[name].group else found


def read(name):
    return [one for row in rows(name) for one in SOURCES[name].convert(row)]


def best(example):
    return example.completions[example.best]


def test_every_source_has_rows():
    assert {path.stem for path in FOLDER.iterdir()} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_every_example_becomes_a_task(name):
    examples = [one for one in read(name) if isinstance(one, Example)]
    assert examples
    for example in examples:
        row = task_row(name, example)
        assert row["dataset"] == name
        if len(example.completions) > 1:
            found = row["completions"][row["label"]]
            assert found == best(example) or found == [dict(turn) for turn in best(example)]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("change", [lambda row: {}, lambda row: dict.fromkeys(row)])
def test_a_row_without_the_sets_columns_is_refused_by_name(name, change):
    with pytest.raises(TaskError, match="expected"):
        list(SOURCES[name].convert(change(rows(name)[0])))


@settings(max_examples=500)
@given(st.data())
def test_any_value_in_any_column_is_read_or_refused(data):
    name = data.draw(st.sampled_from(sorted(SOURCES)))
    whole = data.draw(st.sampled_from(rows(name)))
    row = data.draw(st.sampled_from(whole.get("rows", [whole])))
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(row)), inner)
        ),
        max_leaves=5,
    )
    column = data.draw(st.sampled_from(sorted(row)))
    # What is no task is a TaskError or a Skip; anything else would stop the whole file.
    with suppress(TaskError):
        changed = {**row, column: data.draw(junk)}
        together = {"rows": [changed, *whole["rows"][1:]]} if "rows" in whole else changed
        for one in SOURCES[name].convert(together):
            assert isinstance(one, Skip) or task_row(name, one)


TIE = Skip("tie: no unique best")


def test_helpsteer2_has_turns_and_strength():
    first, second, third = read("helpsteer2")
    assert (best(first), first.metadata) == ("7", {"split": "train", "strength": 2})
    assert (best(second), second.metadata) == ("11", {"split": "val", "strength": 3})
    assert [turn["role"] for turn in second.prompt] == ["user", "assistant", "user"]
    assert second.prompt[2]["content"] == "And a larger one?"
    assert third == TIE


def test_helpsteer3_negative_means_the_first_is_better():
    first, second, third = read("helpsteer3")
    assert (best(first), first.metadata["strength"]) == ("11", 1)
    assert (best(second), second.metadata["strength"]) == ("The Rhine", 3)
    assert len(first.prompt) == 3
    assert first.metadata["domain"] == "general"
    assert third == TIE


def test_ultrafeedback_goes_by_the_fine_grained_score():
    first, second, third = read("ultrafeedback")
    assert best(first) == "2, 3, 5, 7"
    assert first.metadata == {"source": "evol_instruct", "strength": 1.75}
    assert (second, third) == (TIE, Skip("fewer than 2 completions"))


def test_both_binarized_forms_of_ultrafeedback():
    first, second, third = read("ultrafeedback-binarized")
    assert (best(first), first.metadata["strength"]) == ("7", 6.5)
    assert second == TIE
    assert (best(third), third.metadata["strength"]) == ("The Rhine", 3.25)


def test_skywork_takes_the_common_turns_as_the_prompt():
    first, second = read("skywork")
    assert first.prompt == [{"role": "user", "content": "Name a prime."}]
    assert [turn["content"] for turn in second.prompt] == ["Hi!", "Hello.", "Name a river."]
    assert (best(second), second.metadata) == ("The Rhine", {"source": "magpie_ultra"})


def test_offsetbias_and_llmbar_number_from_one():
    [only] = read("offsetbias")
    assert best(only) == "Distance learning is harder than in-person classes."
    first, second, third = read("llmbar")
    assert [best(one) for one in (second, third)] == ["7 minus 3 is 4.", "4950"]
    assert first.metadata == {"subset": "LLMBar/Adversarial/Neighbor"}


def test_judgebench_reads_the_direction():
    for example, row in zip(read("judgebench"), rows("judgebench"), strict=True):
        assert best(example) == row[{"A>B": "response_A", "B>A": "response_B"}[row["label"]]]
        assert example.metadata["pair_id"] == row["pair_id"]


def test_rmbench_covers_the_matrix_with_equal_texts_once():
    examples = read("rmbench")
    cells = [cell for example in examples for cell in example.metadata["styles"]]
    assert sorted(cells) == [[i, j] for i in range(3) for j in range(3)]
    assert len(examples) == 6
    [row] = rows("rmbench")
    for example in examples:
        for i, j in example.metadata["styles"]:
            assert list(example.completions) == [row["chosen"][i], row["rejected"][j]]


def test_hh_rlhf_splits_the_dialogue():
    first, second = read("hh-rlhf")
    assert best(first) == "it’s completely not true. that’s why I was created"
    assert [turn["role"] for turn in second.prompt] == ["user", "assistant", "user"]
    with pytest.raises(TaskError, match="begins with 'Human:'"):
        list(hh_rlhf({"chosen": "Human: x", "rejected": "y"}))


def test_rewardmath_gathers_the_solutions_of_a_problem():
    [example] = read("rewardmath")
    assert len(example.completions) == 10
    assert best(example).startswith("I want to solve for x")
    assert example.metadata["answer"] == "1600"
    several = {"rows": rows("rewardmath")[0]["rows"][1:]}
    with pytest.raises(
        TaskError, match="expected 1 chosen and some rejected solutions together, found 0"
    ):
        list(SOURCES["rewardmath"].convert(several))


def test_math_pairs_right_with_wrong_and_skips_the_unknown():
    first, second, third = read("math")
    assert list(first.completions) == ["So \\boxed{0.5}.", "So \\boxed{\\frac{1}{8}}."]
    assert first.metadata == {"answer": "\\frac{1}{2}"}
    assert first.reference is None
    assert second == Skip("all solutions right")
    assert third == Skip("no solution with a boxed answer")


def test_verifiable_completions_stand_alone():
    examples = read("verifiable")
    assert [(one.completions[0], one.best) for one in examples[1:]] == [
        ("5", 0),
        ("\\boxed{6}", 1),
        ("\\boxed{5}", 0),
    ]
    assert examples[0].best == 1


def test_chosen_rejected_in_all_of_trls_forms():
    first, second, third, fourth = read("pairs")
    assert (first.prompt, list(first.completions)) == ("Name a prime.", ["7", "8"])
    assert (second.prompt[0]["content"], second.reference) == ("Name a river.", "The Danube")
    assert best(second) == "The Rhine"
    assert [turn["role"] for turn in best(third)] == ["assistant", "tool", "assistant"]
    assert fourth == Skip("the rejected completion has the higher score")


USER = {"role": "user", "content": "Go on."}
SAID = {"role": "assistant", "content": "Well."}


def answer(content):
    return {"role": "assistant", "content": content}


def test_an_explicit_prompt_comes_before_turns_that_both_sides_share():
    row = {
        "prompt": "Hi.",
        "chosen": [SAID, USER, answer("a")],
        "rejected": [SAID, USER, answer("b")],
    }
    [example] = chosen_rejected(row)
    assert [turn["content"] for turn in example.prompt] == ["Hi.", "Well.", "Go on."]


def test_sides_that_answer_different_prompts_are_refused():
    sides = {"chosen": [USER, SAID], "rejected": [{**USER, "content": "Stop."}, SAID]}
    with pytest.raises(TaskError, match="expected an answer after the common turns"):
        list(chosen_rejected(sides))


def test_ranked_by_scores_ranks_or_label():
    first, second, third, fourth = read("ranked")
    assert (best(first), first.metadata["strength"]) == ("7", 3)
    assert (best(second), second.metadata["strength"]) == ("The Rhine", 1)
    assert (best(third), third.reference, third.metadata) == ("Oak", "An elm", {})
    assert fourth == TIE
    for columns in ({}, {"scores": [1, 2], "label": 0}):
        with pytest.raises(TaskError, match="expected one of the columns scores, ranks, label"):
            list(ranked({"prompt": "p", "completions": ["a", "b"], **columns}))
    with pytest.raises(TaskError, match="expected a score per completion, found 1 for 2"):
        list(ranked({"prompt": "p", "completions": ["a", "b"], "scores": [1]}))


SAME = [
    ("4", "4.0"),
    ("\\frac{1}{2}", "0.5"),
    ("\\dfrac12", "1/2"),
    ("-\\frac{3}{4}", "-0.75"),
    ("$1,000$", "1000"),
    ("50\\%", "50"),
    ("x = 3", "3"),
    ("\\left(1, 2\\right)", "(1,2)"),
    ("90^\\circ", "90"),
    ("\\text{ (A)}", "(A)"),
    (" 7. ", "7"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_answer_in_other_words(first, second):
    assert same_answer(first, second)
    assert same_answer(second, first)


@pytest.mark.parametrize(
    ("first", "second"), [("4", "-4"), ("1/2", "2"), ("(1,2)", "(2,1)"), ("x", "y"), ("1/0", "0")]
)
def test_different_answers(first, second):
    assert not same_answer(first, second)


@pytest.mark.parametrize(
    ("written", "held"),
    [
        ("\\boxed{4} then \\boxed{5}", "5"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{cut", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_box(written, held):
    assert last_box(written) == held


REFUSED = {
    "three of each style": ("rmbench", {"chosen": ["a"]}, "expected 3 chosen and 3 rejected"),
    "a completion that is no object": ("ultrafeedback", {"completions": ["a"]}, "expected objects"),
    "a score that is no number": (
        "ranked",
        {"scores": [1, "many", 3]},
        "scores: expected a number",
    ),
    "a score that is not finite": ("ranked", {"scores": [1, float("nan"), 3]}, "found nan"),
    "a strength out of range": ("helpsteer2", {"preference_strength": -100}, "found -100"),
    "no answer": ("math", {"solution": "It is a half."}, "a solution that boxes it; found neither"),
    "solutions that are no texts": ("math", {"completions": [1]}, "completions: expected texts"),
    "a label of the other form": ("llmbar", {"label": 0}, "label: expected one of .1, 2., found 0"),
}


@pytest.mark.parametrize(("name", "change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_value_the_set_does_not_have_is_refused(name, change, message):
    with pytest.raises(TaskError, match=message):
        list(SOURCES[name].convert({**rows(name)[0], **change}))


WHOLE = {
    "judgebench": ("judgebench_pairs", 150),
    "llmbar": ("llmbar_pairs", 150),
    "rmbench": ("rmbench", 1227),
    "hh-rlhf": ("hh_rlhf_harmless", 150),
    "rewardmath": ("rewardmath_bon10_examples", 2),
}


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="the samples of public data sets are not at ../shared/data"
)
@pytest.mark.parametrize("name", WHOLE)
def test_the_samples_of_the_benchmarks_are_read_whole(spct, name):
    file, expected = WHOLE[name]
    code, output, errors = spct(
        "data", name, SHARED / f"{file}.jsonl", "-o", "tasks.jsonl", "--json"
    )
    assert (code, errors) == (0, "")
    counts = json.loads(output)
    assert counts["bad"] == 0
    assert counts["written"] == {"tasks.jsonl": expected}
    labels = [json.loads(line)["label"] for line in Path("tasks.jsonl").read_text().splitlines()]
    assert len(labels) < 100 or 0.4 < sum(labels) / len(labels) < 0.6
