"""Tasks of several rounds: lmms-eval's task decides after each answer what comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MOST_ROUNDS = 64


def play_rounds(
    document: Any, text: str, visuals: Any, next_round: Callable[..., Any], answer: Callable[[Any, str], str]
) -> list[str]:
    """The answers of all rounds.

    Every round is a prompt of its own: what of earlier answers it repeats, the task writes into its text.

    Args:
        document: The row of the data set.
        text, visuals: Of the first round.
        next_round: The task's doc_to_text: (document, previous_output=, round_idx=, previous_round_info=) →
            (visuals, text, finished, answers, information).
        answer: From visuals and text to an answer.

    Raises:
        RuntimeError: a task that never ends.
    """
    answers, information = [answer(visuals, text)], None
    for number in range(1, MOST_ROUNDS):
        visuals, text, finished, answers, information = next_round(
            document, previous_output=list(answers), round_idx=number, previous_round_info=information
        )
        answers = list(answers)
        if finished:
            return answers
        answers.append(answer(visuals, text))
    raise RuntimeError(f"dynfocus: expected a task that ends within {MOST_ROUNDS} rounds, got one that goes on.")
