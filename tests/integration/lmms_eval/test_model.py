"""The model class, without the evaluator: order, batches, unreadable videos, rounds, losses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from lmms_eval.api.instance import Instance

from dynfocus_lmms_eval.model import Costs, DynFocus
from dynfocus_lmms_eval.prompts import DecodeError
from tests.integration.lmms_eval.hosts import PROCESSORS, save_host
from tests.integration.lmms_eval.models import save_random
from tests.integration.video.writing import write_video

pytestmark = pytest.mark.lmms_eval

ASKED = ["What does the sign say?", "Where does the ball go? left or right", "How many times does the lamp shine?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_random(tmp_path_factory.mktemp("model")))


@pytest.fixture
def documents(tmp_path: Path) -> list[dict]:
    """Videos of 3, 5 and 7 seconds."""
    return [
        {"video": str(write_video(tmp_path / f"{n}.mp4", 30 + 20 * n)), "question": text, "answer": "moon"}
        for n, text in enumerate(ASKED)
    ]


def model(folder: str, documents: list[dict], **arguments) -> DynFocus:
    made = DynFocus(pretrained=folder, device="cpu", **arguments)
    made.task_dict = {"asked": {"test": documents}}
    return made


def visuals(document: dict) -> list[str]:
    return [document["video"]]


def request(number: int, kind: str = "generate_until", *, shown=visuals, tokens: int = 5, middle=()) -> Instance:
    generation = {"max_new_tokens": tokens, "until": ["\n\n"]}
    arguments = (ASKED[number], generation, shown, *middle, number, "asked", "test")
    return Instance(kind, arguments, 0, {"task": "asked", "doc_id": number, "repeats": 1})


def test_answers_come_one_by_one_in_the_order_of_the_requests(folder, documents, monkeypatch):
    made = model(folder, documents, batch_size="2")
    sizes = []
    answer = made.engine.answer
    monkeypatch.setattr(made.engine, "answer", lambda prompts, g: sizes.append(len(prompts)) or answer(prompts, g))
    wanted = [request(0), request(1), request(2), request(2, tokens=3), request(0, tokens=3)]
    answers = made.generate_until(wanted)
    first = next(answers)
    assert sizes == [2]
    rest = list(answers)
    assert sizes == [2, 1, 2]
    alone = [next(model(folder, documents).generate_until([one])) for one in wanted]
    assert [first.text, *(one.text for one in rest)] == [one.text for one in alone]
    assert [one.token_counts.more["frames"] for one in alone] == [3, 5, 7, 7, 3]
    told = first.token_counts.to_dict()
    assert {"input_tokens", "output_tokens", "tokens", "focus_frames", "seconds_encode", "seconds_prefill"} <= set(told)


@pytest.mark.parametrize("host", PROCESSORS)
def test_hosts_of_transformers_answer_too(host, documents, tmp_path):
    save_host(host, tmp_path / "host")
    with_it = model(str(tmp_path / "host"), documents, max_tokens=12, batch_size=2)
    without = model(str(tmp_path / "host"), documents, connector="none")
    ours, theirs = list(with_it.generate_until([request(1), request(2)])), list(without.generate_until([request(1)]))
    assert all(0 < one.token_counts.more["tokens"] <= 12 for one in ours)
    assert [one.token_counts.more["frames"] for one in ours] == [5, 7]
    assert theirs[0].token_counts.more["tokens"] > 12
    assert all(one.text for one in [*ours, *theirs])


def test_a_broken_video_stops_the_run_or_counts_as_unanswered(folder, documents):
    Path(documents[1]["video"]).write_bytes(b"\0broken")

    def gone(document):
        sys.exit("video path: x does not exist, please check")

    stops = model(folder, documents).generate_until([request(0), request(1)])
    assert next(stops).text
    with pytest.raises(DecodeError, match=r"got .*1.mp4.*\(decode_errors=unanswered counts it as unanswered"):
        next(stops)
    goes_on = model(folder, documents, decode_errors="unanswered", batch_size=4)
    wanted = [request(0), request(1), request(2, shown=gone), request(2)]
    good, broken, missing, last = goes_on.generate_until(wanted)
    assert (bool(good.text), broken.text, missing.text, bool(last.text)) == (True, "", "", True)
    assert "unanswered" not in good.token_counts.to_dict()
    assert broken.token_counts.to_dict()["unanswered"].startswith("DecodeError: read_video: expected")
    assert "does not exist, please check" in missing.token_counts.to_dict()["unanswered"]


def test_rounds_are_led_by_the_task(folder, documents):
    def next_round(document, previous_output, round_idx, previous_round_info):
        return [document["video"]], ASKED[round_idx], round_idx == 2, previous_output, None

    made = model(folder, documents)
    (rounds,) = made.generate_until_multi_round([request(0, "generate_until_multi_round", middle=(next_round,))])
    (first,) = made.generate_until([request(0)])
    assert len(rounds) == 2
    assert rounds[0] == first.text


def test_losses_are_smaller_where_the_model_agrees(folder, documents):
    made = model(folder, documents)
    (said,) = made.generate_until([request(0, tokens=2)])

    def loss(continuation):
        arguments = (ASKED[0], continuation, visuals, 0, "asked", "test")
        ask = Instance("loglikelihood", arguments, 0, {"task": "asked", "doc_id": 0, "repeats": 1})
        return next(made.loglikelihood([ask]))

    assert loss(said.text)[1]
    assert loss(said.text)[0] < loss(lambda document: document["answer"])[0]
    assert not loss("moon")[1]


def test_text_and_pictures(folder, documents):
    from PIL import Image

    made = model(folder, documents, batch_size=3)
    pictures = [Image.new("RGB", (60, 40), color) for color in ("red", "blue")]
    nothing, one, several = made.generate_until(
        [
            request(0, shown=lambda d: None),
            request(0, shown=lambda d: pictures[:1]),
            request(0, shown=lambda d: pictures),
        ]
    )
    frames = [answer.token_counts.more["frames"] for answer in (nothing, one, several)]
    tokens = [answer.token_counts.more["tokens"] for answer in (nothing, one, several)]
    assert (frames, tokens) == ([0, 1, 2], [0, 15, 30])


def test_a_cache_without_weights_is_refused(folder, documents, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lmms-eval", "--use_cache", "here"])
    with pytest.raises(ValueError, match=r"expected weights=w\w{11}, the fingerprint of the files, got none"):
        model(folder, documents)


def test_unknown_arguments_and_batch_sizes(folder, documents):
    with pytest.raises(ValueError, match=r"expected pretrained and any of host, .*got max_num_frames"):
        model(folder, documents, max_num_frames=8)
    with pytest.raises(ValueError, match="expected a batch_size that is a number, got 'auto'"):
        model(folder, documents, batch_size="auto")


def test_the_model_goes_when_lmms_eval_is_done_with_it(folder, documents):
    made = model(folder, documents)
    made.clean()
    assert not hasattr(made, "engine")


def test_costs_follow_lmms_evals_own():
    assert Costs(input_tokens=3, more={"tokens": 2}).to_dict() == {"input_tokens": 3, "tokens": 2}
