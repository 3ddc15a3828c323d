"""The reference model through its engine: ragged batches, budgets, everything kept, losses."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("timm")
pytest.importorskip("av")

from dynfocus_connector import DynFocusConnector
from dynfocus_reference import ReferenceModel, ReferenceProcessor
from dynfocus_reference.answering import ReferenceEngine, left_padded, load
from dynfocus_reference.planted.recipe import planted_config, planted_processor
from dynfocus_reference.planted.vocabulary import word_tokenizer
from dynfocus_reference.planted.world import render, write_story
from dynfocus_video.reader import VideoFrames

GREEDY = {"max_new_tokens": 5, "do_sample": False}
PLAIN = {"connector": None, "max_tokens": None, "scorer": None, "dtype": "float32", "attn": None, "device": "cpu"}


def story(seed: int, length: int = 32) -> VideoFrames:
    frames = torch.from_numpy(render(write_story(seed, length)))
    return VideoFrames(frames, torch.arange(length).float(), float(length), 1.0, (48, 48), 1.0, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    ReferenceModel(planted_config()).save_pretrained(path)
    planted_processor().save_pretrained(path)
    return str(path)


def engine(folder: str, **changes) -> ReferenceEngine:
    return load(pretrained=folder, **{**PLAIN, **changes})


def test_a_ragged_batch_answers_as_one_by_one(folder):
    model = engine(folder)
    prompts = [
        [story(1), "What does the sign say?"],
        [story(2, 48), "Where does the ball go? left or right"],
        ["How many times does the lamp shine?"],
        [story(3), story(4, 40), "Which color comes first?"],
        [story(5)._replace(frames=story(5).frames[:1]), "What is on the left of the sign?"],
    ]
    together = model.answer(prompts, GREEDY)
    alone = [model.answer([prompt], GREEDY)[0] for prompt in prompts]
    assert [answer for answer, _ in together] == [answer for answer, _ in alone]
    assert len({answer for answer, _ in together}) > 2
    same = ("tokens", "frames", "focus_frames", "input_tokens", "output_tokens")
    assert [[cost[key] for key in same] for _, cost in together] == [[cost[key] for key in same] for _, cost in alone]
    assert [cost["frames"] for _, cost in together] == [32, 48, 0, 72, 1]
    assert [cost["tokens"] for _, cost in together] == [103, 135, 0, 103 + 119, 15]
    assert [cost["focus_frames"] for _, cost in together] == [3, 3, 0, 6, 1]


def test_budgets_and_the_baseline(folder):
    question = [story(1), "What does the sign say?"]

    def cost(**changes):
        ((_, found),) = engine(folder, **changes).answer([question], GREEDY)
        return found

    assert cost(connector="none")["tokens"] == 32 * 36
    assert cost(max_tokens=77)["tokens"] == 77
    assert cost(max_tokens=77)["input_tokens"] == cost()["input_tokens"] - 103 + 77
    assert min(cost()["seconds_encode"], cost()["seconds_prefill"]) > 0


def test_the_loss_is_that_of_the_continuation(folder):
    model = engine(folder)
    question = [story(1), "What does the sign say?"]
    ((answer, _),) = model.answer([question], {**GREEDY, "max_new_tokens": 3})
    loss, greedy = model.loss(question, answer)
    other, not_greedy = model.loss(question, "moon moon moon")
    assert (greedy, not_greedy) == (True, False)
    assert 0 < loss < other
    assert model.loss(question, "moon")[0] > 0


def test_padding_is_in_front_and_masked():
    ids, mask = left_padded([torch.tensor([5, 6]), torch.tensor([7])], 0)
    assert ids.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[True, True], [False, True]]


def test_another_connector_takes_the_models_place(folder, tmp_path):
    torch.manual_seed(1)
    ReferenceModel(planted_config()).connector.save_pretrained(tmp_path)
    question = [story(1), "What does the sign say?"]
    other = engine(folder, connector=str(tmp_path))
    loaded = DynFocusConnector.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in other.model.connector.state_dict().items())
    assert other.loss(question, "moon")[0] != engine(folder).loss(question, "moon")[0]


def test_rivals_put_other_frames_in_focus(folder):
    clip = story(1)
    ours, rival = engine(folder), engine(folder, scorer="uniform")
    written = ours.write([clip, "What does the sign say?"], None)
    frames = [model.compress([written]).selection.focus_index[0].tolist() for model in (ours, rival)]
    assert frames[1] == [5, 16, 26]
    assert frames[0] != frames[1]


def test_a_hub_repository_is_fetched(folder, monkeypatch):
    fetched = []
    monkeypatch.setattr("dynfocus_reference.answering.snapshot_download", lambda name: fetched.append(name) or folder)
    assert engine("somebody/model").processor.size.height == 48
    assert fetched == ["somebody/model"]


def test_contradictions_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="expected scorer 'network', 'uniform' or 'random', got 'question'"):
        engine(folder, scorer="question")
    with pytest.raises(ValueError, match="got 'training-free'"):
        engine(folder, connector="training-free")
    with pytest.raises(ValueError, match="expected no max_tokens with connector=none, got 5"):
        engine(folder, connector="none", max_tokens=5)
    ReferenceModel(planted_config()).connector.save_pretrained(tmp_path / "same")
    from dynfocus_connector import DynFocusConfig, build_connector

    build_connector(DynFocusConfig(dim=32, dim_out=96, dim_text=64)).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match="expected a connector from width 64 to 96, got one from 32 to 96"):
        engine(folder, connector=str(tmp_path / "narrow"))


def test_questions_longer_than_the_qformer_reads_keep_their_end():
    config = planted_config()
    most = config.qformer_config.max_position_embeddings
    processor = ReferenceProcessor(word_tokenizer(), word_tokenizer(), config)
    ids = processor.question("lamp " + "board " * most).tolist()
    assert ids == processor.question("board").tolist() * most
