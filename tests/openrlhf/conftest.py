"""What the OpenRLHF tests share; they run in an environment of their own (make setup-openrlhf)."""

import pytest


@pytest.fixture(scope="session")
def tokenizer(policy):
    """Load the tokenizer of the tests' policy."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(policy)


@pytest.fixture
def prompt(tokenizer):
    """Render the prompt of the in-process tests as OpenRLHF does."""
    turns = [{"role": "user", "content": "write a note"}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
