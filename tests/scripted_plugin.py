"""A plugin for the trainer tests: an engine whose answers follow from the completions it is shown.

It scores a completion by a number that the text fixes, so that a test can tell which completion
got which score, whatever the order. `fails` says whose judgements fail.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Literal

from spct_plugin import EngineError, hookimpl
from spct_plugin.engines import Choice, EngineConfig
from spct_plugin.testing import ScriptedEngine

RESPONSE = re.compile(r"\[The Begin of Response \d+ \w+\]\n(.*?)\n\[The End of Response", re.DOTALL)


def content_score(text: str) -> int:
    """Score a completion 1..10 by nothing but its text."""
    return hashlib.sha256(text.encode()).digest()[0] % 10 + 1


class ScriptedConfig(EngineConfig):
    kind: Literal["scripted"] = "scripted"
    fails: Literal["none", "some", "all", "later", "rank1"] = "none"
    trace: Path | None = None

    def build(self):
        return ScriptedEngine(self._answer)

    def _answer(self, request):
        shown = RESPONSE.findall(request.prompt)
        if self.trace is not None:
            rank = os.environ.get("RANK", "0")
            with self.trace.with_suffix(f".{rank}").open("a") as file:
                file.write(json.dumps({"responses": shown, "order": request.order}) + "\n")
        if self._failing(shown):
            return EngineError("the judge is out")
        return Choice("Scores: \\boxed{" + ", ".join(str(content_score(t)) for t in shown) + "}")

    def _failing(self, shown):
        if self.fails == "rank1" and os.environ.get("RANK") == "1":
            raise RuntimeError("this rank's judging is broken")
        if self.fails == "later" and self.trace is not None:
            return self.trace.with_suffix(".0").read_text().count("\n") > 16
        odd = hashlib.sha256("".join(sorted(shown)).encode()).digest()[1] % 2
        return self.fails == "all" or (self.fails == "some" and odd)


@hookimpl
def spct_register_engines(register):
    register("scripted", ScriptedConfig)
