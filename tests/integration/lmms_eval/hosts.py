"""Folders of tiny hosts with the processors they need: random weights, words of a small vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.transformers.tiny import END, HOSTS, IMAGE, PAD, PATCHES, VIDEO, VOCAB

WORDS = ("what", "is", "shown", "in", "the", "video", "picture", "which", "comes", "first", "a", "or", "b", "?", ".")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<102> VIDEO <103>"
    "{% elif part['type'] == 'image' %}<102> IMAGE <103>"
    "{% else %}{{ part['text'] }}{% endif %} "
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
PIECES = r"<\d+>|\d|[A-Za-z]+|\S|\n"
"""what becomes one token: timestamps and the lines before frames are about as long as those of real tokenizers"""


def tokenizer(video: str, image: str, **special: str) -> Any:
    """Words by number, with the tiny hosts' ids for placeholders, padding and end; `special` names more tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<{number}>": number for number in range(VOCAB)}
    named = {PAD: "<pad>", 1: "<s>", END: "</s>", 3: "<unk>", VIDEO: video, IMAGE: image, 4: "user", 5: "assistant"}
    named.update(enumerate(WORDS, start=6))
    for number, word in named.items():
        del vocabulary[f"<{number}>"]
        vocabulary[word] = number
    tokens = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"video_token": video, "image_token": image, **special},
    )


def template(video: str, image: str) -> str:
    """A chat in which these words stand for videos and pictures."""
    return TEMPLATE.replace("VIDEO", video).replace("IMAGE", image)


def qwen(version: str, **marks: str) -> Any:
    """Pairs of frames, four patches per token."""
    import transformers as t

    video, image = "<|video_pad|>", "<|image_pad|>"
    sizes: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    videos = {"Qwen2_5_VL": t.Qwen2VLVideoProcessor, "Qwen3VL": t.Qwen3VLVideoProcessor}[version]
    return getattr(t, f"{version}Processor")(
        t.Qwen2VLImageProcessor(**sizes, size={"shortest_edge": 16 * 16, "longest_edge": 16 * 16}),
        tokenizer(video, image, **marks),
        videos(**sizes, size={"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 64}),
        chat_template=template(video, image),
    )


def qwen2_5_vl() -> Any:
    """Videos of any length and grid."""
    return qwen("Qwen2_5_VL")


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
        chat_template=template(video, image),
    )


def llava_next_video() -> Any:
    """Square frames, nothing else; one length per batch."""
    import transformers as t

    video, image = "<video>", "<image>"
    sizes: dict[str, Any] = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    return t.LlavaNextVideoProcessor(
        t.LlavaNextVideoVideoProcessor(**sizes),
        t.LlavaNextImageProcessor(**sizes, image_grid_pinpoints=[[56, 56]]),
        tokenizer(video, image),
        patch_size=7,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template(video, image),
    )


def video_llava() -> Any:
    """Square frames with a class token each; one length per batch."""
    import transformers as t

    video, image = "<video>", "<image>"
    sizes: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    return t.VideoLlavaProcessor(
        t.VideoLlavaImageProcessor(**sizes),
        t.VideoLlavaVideoProcessor(**sizes),
        tokenizer(video, image),
        patch_size=7,
        chat_template=template(video, image),
    )


def qwen3_vl() -> Any:
    """Videos of any length and grid, a timestamp before every pair of frames."""
    return qwen("Qwen3VL", vision_start_token="<102>", vision_end_token="<103>")


def internvl() -> Any:
    """`Frame1:` before every frame, a picture of one tile; one length per batch."""
    import transformers as t

    video, image = "<video>", "<IMG_CONTEXT>"
    size = {"height": 56, "width": 56}
    return t.InternVLProcessor(
        t.GotOcr2ImageProcessor(size=size, max_patches=1),
        tokenizer(video, image, start_image_token="<102>", end_image_token="<103>", context_image_token=image),
        t.InternVLVideoProcessor(size=size),
        image_seq_length=PATCHES,
        chat_template=template(video, image),
    )


def smolvlm() -> Any:
    """`Frame from 00:01:` before every frame, after a line about the video."""
    import pytest
    import transformers as t

    pytest.importorskip("num2words")

    video, image = "<video>", "<image>"
    edges: dict[str, Any] = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    return t.SmolVLMProcessor(
        t.SmolVLMImageProcessor(**edges, do_image_splitting=False),
        tokenizer(video, image, fake_image_token="<102>", global_image_token="<104>"),
        t.SmolVLMVideoProcessor(**edges, num_frames=64, fps=1),
        image_seq_len=PATCHES,
        chat_template=template(video, image),
    )


def video_llama_3() -> Any:
    """`Time 1.0s:` before every frame of any grid."""
    import transformers as t

    video, image = "<|video_pad|>", "<|image_pad|>"
    sizes: dict[str, Any] = {"patch_size": 4, "merge_size": 2}
    return t.VideoLlama3Processor(
        t.VideoLlama3ImageProcessor(**sizes, size={"shortest_edge": 16 * 16, "longest_edge": 32 * 32}),
        tokenizer(video, image),
        t.VideoLlama3VideoProcessor(**sizes, size={"shortest_edge": 16 * 16, "longest_edge": 32 * 32 * 12}),
        chat_template=template(video, image),
    )


PROCESSORS = {
    "llava_onevision": llava_onevision,
    "llava_next_video": llava_next_video,
    "video_llava": video_llava,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "video_llama_3": video_llama_3,
}


SEEDS = {"llava_next_video": 3, "video_llava": 1, "qwen3_vl": 1, "internvl": 10}
"""random weights that answer different prompts differently, in words; of the others it is 0"""


def save_host(name: str, folder: Path) -> Path:
    """A host that `from_pretrained` loads, with its processor."""
    HOSTS[name].model(SEEDS.get(name, 0)).save_pretrained(folder)
    PROCESSORS[name]().save_pretrained(folder)
    return folder
