"""UltraFeedback with GPT-4's ratings, MIT.

openbmb/UltraFeedback {source, instruction, models, completions: [{model, principle,
custom_system_prompt, response, annotations, critique, overall_score, fine-grained_score}],
correct_answers, incorrect_answers}; arXiv:2310.01377.

`fine-grained_score` (mean of the four aspects' ratings, 1 to 5) decides, as `overall_score` (the
critique's number) is known to be wrong in places; argilla/ultrafeedback-binarized-preferences.
"""

from __future__ import annotations

from collections.abc import Iterator

from spct_plugin.data.sources import Example, Row, Skip, best_of, items, keep, number, text
from spct_plugin.errors import TaskError
from spct_plugin.types import is_mapping


def ultrafeedback(row: Row) -> Iterator[Example | Skip]:
    """Read an instruction with its (mostly four) rated completions."""
    rated = items(row, "completions")
    if not all(is_mapping(one) for one in rated):
        raise TaskError(f"completions: expected objects, found {rated!r:.40}")
    key = "fine-grained_score"
    scores = [number(one.get(key), f"completions.{key}") for one in rated]
    completions = [text(one, "response") for one in rated]
    yield best_of(text(row, "instruction"), completions, scores, keep(row, "source"))
