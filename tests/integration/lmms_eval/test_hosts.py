"""Hosts of transformers, with and without a connector, through one engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("av")

from dynfocus_transformers.answering import HostEngine, load
from dynfocus_video.reader import VideoFrames
from tests.integration.lmms_eval.hosts import PROCESSORS, save_host

GREEDY = {"max_new_tokens": 6, "do_sample": False}
PLAIN = {"connector": None, "max_tokens": None, "scorer": None, "dtype": "float32", "attn": None, "device": "cpu"}


def clip(frames: int, seed: int = 0) -> VideoFrames:
    """Noise, one frame per second."""
    made = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 255, (frames, 56, 56, 3), generator=made, dtype=torch.uint8)
    return VideoFrames(pictures, torch.arange(frames).float(), float(frames), 1.0, (56, 56), 1.0, None)


def picture(seed: int) -> VideoFrames:
    return clip(1, seed)._replace(duration=0.0, source_fps=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_host(name, tmp_path_factory.mktemp(name)) for name in PROCESSORS}


@pytest.fixture(params=PROCESSORS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> str:
    return str(folders[request.param])


def engine(folder: str, **changes) -> HostEngine:
    return load(pretrained=folder, **{**PLAIN, **changes})


def test_a_batch_answers_as_one_by_one(folder):
    """Ragged videos, a text and pictures in one call."""
    host = engine(folder, max_tokens=80)
    prompts = [
        [clip(6, 1), "what is shown ?"],
        [clip(12, 2), "which comes first ?"],
        ["what is a or b ?"],
        [clip(6, 3), "a or b"],
        [picture(4), "what is shown in the picture ?"],
        [picture(4), picture(5), "which picture is a ?"],
    ]
    together = host.answer(prompts, GREEDY)
    alone = [host.answer([prompt], GREEDY)[0] for prompt in prompts]
    assert [answer for answer, _ in together] == [answer for answer, _ in alone]
    assert len({answer for answer, _ in together}) > 2
    same = ("tokens", "frames", "focus_frames", "input_tokens", "output_tokens")
    assert [[cost[key] for key in same] for _, cost in together] == [[cost[key] for key in same] for _, cost in alone]
    frames = [cost["frames"] for _, cost in together]
    assert frames == [6, 12, 0, 6, 1, 2]


def test_costs_are_those_of_the_connector(folder):
    question = [clip(12), "what is shown ?"]
    ((_, full),) = engine(folder, connector="none").answer([question], GREEDY)
    ((_, short),) = engine(folder, max_tokens=80).answer([question], GREEDY)
    newline = full["tokens"] % 2
    assert short["tokens"] <= 80 + newline < full["tokens"]
    assert full["input_tokens"] - short["input_tokens"] == full["tokens"] - short["tokens"]
    assert (full["focus_frames"], full["frames"]) == (0, 12)
    assert 1 <= short["focus_frames"] <= 12
    for cost in (full, short):
        assert min(cost["seconds_encode"], cost["seconds_prefill"]) > 0


def test_a_budget_of_everything_is_the_host_itself(folder):
    """Answers and losses of the plain host."""
    prompts = [[clip(6, 1), "what is shown ?"], [clip(6, 2), "a or b ?"]]
    plain, kept = engine(folder, connector="none"), engine(folder, max_tokens=10**6)
    assert [a for a, _ in plain.answer(prompts, GREEDY)] == [a for a, _ in kept.answer(prompts, GREEDY)]
    for prompt in prompts:
        assert kept.loss(prompt, "a b") == pytest.approx(plain.loss(prompt, "a b"))


def test_the_loss_is_that_of_the_continuation(folder):
    host = engine(folder, connector="none")
    prompt = [clip(6, 1), "what is shown ?"]
    ((answer, _),) = host.answer([prompt], {**GREEDY, "max_new_tokens": 2})
    loss, greedy = host.loss(prompt, answer)
    other, not_greedy = host.loss(prompt, "first first")
    assert (greedy, not_greedy) == (True, False)
    assert 0 < loss < other


@pytest.mark.parametrize("scorer", ["uniform", "random"])
def test_rivals_spend_the_same_on_other_frames(folder, scorer):
    prompt = [clip(12, 1), "what is shown ?"]
    ours, rival = engine(folder, max_tokens=80), engine(folder, max_tokens=80, scorer=scorer)
    ((_, spent),), ((_, spent_by_rival),) = ours.answer([prompt], GREEDY), rival.answer([prompt], GREEDY)
    assert spent_by_rival["tokens"] == spent["tokens"]
    assert spent_by_rival["focus_frames"] == spent["focus_frames"]
    assert rival.model.dynfocus.estimator.choice == scorer


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"connector": "none", "max_tokens": 5}, "expected neither max_tokens nor scorer with connector=none, got 5"),
        ({"scorer": "network"}, "expected scorer among importance, uniform, random, .*got 'network'"),
        ({"connector": "somewhere", "scorer": "uniform"}, "with connector=training-free alone, got 'uniform'"),
    ],
)
def test_contradictions_are_refused(folder, changes, said):
    with pytest.raises(ValueError, match=said):
        engine(folder, **changes)
