"""The model that comes with the project answers about a video file, and says what it is."""

from __future__ import annotations

import re

import pytest

from dynfocus_reference.data.records import JsonLines
from dynfocus_reference.model import ReferenceModel
from dynfocus_reference.planted import checkpoint_folder
from dynfocus_reference.planted.files import write_set
from dynfocus_reference.planted.ship import FIRST_VIDEO, ask_files
from dynfocus_reference.processing import ReferenceProcessor
from dynfocus_video.cli import main

LIMIT = 8 * 2**20


def test_it_is_small_and_has_a_card():
    files = [path for path in checkpoint_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    text = (checkpoint_folder() / "README.md").read_text()
    for needed in (
        "one small world and nothing else",
        "**Data**",
        "seed",
        "| salience |",
        "dynfocus chat --model planted",
    ):
        assert needed in text


def test_it_answers_as_its_card_says(tmp_path):
    """About ten of the card's videos; the card speaks of all of them."""
    text = (checkpoint_folder() / "README.md").read_text()
    told = {kind.replace(" ", "_"): float(share) for kind, share in re.findall(r"\| ([a-z ]+) \| ([\d.]+) \|", text)}
    model = ReferenceModel.from_pretrained(checkpoint_folder()).eval()
    found = ask_files(model, ReferenceProcessor.from_pretrained(checkpoint_folder()), tmp_path, 10)
    assert told.keys() == found.keys()
    assert sum(found.values()) / len(found) == pytest.approx(sum(told.values()) / len(told), abs=0.15)


def test_the_command_answers_a_generated_video_correctly(tmp_path, capsys):
    lines = list(JsonLines(write_set(tmp_path, 1, FIRST_VIDEO, kinds=("salience", "order", "motion"))))
    for line in lines:
        prompt = line["conversations"][0]["value"].partition("\n")[2]
        video = str(tmp_path / line["video"])
        assert main(["chat", "--model", "planted", "--video", video, "--question", prompt]) == 0
        assert capsys.readouterr().out.split()[-1] == line["answer"], line["kind"]
