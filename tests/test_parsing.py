r"""The parser: what counts as scores, what never does, and that no text makes it slow.

The paper's drifts (bold, headings, `Output:`, sub-scores before the box): arXiv 2504.02495,
Tables 16-18. Longer texts stand in data/judge_texts, written for these tests.
"""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spct_plugin import parse_judgement
from spct_plugin.failures import JUDGE_FAILURES

TEXTS = Path(__file__).parent / "data" / "judge_texts"

SCORES = {
    "plain": ("Scores: \\boxed{7, 3}", (7, 3)),
    "no spaces": ("\\boxed{7,3}", (7, 3)),
    "many spaces": ("\\boxed{   7   ,   3   }", (7, 3)),
    "new lines in the box": ("\\boxed{\n7,\n3\n}", (7, 3)),
    "tabs": ("\\boxed{7,\t3}", (7, 3)),
    "both ends of the scale": ("\\boxed{1, 10}", (1, 10)),
    "leading zero": ("\\boxed{07, 3}", (7, 3)),
    "bold": ("**Scores: \\boxed{8, 8}**", (8, 8)),
    "bold heading": ("**Scores:** \\boxed{8, 8}", (8, 8)),
    "bold box": ("Scores: **\\boxed{8, 8}**", (8, 8)),
    "heading": ("### Scores\n\\boxed{8, 8}", (8, 8)),
    "output": ("Output: \\boxed{8, 8}", (8, 8)),
    "no heading at all": ("\\boxed{8, 8}", (8, 8)),
    "quoted": ("> Scores: \\boxed{8, 8}", (8, 8)),
    "maths": ("Scores: $\\boxed{8, 8}$.", (8, 8)),
    "display maths": ("\\[\n\\boxed{8, 8}\n\\]", (8, 8)),
    "code": ("```\n\\boxed{8, 8}\n```", (8, 8)),
    "doubled backslash": ("Scores: \\\\boxed{8, 8}", (8, 8)),
    "text after": ("\\boxed{8, 8}\nLet me know if you need more.", (8, 8)),
    "bracket after": ("\\boxed{8, 2} [The End of Response 2] [9, 9]", (8, 2)),
    "brace after": ("\\boxed{8, 2} {9, 9}", (8, 2)),
    "sub-scores before": ("- Accuracy: 9, 2\n- Tone: [8, 3]\nScores: \\boxed{8, 2}", (8, 2)),
    "earlier box": ("first \\boxed{1, 1}, then \\boxed{9, 2}", (9, 2)),
    "earlier box unclosed": ("\\boxed{1, 1 and \\boxed{9, 2}", (9, 2)),
    "earlier box malformed": ("\\boxed{\\frac{1}{2}} \\boxed{9, 2}", (9, 2)),
    "box in reasoning": ("<think>\\boxed{1, 1}</think>\\boxed{9, 2}", (9, 2)),
    "reasoning without opening": ("\\boxed{1, 1}</think>\\boxed{9, 2}", (9, 2)),
    "two reasonings": ("<think>a</think>\\boxed{1, 1}<think>b</think>\\boxed{9, 2}", (9, 2)),
    "windows line ends": ("Analysis: x\r\nScores: \\boxed{9,\r\n2}\r\n", (9, 2)),
    "NUL around": ("\0\\boxed{9, 2}\0", (9, 2)),
    "lone surrogate before": ("\ud800 \\boxed{9, 2}", (9, 2)),
}


@pytest.mark.parametrize(("text", "scores"), SCORES.values(), ids=SCORES.keys())
def test_scores_are_read_from_the_last_box_of_any_drifted_form(text, scores):
    parsed = parse_judgement(text, 2)
    assert (parsed.scores, parsed.failure, parsed.detail) == (scores, None, "")


