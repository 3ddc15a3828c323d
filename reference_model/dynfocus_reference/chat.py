"""`dynfocus chat`: a conversation about one video, token by token."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers import TextStreamer

from dynfocus_connector import CompressedVideo, FrameSelection
from dynfocus_connector.events import Events
from dynfocus_connector.merging import Merging
from dynfocus_reference.data.conversation import Place, Template, encode
from dynfocus_reference.data.records import Turn
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted import checkpoint_folder
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.reader import VideoFrames
from dynfocus_video.report import VideoReport, write_report
from dynfocus_video.sampling import Sampling
from dynfocus_video.thumbnails import thumbnail

PLANTED = "planted"
"""As a model's name: the shipped one, which knows only the rendered world of `dynfocus_reference.planted`"""


class Conversation:
    """Questions about one video. The tower looks once, and the events are found once.

    The video stands in front of the first question and is compressed anew for each: the rods see the latest one, and so
    does the choice of frames where the scorer reads questions.

    Args:
        model: In evaluation mode.
        processor: Of the same folder.
        frames: Pictures as `ReferenceProcessor.read` gives them.
        template: Of the prompts; the one the model was trained with.
    """

    def __init__(
        self,
        model: ReferenceModel,
        processor: ReferenceProcessor,
        frames: UInt8[Tensor, "frames height width 3"],
        *,
        template: Template = "vicuna_v1",
    ) -> None:
        self.model, self.processor, self.template = model, processor, template
        self.turns: list[Turn] = []
        with torch.no_grad():
            self.tokens = model.see(frames.to(model.device)).to(model.dtype)
        self.patches = model.patches(self.tokens)[None]
        self.events: list[Events] = []
        self.selection: FrameSelection | None = None
        self.video: CompressedVideo | None = None

    @property
    def reads_question(self) -> bool:
        """Whether the choice of frames depends on the question."""
        config = self.model.connector.config
        return config.scorer == "question" or config.text_weight > 0

    @torch.no_grad()
    def compress(self, question: str) -> CompressedVideo:
        """The video's tokens for a question."""
        model, count = self.model, len(self.tokens)
        ids = self.processor.question(question).to(model.device).expand(count, -1)
        text = model.ask(self.tokens, ids, torch.ones_like(ids, dtype=torch.bool))[None]
        if self.selection is None or self.reads_question:
            with same_events(model.connector.estimator, self.events):
                self.selection = model.connector.estimator(self.patches, text)
        self.video = model.connector.encoder(self.patches, self.selection, text, keep_merging=True)
        return self.video

    def ask(self, question: str, *, streamer: Any = None, max_new_tokens: int = 512, **generation: Any) -> str:
        """The answer; it becomes part of the history."""
        question = question.strip()
        turns = [*self.turns, Turn(question, None, False)]
        places: list[Place | None] = ["front", *([None] * len(self.turns))]
        prompt = encode(turns, self.processor.tokenizer, template=self.template, places=places).input_ids
        new = self.model.generate(
            prompt[None].to(self.model.device),
            video=self.compress(question),
            streamer=streamer,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            eos_token_id=self.processor.tokenizer.eos_token_id,
            **{"do_sample": False, **generation},
        )
        answer = str(self.processor.tokenizer.decode(new[0], skip_special_tokens=True)).strip()
        self.turns.append(Turn(question, answer, False))
        return answer


@contextmanager
def same_events(estimator: Any, found: list[Events]) -> Iterator[None]:
    """Inside, an estimator that looks at one and the same video finds its events once, and keeps them in `found`."""
    find = estimator.find_events

    def find_once(*args: Any) -> Events:
        if not found:
            found.append(find(*args))
        return found[0]

    estimator.find_events = find_once
    try:
        yield
    finally:
        del estimator.find_events


def write_chat_report(path: str, talk: Conversation, title: str, clip: VideoFrames) -> None:
    """The page of `dynfocus compress`, for the latest question.

    Raises:
        ValueError: nothing was asked yet.
    """
    if talk.video is None or talk.selection is None:
        raise ValueError("write_chat_report: expected a question that was asked, got none.")
    side = round(talk.patches.shape[2] ** 0.5)
    merging = talk.video.merging
    trained = talk.model.connector.config.scorer != "importance"
    learned: dict[str, Any] = {"scored_by": "its learned score"} if trained else {}
    page = VideoReport(
        title=title,
        timestamps=clip.timestamps.tolist(),
        thumbnails=[thumbnail(frame, 480) for frame in clip.frames],
        selection=talk.selection,
        tokens_per_frame=talk.video.frame_index.bincount(minlength=len(clip.frames)).tolist(),
        grid=(side, side),
        spatial=merging.spatial if isinstance(merging, Merging) else None,
        question=talk.turns[-1].question if talk.turns else None,
        duration=clip.duration,
        **learned,
    )
    write_report(path, page)


def run(arguments: argparse.Namespace) -> int:
    """Answer one question, or talk until the input ends."""
    dtype = getattr(torch, arguments.dtype)
    folder = checkpoint_folder() if arguments.model == PLANTED else arguments.model
    model = ReferenceModel.from_pretrained(folder, dtype=dtype).eval().to(arguments.device)
    processor = ReferenceProcessor.from_pretrained(folder)
    sampling = Sampling(fps=arguments.fps, rule="index")
    clip = processor.read(arguments.video, sampling, max_frames=arguments.max_frames)
    talk = Conversation(model, processor, clip.frames)
    for question in [arguments.question] if arguments.question is not None else _typed():
        streamer = TextStreamer(processor.tokenizer, skip_special_tokens=True)
        talk.ask(question, streamer=streamer, max_new_tokens=arguments.max_new_tokens)
    if arguments.report and talk.turns:
        write_chat_report(arguments.report, talk, str(arguments.video), clip)
    return 0


def _typed() -> Iterator[str]:
    """Questions line by line; a terminal shows where to type."""
    prompt = "> " if sys.stdin.isatty() else ""
    print(prompt, end="", flush=True)
    for line in sys.stdin:
        if line.strip():
            yield line
        print(prompt, end="", flush=True)
