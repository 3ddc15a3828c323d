"""The few words of this world, as a tokenizer: every word is a token."""

from __future__ import annotations

import re

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dynfocus_reference.data.conversation import SYSTEM
from dynfocus_reference.planted.questions import NUMBERS, PLACES
from dynfocus_reference.planted.sprites import COLORS, SYMBOLS

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
SPOKEN = (
    f"{SYSTEM} USER: ASSISTANT: What is on the of sign board? What does say? Which color comes first last? "
    "How many times does lamp shine? Where does the ball go? shows then and or"
)


def words() -> list[str]:
    """Every word, specials first."""
    known = re.findall(r"\w+|[^\w\s]", " ".join([SPOKEN, *SYMBOLS, *COLORS, *NUMBERS, *PLACES]))
    return list(dict.fromkeys([*SPECIALS, *known]))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; unknown words become one and the same.

    Example:
        >>> tokenizer = word_tokenizer()
        >>> tokenizer.decode(tokenizer("What does the sign say?")["input_ids"])
        'What does the sign say ?'
    """
    vocabulary = {word: number for number, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        truncation_side="left",
        clean_up_tokenization_spaces=False,
    )