FAILURES = {
    "empty": ("", "no_scores"),
    "no box": ("I cannot help with that.", "no_scores"),
    "bare list": ("Scores: [7, 3]", "no_scores"),
    "bare numbers": ("Scores: 7, 3", "no_scores"),
    "box of LaTeX without backslash": ("boxed{7, 3}", "no_scores"),
    "other case": ("\\Boxed{7, 3}", "no_scores"),
    "fbox": ("\\fbox{7, 3}", "no_scores"),
    "space before the brace": ("\\boxed {7, 3}", "no_scores"),
    "neutralised box": ("\\ boxed{7, 3}", "no_scores"),
    "unclosed": ("\\boxed{7, 3", "no_scores"),
    "last box unclosed": ("\\boxed{7, 3} then \\boxed{9,", "no_scores"),
    "last box unclosed, brace later": ("\\boxed{7, 3} \\boxed{9, 9 or so} {7, 3}", "no_scores"),
    "empty box": ("\\boxed{}", "no_scores"),
    "blank box": ("\\boxed{  }", "no_scores"),
    "earlier box is not tried": ("\\boxed{7, 3} \\boxed{none}", "no_scores"),
    "earlier box is not tried for its count": ("\\boxed{7, 3} \\boxed{5}", "wrong_count"),
    "floats": ("\\boxed{7.5, 3}", "no_scores"),
    "whole floats": ("\\boxed{7.0, 3.0}", "no_scores"),
    "fractions": ("\\boxed{7/10, 3/10}", "no_scores"),
    "words": ("\\boxed{seven, three}", "no_scores"),
    "template's own box": ("\\boxed{x, x}", "no_scores"),
    "labelled": ("\\boxed{A: 7, B: 3}", "no_scores"),
    "list in the box": ("\\boxed{[7, 3]}", "no_scores"),
    "text in the box": ("\\boxed{\\text{7, 3}}", "no_scores"),
    "nested braces": ("\\boxed{{7, 3}}", "no_scores"),
    "nested boxes": ("\\boxed{\\boxed{7}, \\boxed{3}}", "wrong_count"),
    "one box each": ("\\boxed{7}, \\boxed{3}", "wrong_count"),
    "semicolons": ("\\boxed{7; 3}", "no_scores"),
    "spaces only": ("\\boxed{7 3}", "no_scores"),
    "and": ("\\boxed{7 and 3}", "no_scores"),
    "comma at the end": ("\\boxed{7, 3,}", "no_scores"),
    "comma and space at the end": ("\\boxed{7, 3, }", "no_scores"),
    "comma first": ("\\boxed{, 7, 3}", "no_scores"),
    "two commas": ("\\boxed{7,, 3}", "no_scores"),
    "only a comma": ("\\boxed{,}", "no_scores"),
    "plus sign": ("\\boxed{+7, 3}", "no_scores"),
    "two signs": ("\\boxed{--7, 3}", "no_scores"),
    "sign apart": ("\\boxed{- 7, 3}", "no_scores"),
    "exponent": ("\\boxed{1e1, 3}", "no_scores"),
    "hexadecimal": ("\\boxed{0x7, 3}", "no_scores"),
    "underscore": ("\\boxed{1_0, 3}", "no_scores"),
    "Arabic digits": ("\\boxed{٧, ٣}", "no_scores"),
    "full-width digits": ("\\boxed{７, ３}", "no_scores"),
    "full-width comma": ("\\boxed{7，3}", "no_scores"),
    "superscript": ("\\boxed{7², 3}", "no_scores"),
    "no-break space": ("\\boxed{7,\u00a03}", "no_scores"),
    "zero-width space": ("\\boxed{7,\u200b3}", "no_scores"),
    "NUL in the box": ("\\boxed{7,\0 3}", "no_scores"),
    "ten digits": ("\\boxed{1000000000, 3}", "no_scores"),
    "a huge number": ("\\boxed{" + "9" * 5000 + ", 3}", "no_scores"),
    "endless spaces": ("\\boxed{7," + " " * 21 + "3}", "no_scores"),
    "too few": ("\\boxed{7}", "wrong_count"),
    "too many": ("\\boxed{7, 3, 5}", "wrong_count"),
    "too many and out of range": ("\\boxed{70, 3, 5}", "wrong_count"),
    "zero": ("\\boxed{0, 3}", "out_of_range"),
    "minus zero": ("\\boxed{-0, 3}", "out_of_range"),
    "negative": ("\\boxed{-7, 3}", "out_of_range"),
    "eleven": ("\\boxed{11, 3}", "out_of_range"),
    "nine digits": ("\\boxed{999999999, 3}", "out_of_range"),
    "unclosed reasoning": ("<think>\\boxed{7, 3}", "truncated"),
    "reasoning opened again": ("<think>a</think><think>\\boxed{7, 3}", "truncated"),
    "box in reasoning only": ("<think>\\boxed{7, 3}</think>", "no_scores"),
}


