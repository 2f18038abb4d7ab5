"""NVIDIA's HelpSteer sets with human preferences and their strength, CC-BY-4.0.

- helpsteer2: nvidia/HelpSteer2, preference/preference.jsonl.gz {split, prompt, response_1,
  response_2, preference_strength, preference_statement, preference_elaboration,
  three_most_similar_preferences, all_preferences_unprocessed}; arXiv:2410.01257. Later turns stand
  in the prompt behind "<extra_id_1>User" and "<extra_id_1>Assistant".
- helpsteer3: nvidia/HelpSteer3, preference/{train,validation}.jsonl.gz {domain, language, context,
  response1, response2, overall_preference, individual_preference}; arXiv:2505.11475.

Strength in both: -3 (the first is much better) to 3 (the second is), 0 a tie.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from spct_plugin.data.sources import Example, Row, Skip, best_of, items, keep, one_of, text

STRENGTHS = range(-3, 4)


def helpsteer2(row: Row) -> Iterator[Example | Skip]:
    """Read a row of HelpSteer2-Preference."""
    first, *later = re.split(r"<extra_id_1>(User|Assistant)\s*", text(row, "prompt"))
    prompt = [{"role": "user", "content": first.strip()}]
    for speaker, said in zip(later[::2], later[1::2], strict=True):
        prompt.append({"role": speaker.lower(), "content": said.strip()})
    preference = STRENGTHS[one_of(row, "preference_strength", STRENGTHS)]
    pair = [text(row, "response_1"), text(row, "response_2")]
    yield best_of(prompt, pair, [-preference, 0], keep(row, "split"))


def helpsteer3(row: Row) -> Iterator[Example | Skip]:
    """Read a row of HelpSteer3's preference part."""
    preference = STRENGTHS[one_of(row, "overall_preference", STRENGTHS)]
    pair = [text(row, "response1"), text(row, "response2")]
    metadata = keep(row, "domain", "language")
    yield best_of(items(row, "context"), pair, [-preference, 0], metadata)
