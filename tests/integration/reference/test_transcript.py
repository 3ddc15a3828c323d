"""A small model learns to talk about coloured squares, and is asked about clips that it never saw.

`DYNFOCUS_CHAT_PAGE=1 pytest -m slow tests/integration/reference/test_transcript.py` writes what it says into the page.
"""

import io
import os
import re
from pathlib import Path

import pytest
import torch

from dynfocus_reference import ReferenceModel, ReferenceProcessor
from dynfocus_reference.chat import Conversation
from dynfocus_reference.extraction import extract
from dynfocus_reference.train import train
from dynfocus_reference.training.config import load_config

from .conftest import run_verb
from .squares import file_of, questions, split, write_squares_run

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[3] / "docs" / "guides" / "chat.md"
TRANSCRIPT = re.compile(r"(?<=<!-- transcript -->\n```console\n).*?(?=```\n)", flags=re.DOTALL)
STORY = ("blue", "yellow", "red")
ASKED = list(questions(STORY))[:3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips and a model trained on all but some of them, by the command's own recipe."""
    folder = tmp_path_factory.mktemp("squares")
    config = load_config(write_squares_run(folder))
    extract(config, dtype=torch.float32)
    train(config)
    return folder


def conversation(folder, story):
    model = ReferenceModel.from_pretrained(folder / "out" / "model").eval()
    processor = ReferenceProcessor.from_pretrained(folder / "out" / "model")
    return Conversation(model, processor, processor.read(folder / "clips" / file_of(story)).frames)


class Terminal(io.StringIO):
    """Where somebody types."""

    def isatty(self):
        return True


def test_three_questions_about_a_clip_it_never_saw(folder, monkeypatch, capsys):
    assert STORY in split()[1]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(ASKED) + "\n"))
    arguments = ("--model", folder / "out" / "model", "--video", folder / "clips" / file_of(STORY))
    assert run_verb("chat", *map(str, arguments), "--report", str(folder / "report.html")) == 0
    nothing, *said, end = capsys.readouterr().out.split("> ")
    assert said == [f"{answer}\n" for answer in list(questions(STORY).values())[:3]]
    assert (nothing, end) == ("", "")
    assert ASKED[-1] in (folder / "report.html").read_text()
    typed = [f"> {question}\n{answer}" for question, answer in zip(ASKED, said, strict=True)]
    printed = "".join([f"$ dynfocus chat --model model --video {file_of(STORY)} --report report.html\n", *typed])
    if os.environ.get("DYNFOCUS_CHAT_PAGE"):
        PAGE.write_text(TRANSCRIPT.sub(lambda old: printed, PAGE.read_text(), count=1))
    assert TRANSCRIPT.search(PAGE.read_text())[0] == printed


def test_most_answers_about_unseen_clips_are_right(folder):
    right = [
        talk.ask(question, max_new_tokens=30) == answer
        for story in split()[1]
        for talk in [conversation(folder, story)]
        for question, answer in list(questions(story).items())[:3]
    ]
    assert len(right) == 30
    assert sum(right) >= 22


def test_the_history_is_kept_events_are_found_once_and_rods_are_redone(folder):
    talk = conversation(folder, STORY)
    counts = dict.fromkeys(("tower", "events", "rods"), 0)
    parts = {
        "tower": talk.model.vision,
        "events": talk.model.connector.estimator,
        "rods": talk.model.connector.encoder,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda *args, name=name: counts.update({name: counts[name] + 1}))
    prompts = []
    generate = talk.model.generate
    talk.model.generate = lambda ids, **options: (prompts.append(ids[0]), generate(ids, **options))[1]
    answers = [talk.ask(question, max_new_tokens=30) for question in ASKED]
    assert counts == {"tower": 0, "events": 1, "rods": 3}
    decode = talk.processor.tokenizer.decode
    for number, prompt in enumerate(prompts):
        said = decode(prompt[prompt >= 0])
        assert int((prompt < 0).sum()) == 1
        for earlier in range(number):
            assert ASKED[earlier] in said
            assert answers[earlier] in said
