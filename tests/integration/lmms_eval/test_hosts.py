"""Hosts of transformers, with and without a connector, through one engine."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("av")

from dynfocus_transformers.answering import HostEngine, load
from dynfocus_video.reader import VideoFrames
from tests.integration.lmms_eval.hosts import PROCESSORS, save_host

GREEDY = {"max_new_tokens": 6, "do_sample": False}
DEFAULTS = {"connector": None, "max_tokens": None, "scorer": None, "dtype": "float32", "attn": None, "device": "cpu"}


def clip(frames: int, seed: int = 0) -> VideoFrames:
    """Noise, one frame per second."""
    made = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 255, (frames, 56, 56, 3), generator=made, dtype=torch.uint8)
    return VideoFrames(pictures, torch.arange(frames).float(), float(frames), 1.0, (56, 56), 1.0, None)


def picture(seed: int) -> VideoFrames:
    return clip(1, seed)._replace(duration=0.0, source_fps=0.0)


@pytest.fixture(scope="module", params=PROCESSORS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_host(request.param, tmp_path_factory.mktemp(request.param)))


def engine(folder: str, **changes) -> HostEngine:
    return load(pretrained=folder, **{**DEFAULTS, **changes})


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


def tokens(host: HostEngine, *prompts) -> list[int]:
    return [cost["tokens"] for _, cost in host.answer(prompts, GREEDY)]


def test_two_videos_cost_what_they_cost_alone(folder):
    first, second = clip(6, 1), clip(6, 2)
    prompts = [[first, second, "a or b ?"], [first, "a or b ?"], [second, "a or b ?"]]
    together, *alone = tokens(engine(folder, max_tokens=50), *prompts)
    assert together == sum(alone) > 51


def test_a_still_video_comes_in_whole(folder):
    """Nothing but the connector drops tokens."""
    moving, held = clip(12), clip(12)._replace(frames=clip(1).frames.expand(12, -1, -1, -1))
    prompts = [[moving, "what is shown ?"], [held, "what is shown ?"]]
    full, short = tokens(engine(folder, connector="none"), *prompts), tokens(engine(folder, max_tokens=40), *prompts)
    assert full[0] == full[1]
    assert short[1] <= 40 + full[1] % 2 < full[1]


def test_a_video_of_one_frame(folder):
    """Hosts that join frames in pairs have its picture twice."""
    for told in ({"connector": "none"}, {"max_tokens": 8}):
        ((_, cost),) = engine(folder, **told).answer([[clip(1), "what is shown ?"]], GREEDY)
        assert cost["output_tokens"] > 0
        assert cost["frames"] == 1
        assert (cost["tokens"] <= 8 + 1) == ("max_tokens" in told)


def test_pictures_are_no_video(folder):
    """Not even where as many words lie between them as between frames."""
    prompt = [picture(4), "what is shown in the picture ? a or b ?", picture(5), "which picture is a ?"]
    plain, ours = engine(folder, connector="none"), engine(folder, max_tokens=20)
    assert ours.answer([prompt], GREEDY)[0][0] == plain.answer([prompt], GREEDY)[0][0]
    assert not ours.model.dynfocus_report
    assert ours.loss(prompt, "a b") == pytest.approx(plain.loss(prompt, "a b"))


def test_a_picture_beside_a_video(folder):
    prompt = [picture(4), "which comes first ?", clip(6), "what is shown ?"]
    plain, ours = engine(folder, connector="none"), engine(folder, max_tokens=20)
    kept = engine(folder, max_tokens=10**6)
    if not plain.adapter.pictures_beside_videos:
        with pytest.raises(ValueError, match="expected videos or pictures in a prompt for smolvlm, got both"):
            plain.answer([prompt], GREEDY)
        pytest.skip("does not apply: the processor takes pictures or videos")
    of_picture = [tokens(host, prompt)[0] - tokens(host, prompt[2:])[0] for host in (plain, ours)]
    assert of_picture[0] == of_picture[1] > 1
    assert kept.loss(prompt, "a b") == pytest.approx(plain.loss(prompt, "a b"))
    assert kept.loss([picture(5), *prompt[1:]], "a b") != pytest.approx(kept.loss(prompt, "a b"))


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
