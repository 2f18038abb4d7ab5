"""The words of the offline world: what people say, and how they are asked to say it.

    read_phrase("we met anna at the park") == ("person", "place")

Every topic is a short list of fixed parts, so whether a text has a topic can be read off it, by a
program and by a model of a million parameters. Nothing outside these lists is understood.
"""

from __future__ import annotations

OPENERS = ("greeting",)
SENTENCES = ("person", "food", "animal", "weather", "price", "feeling")
ADVERBIALS = ("place", "day")
CLOSERS = ("apology", "request", "thanks")
TOPICS = OPENERS + SENTENCES + ADVERBIALS + CLOSERS

PARTS: dict[str, tuple[str, ...]] = {
    "greeting": ("hello", "hi there", "good morning", "dear friend"),
    "person": ("we met anna", "peter came along", "i spoke to maria", "john was there"),
    "food": ("we ate soup", "i baked bread", "the rice was good", "they served cake"),
    "animal": ("we fed the rabbit", "the dog slept", "i saw an owl", "a horse went past"),
    "weather": ("it rained a lot", "the sun came out", "it was windy", "some snow fell"),
    "price": ("it cost nine dollars", "the bill was high", "we paid five euros", "it was cheap"),
    "feeling": ("i feel happy", "we were so tired", "i am excited", "we felt proud"),
    "place": ("at the park", "in paris", "by the harbor", "near the station"),
    "day": ("on monday", "by friday", "until sunday", "since tuesday"),
    "apology": ("please forgive me", "my apologies", "sorry for the delay"),
    "request": ("write back soon", "please call me", "let me know"),
    "thanks": ("thank you", "many thanks", "we are grateful"),
}
CARRIERS = ("see you", "we talked", "all is well")
"""Sentences about nothing: an adverbial can lean on one."""

MARKS = {"period": ".", "question": "?", "shout": "!"}

INCLUDE: dict[str, tuple[str, ...]] = {
    "greeting": ("say hello", "open with a greeting"),
    "person": ("name a person", "mention someone we know"),
    "food": ("mention some food", "say what there was to eat"),
    "animal": ("mention an animal", "bring in an animal"),
    "weather": ("mention the weather", "describe the weather"),
    "price": ("mention a price", "talk about money"),
    "feeling": ("share a feeling", "say how it felt"),
    "place": ("name a place", "say where it was"),
    "day": ("name a day", "say when it was"),
    "apology": ("say sorry", "add an apology"),
    "request": ("ask for an answer", "add a request"),
    "thanks": ("say thanks", "thank them"),
}
OMIT: dict[str, tuple[str, ...]] = {
    "person": ("leave out people", "name nobody"),
    "food": ("leave out food", "keep food out of it"),
    "animal": ("leave out animals", "keep animals out of it"),
    "weather": ("leave out the weather", "keep the weather out of it"),
    "price": ("leave out prices", "keep money out of it"),
    "feeling": ("leave out feelings", "keep feelings out of it"),
    "place": ("leave out places", "keep places out of it"),
    "day": ("leave out dates", "keep dates out of it"),
}
END: dict[str, tuple[str, ...]] = {
    "period": ("end with a period",),
    "question": ("end with a question mark",),
    "shout": ("end with an exclamation mark",),
}

MUST = ("you must", "be sure to", "always", "it is vital to")
SHOULD = ("try to", "if possible,", "ideally,", "it would be nice to")
FORMS = ("note", "mail", "card", "letter")
PEOPLE = ("a friend", "my teacher", "our client", "a neighbor")
OPENINGS = (
    "Write a {form} to {person}.",
    "Draft a {form} for {person}.",
    "I need a {form} for {person}.",
)

_TOPIC_OF = {part: topic for topic, parts in PARTS.items() for part in parts}
_TOPIC_OF |= dict.fromkeys(CARRIERS, "")
_LONGEST = max(len(part.split()) for part in _TOPIC_OF)


def split_completion(text: str) -> tuple[list[str], str]:
    """Cut a completion into its phrases and its final mark ("" without one)."""
    text = " ".join(text.lower().split())
    mark = text[-1:] if text.endswith(tuple(MARKS.values())) else ""
    body = text[: len(text) - len(mark)]
    return [phrase.strip() for phrase in body.split(",") if phrase.strip()], mark


def read_phrase(phrase: str) -> tuple[str, ...] | None:
    """Name the topics of a phrase's parts, in order; None when any word of it is unknown."""
    words, topics, start = phrase.split(), [], 0
    while start < len(words):
        for end in range(min(len(words), start + _LONGEST), start, -1):
            topic = _TOPIC_OF.get(" ".join(words[start:end]))
            if topic is not None:
                topics.append(topic)
                start = end
                break
        else:
            return None
    return tuple(topic for topic in topics if topic)
