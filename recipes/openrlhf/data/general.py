"""Write general instruction data as the texts that rft.sh mixes in.

    python ../data/general.py start instructions.jsonl > general.jsonl

A line of the input is {"messages": [...]} that end with the assistant's turn, which is learnt;
start is the folder of the model to be trained.
"""

import json
import sys
from pathlib import Path

from spct_plugin.training.chat import Chat

model, source = sys.argv[1:]
chat = Chat(model, "openrlhf")
with Path(source).open(encoding="utf-8") as lines:
    for line in lines:
        prompt, completion = chat.last_turn(json.loads(line)["messages"])
        print(json.dumps({"prompt": prompt, "completion": completion}))
