import io
import re

import pytest
import torch

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.chat import Conversation
from dynfocus_reference.data.conversation import encode
from dynfocus_reference.data.records import Turn
from dynfocus_reference.processing import byte_tokenizer
from dynfocus_reference.visuals import Visuals

from .conftest import run_verb, write_video
from .runs import REPOSITORY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    model = ReferenceModel(preset("tiny"))
    model.save_pretrained(folder / "model")
    ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), model.config).save_pretrained(folder / "model")
    write_video(folder / "clip.mp4", seconds=12)
    return folder


@pytest.fixture
def talk(folder):
    model = ReferenceModel.from_pretrained(folder / "model").eval()
    processor = ReferenceProcessor.from_pretrained(folder / "model")
    return Conversation(model, processor, processor.read(folder / "clip.mp4").frames)


def test_history_is_kept_events_are_kept_and_rods_are_redone(talk):
    looked, selected = [], []
    talk.model.vision.register_forward_hook(lambda *args: looked.append(1))
    talk.model.connector.estimator.register_forward_hook(lambda *args: selected.append(1))
    first = talk.ask("What comes first?", max_new_tokens=4)
    tokens = talk.video.tokens
    talk.ask("How many?", max_new_tokens=4)
    assert (looked, len(selected)) == ([], 1)
    assert [turn.question for turn in talk.turns] == ["What comes first?", "How many?"]
    assert talk.turns[0].answer == first
    cone = talk.video.kind == 1
    assert torch.equal(talk.video.tokens[cone], tokens[cone])
    assert not torch.allclose(talk.video.tokens[~cone], tokens[~cone])


def test_an_answer_is_what_the_model_says_to_the_whole_prompt(talk):
    talk.turns = [Turn("Hi", "Ho", False)]
    answer = talk.ask("How many?", max_new_tokens=5)
    turns = [Turn("Hi", "Ho", False), Turn("How many?", None, False)]
    prompt = encode(turns, talk.processor.tokenizer, places=["front", None]).input_ids[None]
    question = talk.processor.question("How many?")[None]
    shown = Visuals.build(talk.tokens, torch.tensor([len(talk.tokens)]), question)
    made = talk.model.generate(
        prompt,
        frames=shown.frames,
        clip_lengths=shown.clip_lengths,
        question_ids=question,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
    )
    assert talk.processor.tokenizer.decode(made[0], skip_special_tokens=True).strip() == answer


def test_the_lines_of_the_readme(folder, monkeypatch, capsys):
    readme = (REPOSITORY / "README.md").read_text()
    (lines,) = re.findall(r"^```text\n(from dynfocus_reference .*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    assert len(lines.splitlines()) == 5
    monkeypatch.chdir(folder)
    names = {}
    exec(lines, names)
    (turn,) = names["talk"].turns
    assert capsys.readouterr().out == f"{turn.answer}\n"


def test_command_answers_and_writes_the_page(folder, capsys, tmp_path):
    arguments = ["chat", "--model", str(folder / "model"), "--video", str(folder / "clip.mp4"), "--max-new-tokens", "6"]
    assert run_verb(*arguments, "--question", "Who?", "--report", str(tmp_path / "report.html")) == 0
    assert capsys.readouterr().out.strip()
    assert "Who?" in (tmp_path / "report.html").read_text()


def test_without_a_question_lines_are_read(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Who?\n\nWhy?\n"))
    arguments = ["chat", "--model", str(folder / "model"), "--video", str(folder / "clip.mp4"), "--max-new-tokens", "3"]
    assert run_verb(*arguments) == 0
    assert capsys.readouterr().out.count("\n") >= 2


@pytest.mark.parametrize("name", ["/nowhere", "runs/nothing", "clips"])
def test_a_model_that_is_not_there(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    told = rf"expected a folder that `dynfocus train` or .* found neither at '{name}'"
    with pytest.raises(FileNotFoundError, match=told):
        run_verb("chat", "--model", name, "--video", str(folder / "clip.mp4"), "--question", "Who?")


def test_a_video_that_is_not_there(folder):
    with pytest.raises(ValueError, match=r"gone\.mp4"):
        run_verb("chat", "--model", str(folder / "model"), "--video", "gone.mp4", "--question", "Who?")
