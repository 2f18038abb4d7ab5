"""Write pairs for train_rm.sh: a right judgement and a wrong one of the same task.

    python ../data/pairs.py trajectories.jsonl rl_trajectories.jsonl > pairs.jsonl

Each is what a meta RM reads in use: the task, then the judgement. judge.yaml says what of a
completion is shown, start/ has the tokenizer. What is longer than engine.context is left out:
OpenRLHF would cut it, and scores stand at the end.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from spct_plugin import SPCTConfig
from spct_plugin.budget import view_task
from spct_plugin.data.rows import BadRow
from spct_plugin.engines.tokenizer import ChatTokenizer
from spct_plugin.meta_rm import meta_messages
from spct_plugin.plugins import load_plugins
from spct_plugin.templates import any_of, break_tokens, load_meta_template
from spct_plugin.training.trajectories import Trajectories, read_trajectories

Messages = list[dict[str, str]]

config = SPCTConfig.load("judge.yaml")
template = load_meta_template("meta", load_plugins(config.plugins).templates)
chats = ChatTokenizer("start")
chats.tokenizer.chat_template = Path(__file__).with_name("meta_rm.jinja").read_text()
special = any_of(chats.tokenizer.get_added_vocab())


def judgements(found: Trajectories) -> Iterator[tuple[bool, Messages]]:
    """Give a task's judgements that fit, and whether each is right."""
    budget = config.budget
    task = view_task(found.task, budget.completion_view, budget.max_completion_chars)
    for judgement in found.judgements:
        if judgement.scores is None or not found.is_whole(judgement):
            continue
        messages = meta_messages(template, task, judgement.order, judgement.text)
        for message in messages:  # no text becomes a control token
            message["content"] = break_tokens(message["content"], special)
        if len(chats.encode(messages, add_generation_prompt=False)) <= config.engine.context:
            yield found.is_right(judgement), messages


for path in map(Path, sys.argv[1:]):
    for found in read_trajectories(path):
        if isinstance(found, BadRow):
            sys.exit(found.within(path))
        if found.hinted:
            continue
        read = list(judgements(found))
        right, wrong = ([text for good, text in read if good is wanted] for wanted in (True, False))
        for chosen, rejected in itertools.product(right, wrong):
            print(json.dumps({"chosen": chosen, "rejected": rejected}))