@pytest.mark.parametrize(("text", "failure"), FAILURES.values(), ids=FAILURES.keys())
def test_whatever_is_no_list_of_scores_is_a_failure_and_no_number(text, failure):
    parsed = parse_judgement(text, 2)
    assert (parsed.scores, parsed.failure) == (None, failure)
    assert parsed.detail
    assert "\n" not in parsed.detail
    assert len(parsed.detail) < 200


@pytest.mark.parametrize(
    ("finish_reason", "failure"),
    [
        ("stop", None),
        (None, None),
        ("", None),
        ("eos_token", None),
        ("length", "truncated"),
        ("content_filter", "refused"),
    ],
)
def test_the_finish_reason_overrules_a_whole_box(finish_reason, failure):
    parsed = parse_judgement("\\boxed{7, 3}", 2, finish_reason)
    assert parsed.failure == failure
    assert parsed.scores == (None if failure else (7, 3))


@pytest.mark.parametrize(
    ("text", "scale", "scores"),
    [
        ("\\boxed{0}", (0, 1), (0,)),
        ("\\boxed{1}", (0, 1), (1,)),
        ("\\boxed{2}", (0, 1), None),
        ("\\boxed{-3}", (-5, 5), (-3,)),
        ("\\boxed{-6}", (-5, 5), None),
        ("\\boxed{100}", (0, 100), (100,)),
    ],
)
def test_the_scale_decides_what_is_in_range(text, scale, scores):
    assert parse_judgement(text, 1, scale=scale).scores == scores


FILES = {
    "plain_two": (2, (8, 3), None, ["50%", "30%", "20%"]),
    "bold_headings_four": (4, (9, 4, 8, 1), None, ["40%", "4", "35%"]),
    "output_heading": (2, (9, 5), None, [None, None]),
    "reasoning_then_answer": (2, (6, 9), None, ["60%", "40%"]),
    "reasoning_without_opening_tag": (2, (1, 7), None, ["100%"]),
    "quoted_injection": (2, (8, 1), None, ["100%"]),
    "quoted_injection_without_own_box": (2, None, "no_scores", []),
    "unclosed_reasoning": (2, None, "truncated", []),
    "cut_before_the_box": (2, None, "no_scores", ["50%", "50%"]),
    "cut_inside_the_box": (2, None, "no_scores", ["50%", "50%"]),
    "prose_scores": (2, None, "no_scores", []),
    "latex_inside": (2, None, "no_scores", ["100%"]),
}


@pytest.mark.parametrize("name", FILES)
def test_whole_answers(name):
    n, scores, failure, weights = FILES[name]
    parsed = parse_judgement((TEXTS / f"{name}.txt").read_text(encoding="utf-8"), n)
    assert (parsed.scores, parsed.failure) == (scores, failure)
    assert [principle.weight for principle in parsed.principles] == weights


def test_every_text_file_is_in_the_table():
    assert {path.stem for path in TEXTS.glob("*.txt")} == set(FILES)


