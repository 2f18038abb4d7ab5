"""How a prompt is passed: `TokensPrompt(prompt_token_ids=[...])`."""

TokensPrompt = dict
