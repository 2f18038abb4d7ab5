"""Make the model that training starts from, in start/: a base model with a chat model's tokenizer.

    python ../launch/start.py google/gemma-2-27b google/gemma-2-27b-it [PAD_TOKEN]

OpenRLHF trains and saves a model with the tokenizer that lies beside it: chat template and end
token must be there from the start. It also runs whatever code comes with a model (trust_remote_code
is always on); none is kept here, as transformers has these models itself.
"""

import json
import sys

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer

base, chat, *pad = sys.argv[1:]
weights = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"]
start = snapshot_download(base, local_dir="start", allow_patterns=weights)
tokenizer = AutoTokenizer.from_pretrained(chat)
if pad:
    tokenizer.pad_token = pad[0]
tokenizer.save_pretrained(start)

with open(f"{start}/config.json", encoding="utf-8") as file:
    config = json.load(file)
config.pop("auto_map", None)  # the names of such code
with open(f"{start}/config.json", "w", encoding="utf-8") as file:
    json.dump(config, file, indent=2)
