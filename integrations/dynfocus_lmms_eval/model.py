"""The model class that lmms-eval makes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.engine import Engine, Prompt, load_engine
from dynfocus_lmms_eval.fingerprint import check_weights
from dynfocus_lmms_eval.prompts import DecodeError, build_prompt, cut, generation_of, until_of
from dynfocus_lmms_eval.rounds import play_rounds


class Asked(NamedTuple):
    """One request of lmms-eval, read."""

    prompt: Prompt
    generation: dict[str, Any]
    until: list[str]
    problem: str | None = None
    """why there is nothing to answer"""


@dataclass
class Costs(TokenCounts):
    """What lmms-eval writes beside every answer into the samples file, and what we add."""

    more: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """lmms-eval's counts, then ours."""
        return {**super().to_dict(), **self.more}


class DynFocus(lmms):
    """The reference model, or a host of transformers with or without a connector.

    Documents are sharded by lmms-eval, one process per device. Answers come one by one in the order of the requests, so
    that a run with `--use_cache` goes on where it was killed.

    Args:
        batch_size: Requests that are answered together.
        max_batch_size: Not used: nothing is guessed.
        device: Where one process computes; each of several has its own.
        arguments: As in `ModelArguments`.

    Raises:
        ValueError: unknown arguments, or weights that are not those the cache is about.
    """

    is_simple = True

    def __init__(
        self,
        batch_size: int | str | None = 1,
        max_batch_size: int | str | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.arguments = ModelArguments.parse(**arguments)
        if batch_size is not None and not str(batch_size).isdigit():
            raise ValueError(f"dynfocus: expected a batch_size that is a number, got {batch_size!r}.")
        self.batch_size = max(int(batch_size or 1), 1)
        check_weights(self.arguments, cached=_caches(sys.argv))
        self.accelerator = Accelerator()
        alone = self.accelerator.num_processes == 1
        self.device = self.accelerator.device if device is None or not alone else device
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.engine: Engine = load_engine(self.arguments, self.device)

    def generate_until(self, requests: Sequence[Instance]) -> Iterator[GenerationResult]:
        """Answers in the order of the requests; neighbours with the same settings share a batch."""
        asked = (self._ask(*request.args) for request in requests)
        for _, group in itertools.groupby(asked, key=lambda item: (item.generation, item.until)):
            for batch in _batched(group, self.batch_size):
                yield from self._answer(batch)

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> Iterator[list[str]]:
        """All answers of each request; what is shown and asked in a round, the task decides after the last one."""
        for request in requests:
            context, generation, visuals, next_round, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]

            def one(shown: Any, text: str, wanted: dict[str, Any] = generation) -> str:
                return next(self._answer([self._read(text, wanted, lambda: shown)])).text

            yield play_rounds(document, context, visuals(document), next_round, one)

    def loglikelihood(self, requests: Sequence[Instance]) -> Iterator[tuple[float, bool]]:
        """Mean loss of each continuation, smaller is better, and whether greedy decoding would give it."""
        for request in requests:
            context, target, visuals, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]
            continuation = target if isinstance(target, str) else target(document)
            asked = self._read(context, {}, lambda visuals=visuals, document=document: visuals(document))
            yield (float("inf"), False) if asked.problem else self.engine.loss(asked.prompt, continuation)

    def clean(self) -> None:
        """Give the model's memory back: a judge may need it."""
        self.__dict__.pop("engine", None)
        super().clean()

    def _ask(self, context: str, generation: dict[str, Any], visuals: Any, doc_id: Any, task: str, split: str) -> Asked:
        return self._read(context, generation, lambda: visuals(self.task_dict[task][split][doc_id]))

    def _read(self, text: str, generation: dict[str, Any], find_visuals: Any) -> Asked:
        """Frames of everything shown. Tasks end the process when a video is missing: that is a decode error too."""
        arguments, problem = self.arguments, None
        prompt: Prompt = [text]
        try:
            prompt = build_prompt(
                text, _flat(find_visuals()), arguments.sampling(), self.engine.frame_size, arguments.frames
            )
        except (DecodeError, SystemExit, AssertionError, FileNotFoundError) as error:
            if arguments.decode_errors == "stop":
                raise DecodeError(f"{error} (decode_errors=unanswered counts it as unanswered and goes on.)") from error
            problem = f"{type(error).__name__}: {error}"
            logger.warning(f"unanswered: {problem}")
        return Asked(prompt, generation_of(generation), until_of(generation), problem)

    def _answer(self, batch: Sequence[Asked]) -> Iterator[GenerationResult]:
        """One result per request; those that could not be read are empty, and say why in the samples file."""
        readable = [asked for asked in batch if asked.problem is None]
        answers = self.engine.answer([asked.prompt for asked in readable], readable[0].generation) if readable else []
        found = iter(answers)
        for asked in batch:
            if asked.problem is not None:
                yield GenerationResult("", Costs(more={"unanswered": asked.problem}))
                continue
            text, costs = next(found)
            counts = {name: costs.pop(name, None) for name in ("input_tokens", "output_tokens")}
            yield GenerationResult(cut(text, asked.until), Costs(**counts, more=costs))


def _caches(arguments: Sequence[str]) -> bool:
    return any(argument == "--use_cache" or argument.startswith("--use_cache=") for argument in arguments)


def _flat(visuals: Any) -> list[Any]:
    """None, one visual, or nested lists of them, as one list."""
    if visuals is None:
        return []
    if isinstance(visuals, (list, tuple)):
        return [leaf for visual in visuals for leaf in _flat(visual)]
    return [visuals]


def _batched(items: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
