"""What a question wants: the whole grammar. Which entities and relations it means, linker and reader tell."""

from __future__ import annotations

from kgfast.data.names import fold
from kgfast.joint.text.mentions import PIECE

YES_NO, COUNT, LIST = "yes/no", "count", "list"

# A question for yes or no begins with one of these words, or asks whether.
VERBS = frozenset("is isn are aren was were am do don does doesn did has have had can could will would".split())
WHETHER = "whether"
CHOICE = "or"  # a question that names what to choose from wants one of it
COUNTS = (("how", "many"), ("number", "of"), ("count", "the"))


def kind_of(question: str) -> str:
    """Of these the first: a word that counts, a choice, a verb in front."""
    words = PIECE.findall(fold(question))
    if any(pair in COUNTS for pair in zip(words, words[1:], strict=False)):
        return COUNT
    if CHOICE not in words and (WHETHER in words or (words and words[0] in VERBS)):
        return YES_NO
    return LIST


def is_choice(question: str) -> bool:
    return CHOICE in PIECE.findall(fold(question))
