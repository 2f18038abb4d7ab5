"""Write the prompts of tasks as what OpenRLHF trains a policy on.

    python ../data/prompts.py tasks.jsonl > prompts.jsonl

The label carries the conversation to the judge, so that nothing has to be read back from what the
chat template rendered, and the task's reference, if it has one.
"""

import json
import sys
from pathlib import Path

from spct_plugin.data.rows import BadRow, read_tasks

for row in read_tasks(Path(sys.argv[1])):
    if isinstance(row, BadRow):
        sys.exit(row.within(sys.argv[1]))
    messages = [{"role": turn.role, "content": turn.content} for turn in row.task.prompt]
    label = {"messages": messages, "reference": row.task.reference}
    print(json.dumps({"prompt": messages, "label": label}))
