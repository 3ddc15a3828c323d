"""The question in the words of a chat: a trained subword tokenizer, the chat formats of the hosts, several turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dynfocus_transformers import Settings
from dynfocus_transformers.adapters import adapter_for
from dynfocus_transformers.question import question_ids
from tests.integration.transformers.tiny import HOSTS

MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<video>", "<image>", "</s>", "<pad>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'video' %}"
    "<|vision_start|><video><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""of the Qwen models, and of hosts on top of them"""
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {% elif m.role == 'assistant' %}ASSISTANT: {% endif %}"
    "{% for part in m.content %}{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% if m.role == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""of LLaVA-NeXT-Video and Video-LLaVA: only answers are closed"""
FORMATS = {
    "qwen2_5_vl": (CHATML, "<|im_end|>"),
    "llava_onevision": (CHATML, "<|im_end|>"),
    "video_llava": (VICUNA, "</s>"),
}
FIRST, SECOND = "Who opens the wooden door at the end?", "And what is behind it?"
ANSWER, OTHER = "The tall man in the grey coat.", "A dog."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the words of these chats."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(
        [FIRST, SECOND, ANSWER, OTHER, "You are a helpful assistant. user USER: ASSISTANT:"], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=MARKS, pad_token="<pad>")


def say(role: str, words: str, video: str | None = None) -> dict[str, Any]:
    """One message; `video` is "before" or "behind" its words."""
    parts = [{"type": "text", "text": words}]
    parts = {"before": [{"type": "video"}, *parts], "behind": [*parts, {"type": "video"}], None: parts}[video]
    return {"role": role, "content": parts}


def asked(name: str, tokenizer: Any, messages: list[dict[str, Any]], prompt: bool = True, **settings: Any) -> str:
    """The words that the connector of a host sees; with labels on answers where no answer is to come."""
    template, end = FORMATS[name]
    adapter = adapter_for(HOSTS[name].model())
    adapter.config.video_token_id = tokenizer.convert_tokens_to_ids("<video>")
    adapter.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    adapter.model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(end)
    chat = {"chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
    written = tokenizer.apply_chat_template(messages, **chat).replace("<video>", "<video>" * 8)
    batch = tokenizer(written, return_tensors="pt", return_offsets_mapping=True)
    ids, offsets = batch["input_ids"], batch["offset_mapping"][0]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if not prompt:
        inputs["labels"] = torch.full_like(ids, -100)
        for words in (ANSWER, OTHER):
            start = written.find(words)
            inside = (offsets[:, 0] < start + len(words)) & (offsets[:, 1] > start) & (start >= 0)
            inputs["labels"][0, inside] = ids[0, inside]
    places = (ids[0] == adapter.placeholder).nonzero()[[0, -1], 0].tolist()
    return tokenizer.decode(question_ids(adapter, inputs, Settings(**settings), 0, tuple(places)))


SYSTEM = say("system", "You are a helpful assistant.")


@pytest.mark.parametrize("video", ["before", "behind"])
@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["", "system"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_one_turn(tokenizer: Any, name: str, system: list[Any], video: str) -> None:
    found = asked(name, tokenizer, [*system, say("user", FIRST, video)])
    assert FIRST in found
    assert "assistant" not in found


@pytest.mark.parametrize("name", FORMATS)
def test_the_last_of_two_questions(tokenizer: Any, name: str) -> None:
    chat = [say("user", FIRST, "before"), say("assistant", ANSWER), say("user", SECOND)]
    found = asked(name, tokenizer, chat)
    assert SECOND in found
    assert FIRST not in found
    assert ANSWER not in found


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_the_first_of_two_questions(tokenizer: Any, name: str) -> None:
    chat = [SYSTEM, say("user", FIRST, "before"), say("assistant", ANSWER), say("user", SECOND)]
    found = asked(name, tokenizer, chat, question="first")
    assert FIRST in found
    assert ANSWER not in found
    assert SECOND not in found


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("name", FORMATS)
def test_no_answer_is_seen_in_training(tokenizer: Any, name: str, which: str) -> None:
    chat = [say("user", FIRST, "before"), say("assistant", ANSWER), say("user", SECOND), say("assistant", OTHER)]
    found = asked(name, tokenizer, chat, prompt=False, question=which)
    assert {"first": FIRST, "last": SECOND}[which] in found
    assert ANSWER not in found
    assert OTHER not in found