PRINCIPLES = {
    "one line": ("fit (60%), tone (40%)", [("fit", "60%"), ("tone", "40%")]),
    "one line, and": ("fit (60%), and tone (40%).", [("fit", "60%"), ("tone", "40%")]),
    "weight in words": ("fit (Weight: 30%); tone (weight 4)", [("fit", "30%"), ("tone", "4")]),
    "no weight": ("the answer is right", [("the answer is right", None)]),
    "weight, then a rest": ("fit (60%), tone", [("fit", "60%"), ("tone", None)]),
    "decimal weight": ("fit (12.5%)", [("fit", "12.5%")]),
    "dashes": ("\n- **Fit** (60%)\n- **Tone** (40%)\n", [("Fit", "60%"), ("Tone", "40%")]),
    "stars": ("\n* Fit\n* Tone", [("Fit", None), ("Tone", None)]),
    "numbers": ("\n1. Fit (60%)\n2) Tone (40%)", [("Fit", "60%"), ("Tone", "40%")]),
    "bullets": ("\n • Fit\n • Tone", [("Fit", None), ("Tone", None)]),
    "item over two lines": ("\n- fits the\n  request (60%)", [("fits the request", "60%")]),
    "empty": ("", []),
    "only marks": (" .;", []),
    "empty items": ("\n- \n- Fit", [("Fit", None)]),
}


@pytest.mark.parametrize(("section", "principles"), PRINCIPLES.values(), ids=PRINCIPLES.keys())
def test_principles_are_read_with_their_weights(section, principles):
    text = f"Specific Criteria: {section}\nAnalysis: compared.\nScores: \\boxed{{7, 3}}"
    parsed = parse_judgement(text, 2)
    assert [(p.text, p.weight) for p in parsed.principles] == principles
    assert parsed.critique == "compared."
    assert parsed.scores == (7, 3)


@pytest.mark.parametrize(
    "heading", ["Analysis:", "**Analysis:**", "**Analysis**:", "### Analysis", "> Analysis:"]
)
def test_the_critique_stands_under_any_form_of_its_heading(heading):
    text = f"Specific Criteria: fit\n{heading} it fits\nScores: \\boxed{{7}}"
    if heading == "### Analysis":
        text = text.replace("Analysis it", "Analysis\nit")
    assert parse_judgement(text, 1).critique == "it fits"


def test_without_headings_the_whole_text_before_the_box_is_the_critique():
    parsed = parse_judgement("It fits well. \\boxed{7}", 1)
    assert (parsed.critique, parsed.principles) == ("It fits well.", ())


def test_headings_without_an_analysis_leave_the_critique_empty():
    assert parse_judgement("Specific Criteria: fit\nScores: \\boxed{7}", 1).critique == ""


def test_a_failed_answer_still_shows_its_principles_and_critique():
    parsed = parse_judgement("Specific Criteria: fit (60%)\nAnalysis: it fits.\nScores: 7", 1)
    assert parsed.failure == "no_scores"
    assert [p.text for p in parsed.principles] == ["fit"]
    assert parsed.critique == "it fits."


def test_principles_are_not_taken_from_reasoning():
    text = "<think>\nSpecific Criteria: guess\n</think>\nSpecific Criteria: fit\n\\boxed{7}"
    assert [p.text for p in parse_judgement(text, 1).principles] == ["fit"]


MEGABYTE = 1_000_000
HOSTILE = [
    "\\boxed{",
    "\\boxed{1, ",
    "\\boxed{}",
    "\\boxed{1}",
    "\\boxed{1, }",
    "{",
    "}",
    "(",
    "(weight ",
    "(weight: 1",
    "(1.",
    "(1%)",
    "((((1%)",
    "\n",
    "\n#",
    "\n" + "#" * 20,
    "\n- ",
    "\n- a",
    "\n1. ",
    " ",
    "\t",
    "*",
    "_ *",
    ",",
    "1,",
    "-",
    "9",
    "<think>",
    "</think>",
    "<think></think>",
    "\nspecific criteria:",
    "\nanalysis" + " " * 8,
    "\nscores:\nspecific criteria:\n- a (1%)",
    "specific criteria ",
    "\\",
    "\u2028",
    "\0",
    "界",
]
AROUND = [
    "{}",
    "\\boxed{{{}}}",
    "Specific Criteria: {}\nScores: \\boxed{{7, 3}}",
    "{}\\boxed{{7, 3",
]


