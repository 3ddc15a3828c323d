import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.data.check import check_file
from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.converters import CONVERTERS
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.options import DataOptions, Source
from dynfocus_reference.data.records import parse_record
from dynfocus_reference.data.sampler import GroupedSampler
from dynfocus_reference.processing import byte_tokenizer
from tests.comparing import assert_makes_no_tensor_elsewhere

from .conftest import run_verb, talk, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    write_video(folder / "clip.mp4", seconds=5)
    Image.fromarray(np.full((40, 80, 3), 255, np.uint8)).save(folder / "white.png")
    (folder / "broken.mp4").write_bytes(b"nothing")
    records = [
        talk("<image>\nWhat?", "A ball.", "Where?", "Left.", video="clip.mp4"),
        talk("<image>\nColour?", "White.", image="white.png"),
        talk("Hi", "Ho"),
        talk("<image>\nWhat?", "?", video="broken.mp4"),
        talk("<image>\nWhat?", "?", video="gone.mp4"),
        {"id": "x", "conversations": [{"from": "gpt", "value": "first"}]},
    ]
    (folder / "set.json").write_text(json.dumps(records))
    (folder / "good.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:3]))
    return folder


@pytest.fixture(scope="module")
def processor():
    return ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), preset("tiny"))


def dataset(folder, processor, name="good.jsonl", **options):
    return ConversationDataset([Source(str(folder / name), str(folder))], processor, DataOptions(**options))


def test_samples_become_batches_that_the_model_takes(folder, processor):
    data = dataset(folder, processor, per_turn=True)
    batch = Collator(0, 0)([data[i] for i in range(3)])
    assert batch.pop("skipped") == []
    assert batch["clip_lengths"].tolist() == [5, 1]
    assert batch["clip_index"].tolist() == [0, 0, 1]
    assert (batch["input_ids"] == -200).sum(1).tolist() == [2, 1, 0]
    model = ReferenceModel(preset("tiny")).train()
    assert model(**batch).loss.isfinite()


def test_images_are_padded_to_a_square_with_the_mean_colour(folder, processor):
    frame = dataset(folder, processor)[1]["frames"][0]
    assert frame.shape == (64, 64, 3)
    assert frame[2, 32].tolist() == [122, 116, 104]
    assert frame[32, 32].tolist() == [255, 255, 255]
    assert (dataset(folder, processor, square_images=False)[1]["frames"] == 255).all()


