"""Tokenizers and pictures: what turns people's input into the model's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dynfocus_reference.config import ReferenceConfig
from dynfocus_video.reader import VideoFrames, iter_frames, read_video
from dynfocus_video.resizing import FrameSize, resize_frames
from dynfocus_video.sampling import Sampling

QFORMER_FOLDER = "qformer_tokenizer"
MAX_QUESTION = 256


class ReferenceProcessor:
    """The language model's tokenizer, the Q-Former's own, and the tower's picture format.

    Args:
        tokenizer: Of the language model; must have a padding token.
        qformer_tokenizer: bert-base-uncased plus [DEC] for the published Q-Former.
        config: Where picture size, mean and deviation come from.

    Raises:
        ValueError: a tokenizer without a padding token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, qformer_tokenizer: PreTrainedTokenizerBase, config: ReferenceConfig
    ) -> None:
        for name, value in (("tokenizer", tokenizer), ("qformer_tokenizer", qformer_tokenizer)):
            if value.pad_token_id is None:
                raise ValueError(
                    f"ReferenceProcessor: expected a {name} with a padding token, got none in {value.name_or_path!r}. "
                    f"Set tokenizer.pad_token, for Vicuna to tokenizer.unk_token."
                )
        self.tokenizer = tokenizer
        self.qformer_tokenizer = qformer_tokenizer
        self.size = FrameSize(config.image_size, config.image_size)
        self.mean = tuple(config.image_mean)
        self.max_question = min(MAX_QUESTION, config.qformer_config.max_position_embeddings)

    def read(
        self,
        path: str | os.PathLike[str],
        sampling: Sampling | None = None,
        *,
        max_frames: int | None = None,
        square: bool = False,
    ) -> VideoFrames:
        """Frames of a video or image file in the tower's size, and when they appear.

        Args:
            path: A file; an image is a video of one frame.
            sampling: Which frames; one per second by the index rule, as in the paper, where none is given.
            max_frames: A video that has more is sampled evenly.
            square: Pad to a square with the mean colour first, as stage 2 does with images.
        """
        sampling = sampling or Sampling(fps=1.0, rule="index")
        if max_frames is not None and iter_frames(path, sampling, size=None).planned > max_frames:
            sampling = Sampling(frames=max_frames, rule=sampling.rule)
        video = read_video(path, sampling, size=None if square else self.size)
        return video._replace(frames=resize_frames(self.pad_to_square(video.frames), self.size)) if square else video

    def pad_to_square(self, frames: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "t side side 3"]:
        """The frames in the middle of squares of the mean colour."""
        count, height, width, _ = frames.shape
        side = max(height, width)
        colour = (torch.tensor(self.mean, device=frames.device) * 255).to(torch.uint8)
        square = colour.expand(count, side, side, 3).clone()
        top, left = (side - height) // 2, (side - width) // 2
        square[:, top : top + height, left : left + width] = frames
        return square

    def question(self, text: str) -> Int[Tensor, " length"]:
        """A question for the Q-Former: newlines become spaces; of a long one the end is kept."""
        one_line = " ".join(text.split())
        ids = self.qformer_tokenizer(one_line, truncation=True, max_length=self.max_question)["input_ids"]
        return torch.tensor(ids or [self.qformer_tokenizer.pad_token_id], dtype=torch.long, device="cpu")

    def save_pretrained(self, folder: str | os.PathLike[str], **kwargs: Any) -> None:
        """Both tokenizers, beside the model."""
        self.tokenizer.save_pretrained(str(folder))
        self.qformer_tokenizer.save_pretrained(os.path.join(folder, QFORMER_FOLDER))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> ReferenceProcessor:
        """The processor of a model folder.

        Raises:
            FileNotFoundError: a folder without its tokenizers.
        """
        inner = Path(folder) / QFORMER_FOLDER
        if not inner.is_dir():
            raise FileNotFoundError(
                f"ReferenceProcessor.from_pretrained: expected {QFORMER_FOLDER}/ in {str(folder)!r}, found none. "
                f"Write the folder with `dynfocus convert-weights` or `dynfocus train`."
            )
        config = ReferenceConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        return cls(tokenizer, AutoTokenizer.from_pretrained(str(inner), truncation_side="left"), config)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token, and nothing to download: what the presets `tiny` and `small` read with.

    Example:
        >>> byte_tokenizer()("aé")["input_ids"]
        [3, 130, 105]
    """
    specials = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials)}
    letters = [*(chr(c) for c in range(97, 123)), *(c for c in alphabet if not "a" <= c <= "z")]
    vocabulary |= {token: index + len(specials) for index, token in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", truncation_side="left"
    )