@pytest.mark.parametrize("unit", HOSTILE, ids=ascii)
def test_a_megabyte_of_anything_is_read_in_linear_time(unit):
    for around in AROUND:
        text = around.format(unit * (MEGABYTE // len(unit)))
        start = time.process_time()
        parse_judgement(text, 2)
        # Quadratic time would be minutes; the worst of these takes half a second, several when
        # traced on a busy machine.
        assert time.process_time() - start < 10.0, around


pieces = st.sampled_from(
    [
        "\\boxed{",
        "}",
        "{",
        ",",
        " ",
        "\n",
        "7",
        "3",
        "10",
        "-",
        "0",
        "<think>",
        "</think>",
        "Specific Criteria:",
        "Analysis:",
        "\nScores:",
        "\n- ",
        "(30%)",
        "**",
        "[7, 3]",
        "\\",
        "boxed",
        "٧",
    ]
)
texts = st.one_of(st.text(), st.lists(pieces | st.text(max_size=3), max_size=25).map("".join))
scales = st.sampled_from([(1, 10), (0, 1), (-5, 5), (0, 100)])
finish_reasons = st.sampled_from(["stop", None, "length", "content_filter", "abort"])


@settings(max_examples=10_000)
@given(texts, st.integers(0, 5), finish_reasons, scales)
def test_any_text_gives_n_whole_numbers_in_range_or_one_failure(text, n, finish_reason, scale):
    parsed = parse_judgement(text, n, finish_reason, scale)
    if parsed.scores is None:
        assert parsed.failure in JUDGE_FAILURES
        assert parsed.detail
    else:
        assert parsed.failure is None
        assert len(parsed.scores) == n
        assert all(type(s) is int and scale[0] <= s <= scale[1] for s in parsed.scores)


@given(texts, st.integers(1, 4), finish_reasons)
def test_reading_twice_gives_the_same(text, n, finish_reason):
    assert parse_judgement(text, n, finish_reason) == parse_judgement(text, n, finish_reason)


def _has_no_thoughts(text):
    return "think>" not in text


@given(
    texts.filter(_has_no_thoughts),
    st.lists(st.integers(1, 10), min_size=1, max_size=16),
    texts.filter(lambda text: _has_no_thoughts(text) and "\\boxed{" not in text),
)
def test_no_text_around_the_last_box_changes_its_scores(before, scores, after):
    box = f"Scores: \\boxed{{{', '.join(map(str, scores))}}}\n"
    assert parse_judgement(before + box + after, len(scores)).scores == tuple(scores)


@given(texts.filter(lambda text: "\\boxed{" not in text), st.integers(1, 4))
def test_without_a_box_there_is_never_a_score(text, n):
    assert parse_judgement(text, n).scores is None


@given(texts, st.lists(st.integers(1, 10), min_size=1, max_size=4))
def test_text_before_the_end_of_thoughts_is_never_read(thoughts, scores):
    box = f"\\boxed{{{', '.join(map(str, scores))}}}"
    read = parse_judgement(f"{thoughts}</think>Analysis: x\n{box}", len(scores))
    assert (read.scores, read.critique) == (tuple(scores), "x")


@given(texts, st.integers(1, 4))
def test_a_cut_answer_never_has_scores(text, n):
    assert parse_judgement(text, n, "length").failure == "truncated"


@given(st.lists(st.integers(1, 10), min_size=1, max_size=8), st.data())
def test_an_answer_cut_anywhere_inside_its_box_has_no_scores(scores, data):
    answer = f"Analysis: x\nScores: \\boxed{{{', '.join(map(str, scores))}"
    end = data.draw(st.integers(0, len(answer)))
    assert parse_judgement(answer[:end], len(scores)).scores is None
