"""Folders of tiny hosts with the processors they need: random weights, words of a small vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.transformers.tiny import END, HOSTS, IMAGE, PAD, VIDEO, VOCAB

WORDS = ("what", "is", "shown", "in", "the", "video", "picture", "which", "comes", "first", "a", "or", "b", "?", ".")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<102> VIDEO <103>"
    "{% elif part['type'] == 'image' %}<102> IMAGE <103>"
    "{% else %}{{ part['text'] }}{% endif %} "
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer(video: str, image: str) -> Any:
    """Words by number, with the tiny hosts' ids for placeholders, padding and end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<{number}>": number for number in range(VOCAB)}
    named = {PAD: "<pad>", 1: "<s>", END: "</s>", 3: "<unk>", VIDEO: video, IMAGE: image, 4: "user", 5: "assistant"}
    named.update(enumerate(WORDS, start=6))
    for number, word in named.items():
        del vocabulary[f"<{number}>"]
        vocabulary[word] = number
    tokens = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"video_token": video, "image_token": image},
    )


def qwen2_5_vl() -> Any:
    """Videos of any length and grid."""
    import transformers as t

    video, image = "<|video_pad|>", "<|image_pad|>"
    sizes: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"size": {"shortest_edge": 16 * 16, "longest_edge": 16 * 16}}
    return t.Qwen2_5_VLProcessor(
        t.Qwen2VLImageProcessor(**sizes, **pixels),
        tokenizer(video, image),
        t.Qwen2VLVideoProcessor(**sizes, size={"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 64}),
        chat_template=TEMPLATE.replace("VIDEO", video).replace("IMAGE", image),
    )


def llava_onevision() -> Any:
    """Square frames, one newline at the end; one length per batch."""
    import transformers as t

    video, image = "<video>", "<image>"
    size = {"height": 56, "width": 56}
    return t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[56, 56]]),
        tokenizer(video, image),
        t.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=64,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.replace("VIDEO", video).replace("IMAGE", image),
    )


PROCESSORS = {"qwen2_5_vl": qwen2_5_vl, "llava_onevision": llava_onevision}


def save_host(name: str, folder: Path) -> Path:
    """A host that `from_pretrained` loads, with its processor."""
    HOSTS[name].model().save_pretrained(folder)
    PROCESSORS[name]().save_pretrained(folder)
    return folder