def test_bytes_are_normalised_in_the_model(folder, processor, model):
    frames = dataset(folder, processor)[0]["frames"]
    mean, std = torch.tensor(model.config.image_mean), torch.tensor(model.config.image_std)
    expected = ((frames / 255.0 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.normalize(frames), expected)
    torch.testing.assert_close(model.see(frames), model.see(expected))


def test_long_videos_are_sampled_evenly(folder, processor):
    assert len(dataset(folder, processor, fps=4.0)[0]["frames"]) == 20
    assert len(dataset(folder, processor, fps=4.0, max_frames=6)[0]["frames"]) == 6


def test_placeholders_stand_at_random_but_reproducibly(folder, processor, tmp_path):
    (tmp_path / "many.jsonl").write_text((folder / "good.jsonl").read_text().splitlines()[0] * 1 + "\n")
    source = Source(str(tmp_path / "many.jsonl"), str(folder), weight=40)
    places = {}
    for seed in (0, 0, 1):
        data = ConversationDataset([source], processor, DataOptions(seed=seed))
        now = [data.places(i, data.record(i))[0] for i in range(40)]
        assert places.setdefault(seed, now) == now
        assert 8 < now.count("end") < 32
    assert places[0] != places[1]
    front = ConversationDataset([source], processor, DataOptions(placeholder="front"))
    assert {front.places(i, front.record(i))[0] for i in range(40)} == {"front"}


def test_bad_samples_are_named_and_the_batch_goes_on(folder, processor):
    data = dataset(folder, processor, "set.json")
    batch = Collator(0, 0)([data[i] for i in range(6)])
    assert [message.split(":")[0] for message in batch["skipped"]] == ["set.json[3]", "set.json[4]", "set.json[5]"]
    assert len(batch["input_ids"]) == 3
    empty = Collator(0, 0)([data[4]])
    assert "gone.mp4" in empty.pop("skipped")[0]
    loss = ReferenceModel(preset("tiny")).train()(**empty).loss
    loss.backward()
    assert loss == 0


def test_samples_are_made_on_the_cpu(folder, processor):
    data = dataset(folder, processor, "set.json", per_turn=True)
    assert_makes_no_tensor_elsewhere(lambda: Collator(0, 0)([data[i] for i in range(6)]))
    assert_makes_no_tensor_elsewhere(lambda: Collator(0, 0)([data[5]]))


def test_mixtures_have_weights(folder, processor, tmp_path):
    lines = [json.dumps({**talk("Hi", "Ho"), "id": str(i)}) for i in range(10)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    sources = [
        Source(str(folder / "good.jsonl"), str(folder), weight=2),
        Source(str(tmp_path / "text.jsonl"), weight=0.5),
    ]
    data = ConversationDataset(sources, processor)
    assert len(data) == 2 * 3 + 5
    count = Counter(data.name(i) for i in range(len(data)))
    assert [count[f"good.jsonl[{i}]"] for i in range(3)] == [2, 2, 2]
    assert len([name for name in count if name.startswith("text")]) == 5
    with pytest.raises(ValueError, match="expected weight > 0, got 0"):
        Source("x", weight=0)
    with pytest.raises(ValueError, match="placeholder 'random' or 'front', got 'back'"):
        DataOptions(placeholder="back")


def test_sampler_groups_modality_and_length():
    random = np.random.default_rng(0)
    modality, length = random.integers(0, 3, 1000), random.integers(1, 500, 1000)
    sampler = GroupedSampler(modality, length, 8, seed=3)
    drawn = list(sampler)
    assert {draw.epoch for draw in drawn} == {0}
    order = np.array([draw.sample for draw in drawn])
    assert sorted(order) == list(range(1000))
    full = order[: 1000 // 8 * 8 - 7 * 8 * 3].reshape(-1, 8)
    assert (modality[full] == modality[full[:, :1]]).all()
    spread = (length[full].max(1) - length[full].min(1)).mean()
    assert spread < 40
    assert list(sampler) == drawn
    sampler.set_epoch(1)
    assert [draw.sample for draw in sampler] != order.tolist()
    assert {draw.epoch for draw in sampler} == {1}
    with pytest.raises(ValueError, match=r"batch_size >= 1 .* got 0"):
        GroupedSampler([0], [1], 0)


def test_check_data_reads_everything(folder, capsys):
    summary = check_file(str(folder / "set.json"), str(folder))
    assert (summary.total, summary.samples, summary.turns) == (6, {"image": 1, "video": 3, "text": 1}, 6)
    assert sorted(problem.kind for problem in summary.bad) == [
        "missing file",
        "turns in the wrong order",
        "undecodable",
    ]
    assert run_verb("check-data", str(folder / "set.json"), "--root", str(folder)) == 1
    assert "set.json[4]" in capsys.readouterr().out
    assert run_verb("check-data", str(folder / "good.jsonl"), "--root", str(folder)) == 0
    assert "every sample can be used" in capsys.readouterr().out


def test_check_data_counts_a_file_once_and_each_of_its_samples(folder, tmp_path, capsys):
    records = [talk("<image>\nWhat?", str(i), video="clip.mp4") for i in range(3)]
    records += [talk("<image>\nWhat?", str(i), image="white.png") for i in range(2)]
    (tmp_path / "set.json").write_text(json.dumps(records))
    assert run_verb("check-data", str(tmp_path / "set.json"), "--root", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "samples 5: 3 with a video, 2 with an image, 0 text-only"
    assert re.fullmatch(r"files: 1 videos \((4\.[89]|5\.[01]) seconds\), 1 images", lines[1])


def test_check_data_writes_the_good_samples_with_the_length_of_their_videos(folder, processor, tmp_path, capsys):
    good = tmp_path / "new" / "good.jsonl"
    arguments = ("check-data", str(folder / "set.json"), "--root", str(folder), "--write", str(good))
    assert run_verb(*arguments) == 1
    assert f"3 good samples written to {good}" in capsys.readouterr().out
    made = [json.loads(line) for line in good.read_text().splitlines()]
    old = json.loads((folder / "set.json").read_text())
    assert made == [{**old[0], "duration": pytest.approx(5, abs=0.3)}, *old[1:3]]
    data = ConversationDataset([Source(str(good), str(folder))], processor)
    words = dataset(folder, processor).sketch()[1]
    assert (data.sketch()[1] - words).tolist() == [2 * int(made[0]["duration"]), 0, 0]
    assert run_verb("check-data", str(good), "--root", str(folder)) == 0


STRANGE = [
    talk("Hi", "Ho", video="a.mp4", duration="00:12"),
    talk("Hi", "Ho", video="a.mp4", duration=[1]),
    talk("Hi", "Ho", image=["a", "b"]),
    {"conversations": ["Hi", "Ho"]},
    talk("Hi", "Ho"),
]


def test_records_of_strange_types_are_skipped_and_named(processor, tmp_path, capsys):
    lines = [json.dumps(one).encode() for one in STRANGE]
    (tmp_path / "strange.jsonl").write_bytes(b"\n".join([b'{"id": "\xe9"}', *lines]))
    names = [f"strange.jsonl[{number}]: " for number in range(5)]
    assert run_verb("check-data", str(tmp_path / "strange.jsonl"), "--root", str(tmp_path)) == 1
    told = capsys.readouterr().out
    assert "bad: 5 malformed" in told
    assert all(name in told for name in names)
    data = ConversationDataset([Source(str(tmp_path / "strange.jsonl"), str(tmp_path))], processor)
    assert len(data.sketch()[1]) == 6
    for number, name in enumerate(names):
        assert data[number]["bad"].startswith(name)
    assert "bad" not in data[5]


def test_check_data_measures_samples_as_training_does(folder, processor, tmp_path, capsys):
    config = preset("tiny")
    config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    whole = dataset(folder, processor, max_length=None)
    lengths = [len(whole[i]["input_ids"]) for i in range(3)]
    assert max(lengths) == lengths[0]
    file, model = str(folder / "good.jsonl"), ("--root", str(folder), "--model", str(tmp_path))
    assert run_verb("check-data", file, *model, "--max-length", str(lengths[0])) == 0
    assert run_verb("check-data", file, *model, "--max-length", str(lengths[0] - 1)) == 1
    told = f"good.jsonl[0]: expected at most {lengths[0] - 1} tokens, got room for 1 of 2 turns."
    assert told in capsys.readouterr().out
    assert run_verb("check-data", file, *model, "--max-length", "20") == 1
    assert "3 over-long" in capsys.readouterr().out
    assert run_verb("check-data", file, *model, "--max-length", "20", "--template", "plain") == 0


CLEVRER_CHOICES = [{"choice": "the cube", "answer": "correct"}, {"choice": "the ball", "answer": "wrong"}]
PUBLISHED = {
    "llava-cc3m": [talk("Describe.\n<image>", "a dog", image="a.jpg")],
    "webvid-captions": [["videoid", "page_dir", "duration", "name"], ["12", "000_050", "PT00H01M02S", "Waves at dawn"]],
    "llava-665k": [{"id": "2", "conversations": talk("Hi", "Ho")["conversations"], "model": "x"}],
    "scienceqa": {
        "5": {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "Look.", "image": "image.png",
              "split": "train"},
        "6": {"question": "Which?", "choices": ["a", "b"], "answer": 0, "hint": "", "image": None, "split": "test"},
    },
    "videochatgpt-100k": [{"q": "What happens?", "a": "A goal.", "video_id": "v_abc"}],
    "webvid-qa": [{"video": "1/2.mp4", "QA": [{"i": "Answer.", "q": "Who?", "a": "A man"}, {"q": "Why?", "a": "Fun"}]}],
    "next-qa": [["video", "question", "answer", "qid", "a0", "a1", "a2", "a3", "a4"],
                ["77", "why did he run", "2", "6", "p", "q", "r", "s", "t"]],
    "clevrer": [{"video_filename": "video_00001.mp4", "questions": [
        {"question": "How many?", "answer": "2"}, {"question": "Which is responsible?", "choices": CLEVRER_CHOICES}]}],
}  # fmt: skip
LETTER = "Answer with the option's letter from the given choices directly."
CONVERTED = {
    "llava-cc3m": [("image", "a.jpg", [("Describe.", "a dog", True)])],
    "webvid-captions": [("video", "000_050/12.mp4", [("Describe the video concisely.", "Waves at dawn", True)])],
    "llava-665k": [("text", None, [("Hi", "Ho", False)])],
    "scienceqa": [("image", "train/5/image.png", [(f"Context: Look.\nWhich?\nA. a\nB. b\n{LETTER}", "B", True)])],
    "videochatgpt-100k": [("video", "v_abc.mp4", [("What happens?", "A goal.", True)])],
    "webvid-qa": [("video", "1/2.mp4", [("Answer. Who?", "A man", True), ("Why?", "Fun", False)])],
    "next-qa": [("video", "1/77.mp4", [(f"why did he run\nA. p\nB. q\nC. r\nD. s\nE. t\n{LETTER}", "C", True)])],
    "clevrer": [("video", "video_00001.mp4", [("How many?", "2", True)]),
                ("video", "video_00001.mp4",
                 [(f"Which is responsible?\nA. the cube\nB. the ball\n{LETTER}", "A", True)])],
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTERS)
def test_converters(name, tmp_path):
    content = PUBLISHED[name]
    if isinstance(content, list) and isinstance(content[0], list):
        with open(tmp_path / "input.csv", "w", newline="") as file:
            csv.writer(file).writerows(content)
    (tmp_path / "input.json").write_text(json.dumps(content))
    (tmp_path / "map_vid_vidorID.json").write_text(json.dumps({"77": "1/77"}))
    source = tmp_path / ("input.csv" if (tmp_path / "input.csv").exists() else "input.json")
    assert run_verb("convert-data", name, str(source), str(tmp_path / "out.jsonl")) == 0
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    parsed = [parse_record(raw, name) for raw in made]
    assert [(record.modality, record.path, record.turns) for record in parsed] == CONVERTED[name]
    if name == "webvid-captions":
        assert parsed[0].seconds == 62


def test_a_set_is_converted_whole_or_not_at_all(tmp_path):
    (tmp_path / "input.json").write_text(json.dumps([*PUBLISHED["videochatgpt-100k"], {"q": "What?"}]))
    (tmp_path / "out.jsonl").write_text("old")
    with pytest.raises(ValueError, match=r"input\.json' to be videochatgpt-100k as .* got a record without 'a'"):
        run_verb("convert-data", "videochatgpt-100k", str(tmp_path / "input.json"), str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


WEBVID = "videoid,page_dir,duration,name\n1,a,PT12S,Waves\n2,a,{},Dawn\n"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("webvid-captions", WEBVID.format("PTsoon"), r"got a duration 'PTsoon' instead .* \(after 1 good samples\)"),
        ("scienceqa", "nonsense", r"got Expecting value: .* \(after 0 good samples\)"),
        ("scienceqa", "[]", r"got 'list' object has no attribute 'items'"),
        ("videochatgpt-100k", '["Hi"]', r"got string indices must be integers"),
    ],
)
def test_a_file_of_another_form_is_named(name, text, told, tmp_path):
    (tmp_path / "input.json").write_text(text)
    with pytest.raises(ValueError, match=rf"input\.json' to be {name} as .* {told}"):
        run_verb("convert-data", name, str(tmp_path / "input.json"), str(tmp_path / "out.jsonl"))


def test_durations_of_webvid_may_be_short(tmp_path):
    (tmp_path / "input.csv").write_text(WEBVID.format("PT1H2M"))
    assert run_verb("convert-data", "webvid-captions", str(tmp_path / "input.csv"), str(tmp_path / "out.jsonl")) == 0
    made = [json.loads(line)["duration"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert made == [12, 3720]
