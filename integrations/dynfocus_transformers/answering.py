"""A host as a benchmark asks it: prompts of text, pictures and videos in, answers and their cost out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from dynfocus_connector import DynFocusConfig, build_baseline
from dynfocus_transformers.adapters import REGISTRY, HostAdapter, joined_frames
from dynfocus_transformers.attach import Attached, attach
from dynfocus_transformers.clock import PrefillClock
from dynfocus_transformers.prompts import Prompt, clips_of, message, picture_owners, still, visual_inputs
from dynfocus_video.resizing import FrameSize

TRAINING_FREE, NONE = "training-free", "none"
SCORERS = ("importance", "uniform", "random")


def load(
    *,
    pretrained: str,
    connector: str | None,
    max_tokens: int | None,
    scorer: str | None,
    dtype: str,
    attn: str | None,
    device: torch.device | str,
) -> HostEngine:
    """The engine of a host with its processor.

    Args:
        pretrained: A folder or hub id of an image-text-to-text model.
        connector: As in `attach`; "none" leaves the host as it is; None means "training-free".
        max_tokens: Per video.
        scorer: Of a training-free connector: "importance", or "uniform" and "random" for its rivals.
        dtype, attn, device: Of everything.

    Raises:
        ValueError: arguments that contradict each other.
        NotImplementedError: a host without an adapter.
    """
    connector = TRAINING_FREE if connector is None else connector
    check_choice(connector, max_tokens, scorer)
    options = {} if attn is None else {"attn_implementation": attn}
    model = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=getattr(torch, dtype), **options)
    model = model.eval().to(device)
    if connector != NONE:
        attach(model, chosen(model, connector, scorer), max_tokens=max_tokens)
    return HostEngine(model, AutoProcessor.from_pretrained(pretrained))


def check_choice(connector: str, max_tokens: int | None, scorer: str | None) -> None:
    """Raises ValueError where one argument leaves another without meaning."""
    if connector == NONE and (max_tokens, scorer) != (None, None):
        raise ValueError(
            f"transformers: expected neither max_tokens nor scorer with connector=none, got {max_tokens} and {scorer}."
        )
    if scorer is not None and (connector != TRAINING_FREE or scorer not in SCORERS):
        raise ValueError(
            f"transformers: expected scorer among {', '.join(SCORERS)}, with connector=training-free alone, got "
            f"{scorer!r} with {connector!r}. A trained connector has its own."
        )


def chosen(model: Any, connector: str, scorer: str | None) -> Any:
    """What `attach` takes."""
    if scorer in (None, "importance"):
        return connector
    width = model.get_input_embeddings().weight.shape[1]
    return build_baseline(scorer, DynFocusConfig.training_free(dim=width)).eval()  # type: ignore[arg-type]


class HostEngine:
    """Answers prompts through a host's own processor and chat template.

    Args:
        model: A host in evaluation mode, attached or not.
        processor: Its own, with a chat template.
    """

    frame_size: FrameSize | None = None
    """the processor resizes"""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.adapter: type[HostAdapter] = REGISTRY.get(model.config.model_type, HostAdapter)
        self.ragged = bool({"video_grid_thw", "pixel_attention_mask"} & set(self.adapter.video_keys))
        """whether videos of different length go into one batch; where not, those of equal length share one"""

    @torch.no_grad()
    def answer(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """One answer per prompt, and what it cost (see `dynfocus_lmms_eval.engine.Engine`)."""
        answers: dict[int, tuple[str, dict[str, Any]]] = {}
        order = sorted(range(len(prompts)), key=lambda number: self._shape(prompts[number]))
        for _, group in itertools.groupby(order, key=lambda number: self._shape(prompts[number])):
            numbers = list(group)
            found = self._together([prompts[number] for number in numbers], generation)
            answers.update(zip(numbers, found, strict=True))
        return [answers[number] for number in range(len(prompts))]

    @torch.no_grad()
    def loss(self, prompt: Prompt, continuation: str) -> tuple[float, bool]:
        """Mean cross-entropy in nats per token, and whether greedy decoding would give the continuation."""
        start = self.inputs([prompt])["input_ids"].shape[1]
        inputs = self.inputs([prompt], continuation)
        labels = inputs["input_ids"].clone()
        labels[:, :start] = -100
        logits = self.model(**inputs).logits[0].float()
        targets = labels[0, start:]
        # A connector's call gives logits for the shorter prompt: the continuation is its end.
        logits = logits[-len(targets) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, targets)
        return float(loss), bool((logits.argmax(-1) == targets).all())

    def inputs(self, prompts: Sequence[Prompt], continuation: str = "") -> dict[str, Any]:
        """What the processor makes of prompts, on the model's device, padded on the left."""
        texts = [
            self.processor.apply_chat_template([message(prompt)], add_generation_prompt=True) for prompt in prompts
        ]
        seen = self._seen(prompts)
        batch = self.processor(
            text=[f"{text}{continuation}" for text in texts],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **seen,
        )
        batch.pop("video_metadata", None)
        found = dict(batch.to(self.model.device, self.model.dtype))
        attached = isinstance(self.model, Attached)
        if seen and attached and self.adapter.modality == "image":
            slots = found["input_ids"] == self.model.config.image_token_id
            tokens = getattr(self.processor, "image_seq_length", None) or self.processor.image_seq_len
            found["dynfocus"] = {"videos": picture_owners(prompts, slots, tokens)}
        return found

    def _seen(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Videos and pictures as this processor takes them."""
        seen = visual_inputs(prompts, joined_frames(self.model.config))
        if "videos" not in seen:
            return seen
        if "images" in seen and not self.adapter.pictures_beside_videos:
            raise ValueError(
                f"answer: expected videos or pictures in a prompt for {self.adapter.model_type}, got both. "
                "Its processor takes one kind at a time."
            )
        return {**seen, **self.adapter.processor_options}

    def _shape(self, prompt: Prompt) -> tuple[Any, ...]:
        """Prompts of one shape go into one batch."""
        clips = clips_of(prompt)
        kinds = tuple(sorted({still(clip) for clip in clips}))
        return kinds if self.ragged else (kinds, tuple(tuple(clip.frames.shape) for clip in clips))

    def _together(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        inputs = self.inputs(prompts)
        if isinstance(self.model, Attached):
            self.model.dynfocus_report = []
        with PrefillClock(self.model.get_decoder()) as clock:
            rows = self.model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        answers = tokenizer.batch_decode(rows, skip_special_tokens=True)
        costs = self._costs(prompts, inputs, rows, clock)
        return [(answer.strip(), cost) for answer, cost in zip(answers, costs, strict=True)]

    def _costs(
        self, prompts: Sequence[Prompt], inputs: dict[str, Any], rows: Tensor, clock: PrefillClock
    ) -> list[dict[str, Any]]:
        """What every answer cost; times are those of the batch divided by its size."""
        reports = iter(self.model.dynfocus_report if isinstance(self.model, Attached) else [])
        places = placeholders(self.model.config)
        found = []
        for number, prompt in enumerate(prompts):
            clips = clips_of(prompt)
            own = list(itertools.islice(reports, sum(not still(clip) for clip in clips)))
            ids = inputs["input_ids"][number]
            saved = sum(report.dropped for report in own)
            found.append(
                {
                    "input_tokens": int(inputs["attention_mask"][number].sum()) - saved,
                    "output_tokens": generated(rows[number], self.model.generation_config),
                    "tokens": int(sum((ids == place).sum() for place in places)) - saved,
                    "frames": sum(len(clip.frames) for clip in clips),
                    "focus_frames": sum(len(report.focus_frames) for report in own),
                    "seconds_encode": clock.seconds_encode / len(prompts),
                    "seconds_prefill": clock.seconds_prefill / len(prompts),
                    "batch": len(prompts),
                }
            )
        return found


def placeholders(config: Any) -> set[int]:
    """Ids that stand for a visual token."""
    names = ("video_token_id", "image_token_id")
    return {int(getattr(config, name)) for name in names if getattr(config, name, None) is not None}


def generated(row: Tensor, config: Any) -> int:
    """How many tokens of a row were generated: those before the padding behind its end."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    stops = [int((row == end).nonzero()[0]) + 1 for end in ends if end is not None and bool((row == end).any())]
    return min([len(row), *stops])
