"""The judge of open answers: the same variables as lmms-eval's own tasks, and its name beside every score."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT_JUDGE = "gpt-4o-2024-11-20"
DEFAULT_URL = "https://api.openai.com/v1/chat/completions"
TRIES, WAIT = 3, 2.0


def judge_name() -> str:
    """The judge that is asked, by `MODEL_VERSION`; lmms-eval's default without it."""
    return os.environ.get("MODEL_VERSION", DEFAULT_JUDGE)


def judge_problem() -> str | None:
    """Why no judge can be asked, in a sentence; None where one can."""
    if os.environ.get("API_TYPE", "openai") != "openai":
        return f"API_TYPE is {os.environ['API_TYPE']!r}, and this needs 'openai'"
    if not os.environ.get("OPENAI_API_KEY"):
        return "OPENAI_API_KEY is not set"
    url = os.environ.get("OPENAI_API_URL", DEFAULT_URL)
    if not url.endswith("/chat/completions"):
        return f"OPENAI_API_URL is {url!r}, and the whole address is wanted: .../v1/chat/completions"
    return None


def ask_judge(system: str, user: str, *, max_tokens: int = 1024) -> str:
    """What the judge says.

    Raises:
        RuntimeError: no judge, or none that answers after some tries.
    """
    problem = judge_problem()
    if problem is not None:
        raise RuntimeError(f"judge: expected a judge, got none: {problem}.")
    roles = (("system", system), ("user", user))
    body = {
        "model": judge_name(),
        "temperature": 0,
        "max_tokens": max_tokens,
        "messages": [{"role": role, "content": content} for role, content in roles],
    }
    request = urllib.request.Request(
        os.environ.get("OPENAI_API_URL", DEFAULT_URL),
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"},
    )
    return str(_send(request)["choices"][0]["message"]["content"])


def _send(request: urllib.request.Request) -> Mapping[str, Any]:
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: Mapping[str, Any] = json.loads(answer.read())
                return found
        except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
            if attempt == TRIES - 1:
                raise RuntimeError(
                    f"judge: expected an answer from {request.full_url}, got {error} after {TRIES} tries."
                ) from error
            time.sleep(WAIT * (attempt + 1))
    raise AssertionError("unreachable")


def read_scores(reply: str, names: Sequence[str], *, lowest: float, highest: float) -> list[float]:
    """Named numbers out of a judge's reply, kept inside their scale.

    Raises:
        ValueError: a name without a number.

    Example:
        >>> read_scores("So: {'score_accuracy': 4, 'score_relevance': 5.0}", ["score_accuracy"], lowest=1, highest=5)
        [4.0]
    """
    scores = []
    for name in names:
        found = re.findall(rf"{name}['\"]?\s*[:=]\s*(\d+(?:\.\d+)?)", reply)
        if not found:
            raise ValueError(f"judge: expected a number for {name}, got {reply[:200]!r}.")
        scores.append(min(max(float(found[-1]), lowest), highest))
    return scores
