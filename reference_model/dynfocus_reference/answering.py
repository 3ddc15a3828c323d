"""The reference model as a benchmark asks it: batches of questions about videos of any length."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import snapshot_download
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynfocus_connector import (
    CompressedVideo,
    DynamicPrototypeEstimator,
    DynFocusConfig,
    DynFocusConnector,
    TokenBudget,
    TokenKind,
)
from dynfocus_connector.baselines import FixedFrames
from dynfocus_reference.config import IGNORED_LABEL
from dynfocus_reference.data.conversation import Template, encode
from dynfocus_reference.data.records import Turn
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_reference.visuals import Visuals
from dynfocus_transformers.clock import PrefillClock
from dynfocus_video.reader import VideoFrames
from dynfocus_video.resizing import FrameSize

Prompt = Sequence[str | VideoFrames]
RIVALS = ("uniform", "random")


class Written(NamedTuple):
    """A prompt as the model takes it."""

    input_ids: Int[Tensor, " length"]
    clips: list[VideoFrames]
    question: str


def load(
    *,
    pretrained: str,
    connector: str | None,
    max_tokens: int | None,
    scorer: str | None,
    dtype: str,
    attn: str | None,
    device: torch.device | str,
) -> ReferenceEngine:
    """The engine of a model folder.

    Args:
        pretrained: A folder of `ReferenceModel.save_pretrained` with its tokenizers, or a hub repository of one.
        connector: "none" keeps every patch; a folder replaces the connector; None is the model's own.
        max_tokens: Per video.
        scorer: The model's own, or "uniform" and "random" for its rivals.
        dtype, attn, device: Of everything.

    Raises:
        ValueError: a connector or scorer that does not belong to the model.
    """
    pretrained = pretrained if os.path.isdir(pretrained) else snapshot_download(pretrained)
    options: dict[str, Any] = {} if attn is None else {"attn_implementation": attn}
    model = ReferenceModel.from_pretrained(pretrained, dtype=getattr(torch, dtype), **options).eval()
    own = model.connector.config
    if scorer not in (None, own.scorer, *RIVALS):
        raise ValueError(f"reference: expected scorer {own.scorer!r}, 'uniform' or 'random', got {scorer!r}.")
    if connector == "training-free":
        raise ValueError("reference: expected connector 'none' or a folder, got 'training-free'. It has a trained one.")
    if connector == "none" and max_tokens is not None:
        raise ValueError(
            f"reference: expected no max_tokens with connector=none, got {max_tokens}. It keeps every token."
        )
    if connector not in (None, "none"):
        model.connector = other_connector(str(connector), own, getattr(torch, dtype))
    if scorer in RIVALS:
        frames = FixedFrames(cast(DynamicPrototypeEstimator, model.connector.estimator), cast(Any, scorer))
        model.connector = DynFocusConnector(frames, model.connector.encoder, own)
    budget = TokenBudget(ratio=1.0) if connector == "none" else None
    budget = TokenBudget(max_tokens=max_tokens) if max_tokens is not None else budget
    return ReferenceEngine(model.to(device), ReferenceProcessor.from_pretrained(pretrained), budget)


def other_connector(folder: str, own: DynFocusConfig, dtype: torch.dtype) -> DynFocusConnector:
    """A connector that may stand in the place of the model's own.

    Raises:
        ValueError: other widths.
    """
    found = DynFocusConnector.from_pretrained(folder, dtype=dtype).eval()
    if (found.config.dim, found.config.dim_out) != (own.dim, own.dim_out):
        raise ValueError(
            f"reference: expected a connector from width {own.dim} to {own.dim_out}, got one from "
            f"{found.config.dim} to {found.config.dim_out}."
        )
    return found


class ReferenceEngine:
    """Answers prompts of text and videos; the videos of a batch may differ in length and number.

    Args:
        model: In evaluation mode.
        processor: Of the same folder.
        budget: Tokens per video; the connector's own numbers without one.
        template: Of the prompts.
    """

    def __init__(
        self,
        model: ReferenceModel,
        processor: ReferenceProcessor,
        budget: TokenBudget | None = None,
        template: Template = "vicuna_v1",
    ) -> None:
        self.model, self.processor, self.budget, self.template = model, processor, budget, template
        self.frame_size: FrameSize | None = processor.size

    @torch.no_grad()
    def answer(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """One answer per prompt, and what it cost (see `dynfocus_lmms_eval.engine.Engine`)."""
        written = [self.write(prompt, None) for prompt in prompts]
        tokenizer = self.processor.tokenizer
        ids, mask = left_padded([prompt.input_ids for prompt in written], tokenizer.pad_token_id)
        with PrefillClock(self.model.language_model) as clock:
            video = self.compress(written)
            rows = self.model.generate(
                ids.to(self.model.device),
                mask.to(self.model.device),
                video=video,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **generation,
            )
        answers = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
        return list(zip(answers, self.costs(written, video, rows, clock), strict=True))

    @torch.no_grad()
    def loss(self, prompt: Prompt, continuation: str) -> tuple[float, bool]:
        """Mean cross-entropy in nats per token, end of answer left out, and whether greedy decoding would give it."""
        written = self.write(prompt, continuation)
        start = len(self.write(prompt, None).input_ids)
        ids = written.input_ids[:-1]
        labels = torch.full_like(ids, IGNORED_LABEL)
        labels[start:] = ids[start:]
        embedded = self.model.embed_prompt(
            ids[None].to(self.model.device), None, labels[None].to(self.model.device), self.compress([written])
        )
        output = self.model.language_model(
            inputs_embeds=embedded.inputs_embeds,
            attention_mask=embedded.attention_mask.long(),
            position_ids=embedded.position_ids,
        )
        assert embedded.labels is not None
        logits, targets = output.logits[0, :-1].float(), embedded.labels[0, 1:]
        real = targets != IGNORED_LABEL
        loss = torch.nn.functional.cross_entropy(logits[real], targets[real])
        return float(loss), bool((logits[real].argmax(-1) == targets[real]).all())

    def write(self, prompt: Prompt, answer: str | None) -> Written:
        """Token ids with a placeholder for every visual input, all in front of the question, as in training."""
        clips = [part for part in prompt if isinstance(part, VideoFrames)]
        question = " ".join(part.strip() for part in prompt if isinstance(part, str)).strip()
        places = ["front" if clips else None]
        turn = Turn(question, answer, True)
        encoded = encode([turn], self.processor.tokenizer, template=self.template, places=places)  # type: ignore[arg-type]
        slot = self.model.config.placeholder_id
        ids = encoded.input_ids
        if len(clips) > 1:
            at = int((ids == slot).nonzero()[0])
            ids = torch.cat([ids[:at], ids.new_full((len(clips),), slot), ids[at + 1 :]])
        return Written(ids, clips, question)

    def compress(self, written: Sequence[Written]) -> CompressedVideo | None:
        """The tokens of every visual input of a batch, in order."""
        pairs = [(clip, prompt.question) for prompt in written for clip in prompt.clips]
        if not pairs:
            return None
        questions = [self.processor.question(question) for _, question in pairs]
        ids = pad_sequence(questions, batch_first=True)
        mask = pad_sequence([real(question) for question in questions], batch_first=True)
        visuals = Visuals.build(
            torch.cat([clip.frames for clip, _ in pairs]).to(self.model.device),
            torch.tensor([len(clip.frames) for clip, _ in pairs], device=self.model.device),
            ids.to(self.model.device),
            mask.to(self.model.device),
        )
        return self.model.compress(visuals, budget=self.budget)

    def costs(
        self, written: Sequence[Written], video: CompressedVideo | None, rows: Tensor, clock: PrefillClock
    ) -> list[dict[str, Any]]:
        """What every answer cost; times are those of the batch divided by its size."""
        tokens = [] if video is None else video.offsets.diff().tolist()
        focus = [] if video is None else [focus_frames(one) for one in video.split()]
        pad, found, done = self.processor.tokenizer.pad_token_id, [], 0
        for prompt, row in zip(written, rows, strict=True):
            own = slice(done, done + len(prompt.clips))
            done = own.stop
            found.append(
                {
                    "input_tokens": len(prompt.input_ids) - len(prompt.clips) + sum(tokens[own]),
                    "output_tokens": int((row != pad).sum()),
                    "tokens": sum(tokens[own]),
                    "frames": sum(len(clip.frames) for clip in prompt.clips),
                    "focus_frames": sum(focus[own]),
                    "seconds_encode": clock.seconds_encode / len(written),
                    "seconds_prefill": clock.seconds_prefill / len(written),
                    "batch": len(written),
                }
            )
        return found


def focus_frames(video: CompressedVideo) -> int:
    """How many frames of one video got cones."""
    return len(video.frame_index[video.kind == int(TokenKind.CONE)].unique())


def left_padded(rows: list[Int[Tensor, " length"]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows of ids as a batch with padding in front, and which ids are real."""
    left: dict[str, Any] = {"batch_first": True, "padding_side": "left"}
    return pad_sequence(rows, padding_value=fill, **left), pad_sequence([real(row) for row in rows], **left)


def real(ids: Int[Tensor, " length"]) -> Bool[Tensor, " length"]:
    """The mask of ids without padding."""
    return torch.ones_like(ids, dtype=torch.bool)
