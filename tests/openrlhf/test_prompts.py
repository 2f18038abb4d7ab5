"""Reading rendered prompts back, by chat templates of the kinds that models have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from spct_openrlhf_prompts import ChatReader
from spct_plugin import TaskError

# Written for these tests after the forms that the named families use.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "default system": (  # Qwen 2.5
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "no system": (  # Gemma
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
    ),
    "plain marks": (  # DeepSeek-V2
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n\n"
        "{% elif m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}"
        "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    "no marks before the answer": (  # Llama 2
        "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} </s>"
        "{% else %}<s>[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    ),
    "system as a user": (  # the tiny models
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{{ m.content }}</s>"
        "{% else %}<s>{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    ),
}
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def tokenizer(name):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(sorted(letters))}, []))
    made.normalizer = normalizers.NFC()  # as Qwen's
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"extra_special_tokens": SPECIAL})
    made.chat_template = TEMPLATES[name]
    return made


READERS = {name: (ChatReader(made), made) for name in TEMPLATES if (made := tokenizer(name))}

words = st.text(alphabet="ab :{}'\n?", min_size=1, max_size=12).map(lambda t: f"x{t}x")


@st.composite
def conversations(draw, name):
    texts = draw(st.lists(words, min_size=1, max_size=5).filter(lambda t: len(t) % 2))
    turns = [
        {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)
    ]
    if name != "no system" and draw(st.booleans()):
        turns.insert(0, {"role": "system", "content": draw(words)})
    return turns


@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
def test_what_was_rendered_is_read_back(name, data):
    reader, made = READERS[name]
    turns = data.draw(conversations(name))
    prompt = made.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    read = reader.messages(prompt)
    if name == "plain marks" and turns[0]["role"] == "system":
        # The text alone does not say that its beginning is a system turn's.
        assert made.apply_chat_template(read, tokenize=False, add_generation_prompt=True) == prompt
    else:
        assert read == turns


def test_a_user_who_writes_like_a_plain_mark_is_read_as_one_user():
    reader, made = READERS["plain marks"]
    turns = [{"role": "user", "content": "why does it say\n\nAssistant: hello"}]
    prompt = made.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert reader.messages(prompt) == turns


@pytest.mark.parametrize(
    "prompt",
    [
        "What is a prime?",
        "<|im_start|>user\nHi<|im_end|>\n",
        "<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n",
    ],
)
def test_what_cannot_be_read_is_one_clear_line(prompt):
    with pytest.raises(TaskError, match=r"put \{'messages': \[\.\.\.\]\} into the label"):
        READERS["chatml"][0].messages(prompt)


def test_a_token_that_marks_no_turn_may_stand_in_a_text():
    made = tokenizer("chatml")
    made.add_special_tokens({"pad_token": "<pad>"})
    turns = [{"role": "user", "content": "what is <pad>, and <s>this</s>?"}]
    prompt = made.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ChatReader(made).messages(prompt) == turns


def test_a_template_that_writes_the_date_is_refused_at_once():
    dated = tokenizer("chatml")
    dated.chat_template = "{{ strftime_now('%d %b %Y') }}" + dated.chat_template
    turns = [{"role": "user", "content": "Hi"}]
    prompt = dated.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    with pytest.raises(TaskError, match="could not be read tomorrow"):
        ChatReader(dated).messages(prompt)


def test_a_template_for_one_turn_only_is_one_clear_line():
    single = tokenizer("chatml")
    single.chat_template = (
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
        "User: {{ messages[0].content }}\nAssistant:"
    )
    with pytest.raises(TaskError, match=r"cannot show a conversation \(one turn only\)"):
        ChatReader(single).messages("User: Hi\nAssistant:")


def test_a_policy_that_could_see_has_its_tokenizer_in_a_processor():
    class Processor:
        def __init__(self, tokenizer):
            self.tokenizer, self.chat_template = tokenizer, tokenizer.chat_template
            self.apply_chat_template = tokenizer.apply_chat_template

    assert ChatReader(Processor(tokenizer("chatml"))).messages(PROMPT) == [
        {"role": "user", "content": "Hi"}
    ]


def test_a_tokenizer_without_a_chat_template_says_so():
    bare = tokenizer("chatml")
    bare.chat_template = None
    with pytest.raises(TaskError, match=r"no chat template; say openrlhf\.prompts: text"):
        ChatReader(bare).messages("Hi")
    assert ChatReader(bare).completion("Hi there</s>", "Hi") == (" there", True)


PROMPT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("behind", "completion", "is_whole"),
    [
        ("Hello<|im_end|>", "Hello", True),
        ("Hello<|im_end|></s>", "Hello", True),
        ("Hello", "Hello", False),
        ("Hello\n<|im_end|>", "Hello\n", True),
        ("<|im_end|>", "", True),
        ("", "", False),
        (
            "a<|im_end|>\n<|im_start|>assistant\nb</s>",
            "a<|im_end|>\n<|im_start|>assistant\nb",
            True,
        ),
    ],
)
def test_a_completion_is_what_stands_behind_the_prompt(behind, completion, is_whole):
    reader, _ = READERS["chatml"]
    assert reader.completion(PROMPT + behind, PROMPT) == (completion, is_whole)


def test_a_prompt_that_lost_its_head_is_found_by_its_end():
    reader, _ = READERS["chatml"]
    assert reader.completion(PROMPT[15:] + "Hello</s>", PROMPT) == ("Hello", True)
    two = PROMPT + "one<|im_end|>\n" + PROMPT
    answer = f"see {PROMPT}two"
    for dropped in (5, 30, 60):
        assert reader.completion(two[dropped:] + answer + "</s>", two) == (answer, True)


@pytest.mark.parametrize("text", ["5 \u2126", "\u212bngstr\u00f6m", "cafe\u0301"])
def test_a_tokenizer_may_normalise_what_it_was_given(text):
    reader, made = READERS["chatml"]
    prompt = PROMPT.replace("Hi", text)
    query = made.decode(made(prompt + "Hello", add_special_tokens=False)["input_ids"])
    assert not query.startswith(prompt)
    assert reader.completion(query + "<|im_end|>", prompt) == ("Hello", True)


@pytest.mark.parametrize("dropped", range(12, 22))
def test_a_prompt_may_be_cut_within_a_letter(dropped):
    reader, made = READERS["chatml"]
    prompt = PROMPT.replace("Hi", "\u4f60\u597d" * 20)
    ids = made(prompt + "Hello", add_special_tokens=False)["input_ids"]
    assert reader.completion(made.decode(ids[dropped:]), prompt) == ("Hello", False)


def test_a_prompt_that_came_back_otherwise_is_refused():
    reader, _ = READERS["chatml"]
    with pytest.raises(TaskError, match="use the group agent"):
        reader.completion("<|im_start|> user\nHi<|im_end|>\n<|im_start|> assistant\nHello", PROMPT)
