"""What the OpenRLHF tests share; they run in an environment of their own (make setup-openrlhf)."""

import pytest


@pytest.fixture(scope="session")
def tokenizer(policy):
    """Load the tokenizer of the tests' policy."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(policy)
