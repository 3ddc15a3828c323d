"""The few words of this world, as tokenizers: every word is a token."""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dynfocus_reference.data.conversation import SYSTEM
from dynfocus_reference.planted.questions import NUMBERS
from dynfocus_reference.planted.sprites import COLORS, SYMBOLS

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
SPOKEN = (
    "USER: ASSISTANT: What is on the of sign board? What does say? Which color comes first last? "
    "How many times does lamp shine? Where does the ball go? left right or"
)
FILLERS = ("What", "Which", "How", "Where", "is", "on", "the", "of", "does", "comes", "many", "go")
"""words that tell no question from another"""


def words() -> list[str]:
    """Every word, specials first; the system prompt is one word."""
    known = re.findall(r"\w+|[^\w\s]", " ".join([SPOKEN, *SYMBOLS, *COLORS, *NUMBERS]))
    return [*dict.fromkeys([*SPECIALS, *known]), SYSTEM]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, one for the system prompt; unknown words become one and the same.

    Example:
        >>> tokenizer = word_tokenizer()
        >>> tokenizer.decode(tokenizer("What does the sign say?")["input_ids"])
        'What does the sign say ?'
    """
    return _tokenizer(normalizers.Strip())


def question_tokenizer() -> PreTrainedTokenizerFast:
    """The Q-Former's: the words that matter of a question, without the options behind it.

    Example:
        >>> tokenizer = question_tokenizer()
        >>> tokenizer.decode(tokenizer("What is on the left of the sign? star or moon")["input_ids"])
        'left sign'
    """
    fillers = normalizers.Replace(Regex(rf"\b({'|'.join(FILLERS)})\b"), "")
    return _tokenizer(normalizers.Sequence([normalizers.Replace(Regex(r"\?.*$"), ""), fillers, normalizers.Strip()]))


def _tokenizer(normalizer: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens([AddedToken(SYSTEM, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        truncation_side="left",
        clean_up_tokenization_spaces=False,
    )
