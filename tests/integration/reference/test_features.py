import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dynfocus_reference import ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.data.collate import Collator
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.features import FeatureFolder
from dynfocus_reference.data.fingerprint import agree, weights_hash
from dynfocus_reference.data.options import DataOptions, Source
from dynfocus_reference.data.records import parse_record
from dynfocus_reference.data.shard import Shard
from dynfocus_reference.extraction import extract
from dynfocus_reference.processing import byte_tokenizer
from dynfocus_reference.tower import tower_of
from dynfocus_reference.train import train
from dynfocus_reference.training.config import load_config

from .conftest import run_verb, talk, write_video
from .runs import finish, kill, launch, losses, shown, start, write_run, zero_runs


@pytest.fixture
def folder(tmp_path):
    """A set of two videos, a wide image and a text, and its run."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        write_video(clips / f"{number}.mp4", seconds=3 + 4 * number, seed=number)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8)).save(clips / "wide.png")
    records = [
        talk("<image>\nWhat?", "A ball.", "Where?", "Left.", video="0.mp4"),
        talk("<image>\nColour?", "White.", image="wide.png"),
        talk("Hi", "Ho"),
        talk("<image>\nWho?", "Nobody.", video="1.mp4"),
    ]
    write_run(
        tmp_path, records, sources=[{"path": "set.json", "root": "clips"}], data={"features": str(tmp_path / "f")}
    )
    return tmp_path


def run_of(folder, *changes):
    return load_config(folder / "run.yaml", changes)


def files(folder):
    return sorted(path.relative_to(folder / "f") for path in (folder / "f").rglob("*.safetensors"))


def samples(folder, model, **options):
    processor = ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), model.config)
    source = Source(str(folder / "set.json"), str(folder / "clips"))
    return ConversationDataset([source], processor, DataOptions(**options))


@pytest.mark.parametrize(("dtype", "within"), [("float32", 0), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_a_run_has_the_same_losses_as_from_pixels(folder, dtype, within):
    extract(run_of(folder), dtype=getattr(torch, dtype))
    assert [str(file) for file in files(folder)] == [
        "image/clips/wide.png.safetensors",
        "video/clips/0.mp4.safetensors",
        "video/clips/1.mp4.safetensors",
    ]
    assert load_file(folder / "f" / files(folder)[1])["tokens"].dtype == getattr(torch, dtype)
    from_pixels = losses(train(run_of(folder, "data.features=null", f"output={folder / 'pixels'}")))
    trainer = train(run_of(folder))
    assert trainer.model.reads_features
    assert losses(trainer) == pytest.approx(from_pixels, abs=within)
    assert len(set(from_pixels)) == 4


def test_only_what_is_missing_is_computed(folder):
    first = extract(run_of(folder))
    assert (first.written, first.there, first.bad) == (3, 0, [])
    assert first.frames == 1 + 3 + 7
    places = [folder / "f" / file for file in files(folder)]
    assert first.bytes == sum(place.stat().st_size for place in places)
    places[0].unlink()
    places[1].write_bytes(places[1].read_bytes()[:-1])
    kept = places[2].stat().st_mtime_ns
    again = extract(run_of(folder))
    assert (again.written, again.there) == (2, 1)
    assert places[2].stat().st_mtime_ns == kept
    assert extract(run_of(folder)).written == 0


def test_killed_while_writing_it_goes_on(folder):
    write_run(
        folder,
        [talk("<image>\nWhat?", "x", video=f"{number}.mp4") for number in range(40)],
        sources=[{"path": "set.json", "root": "clips"}],
        data={"features": str(folder / "f")},
    )
    for number in range(2, 40):
        (folder / "clips" / f"{number}.mp4").write_bytes((folder / "clips" / "1.mp4").read_bytes())
    command = ("-m", "dynfocus_reference.extract", folder / "run.yaml", "--workers", "0")
    process = start(*command)
    begin = time.monotonic()
    while len(files(folder)) < 2 and process.poll() is None and time.monotonic() - begin < 120:
        time.sleep(0.005)
    kill(process)
    found = {place: (folder / "f" / place).stat().st_mtime_ns for place in files(folder)}
    assert 2 <= len(found) < 40
    said = finish(start(*command))
    assert f"{40 - len(found)} files written" in said
    assert f"{len(found)} there before, 0 bad" in said
    assert {place: (folder / "f" / place).stat().st_mtime_ns for place in found} == found
    assert len(files(folder)) == 40
    assert not list((folder / "f").rglob("*.part"))


def test_shards_share_the_files(folder, monkeypatch):
    counts = [extract(run_of(folder), shard=Shard.parse(f"{index}/2")) for index in range(2)]
    assert [(one.written, one.there) for one in counts] == [(2, 0), (1, 0)]
    assert len(files(folder)) == 3
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Shard.parse("0/1") == (3, 4)
    assert Shard.parse("1/2") == (7, 8)
    for bad in ("2/2", "0", "x/3", "-1/2"):
        with pytest.raises(ValueError, match=f"--shard I/N with 0 <= I < N, got '{bad}'"):
            Shard.parse(bad)


@pytest.mark.slow
def test_ranks_of_torchrun_are_shards(folder):
    finish(launch("-m", "dynfocus_reference.extract", folder / "run.yaml", "--workers", "0"))
    assert len(files(folder)) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.fps=2.0", r"fps 1\.0 where 2\.0 is wanted"),
        ("data.max_frames=5", "max_frames 200 where 5 is wanted"),
        ("data.square_images=false", "square_images True where False is wanted"),
        ("seed=1", r"weights '[0-9a-f]{64}' where '[0-9a-f]{64}' is wanted"),
    ],
)
def test_features_made_otherwise_are_refused(folder, change, told):
    extract(run_of(folder))
    for use in (train, extract):
        with pytest.raises(ValueError, match=f"FeatureFolder: .* got {told}. Extract them anew"):
            use(run_of(folder, change))


def test_one_folder_has_one_dtype_and_reads_in_any(folder):
    extract(run_of(folder), dtype=torch.float32)
    with pytest.raises(ValueError, match="got dtype 'float32' where 'bfloat16' is wanted"):
        extract(run_of(folder), dtype=torch.bfloat16)
    model = tower_of("tiny", 0)
    agree(model, samples(folder, model, features=str(folder / "f")))
    assert model.reads_features
    plain = tower_of("tiny", 0)
    agree(plain, samples(folder, plain))
    assert not plain.reads_features


def test_the_hash_sees_weights_and_not_the_dtype_of_loading():
    tower = tower_of("tiny", 0).vision
    whole = weights_hash(tower)
    assert whole == weights_hash(tower.bfloat16())
    with torch.no_grad():
        next(tower.parameters()).view(-1)[0] += 1
    assert whole != weights_hash(tower)


def test_a_model_folder_gives_its_tower_alone(folder):
    sizes = {"img_size": 28, "embed_dim": 24, "depth": 3, "num_heads": 2}
    torch.manual_seed(3)
    config = preset("tiny", vision_name="eva02_tiny_patch14_224", vision_kwargs=sizes, image_size=28)
    model = ReferenceModel(config).eval()
    model.save_pretrained(folder / "model")
    data = ("extract-features", str(folder / "set.json"), "--model", str(folder / "model"))
    options = ("--root", str(folder / "clips"), "--output", str(folder / "f"), "--dtype", "float32", "--fps", "2")
    assert run_verb(*data, *options, "--workers", "0") == 0
    stored, pixels = samples(folder, model, features=str(folder / "f"), fps=2.0), samples(folder, model, fps=2.0)
    agree(model, stored)
    for index in (0, 1, 3):
        assert torch.equal(stored[index]["frames"], model.see(pixels[index]["frames"]))
    batch, seen = (Collator(0, 0)([one[i] for i in range(4)]) for one in (stored, pixels))
    assert torch.equal(model(**batch).loss, model(**seen).loss)


def test_decoding_processes_change_nothing(folder):
    extract(run_of(folder))
    before = [load_file(folder / "f" / file)["tokens"] for file in files(folder)]
    again = run_of(folder, f"data.features={folder / 'g'}", "workers=2")
    assert extract(again).written == 3
    after = [load_file(folder / "g" / file)["tokens"] for file in files(folder)]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def damage(place, how):
    tokens = load_file(place)["tokens"]
    if how == "cut":
        place.write_bytes(place.read_bytes()[:-1])
    elif how == "gone":
        place.unlink()
    else:
        save_file(
            {"nan": {"tokens": tokens * torch.nan}, "shape": {"tokens": tokens[:, 1:].contiguous()}, "name": {}}[how],
            place,
        )


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("cut", r"expected whole features in .*0\.mp4\.safetensors', got .* Delete the file and run"),
        ("gone", r"expected features at .*0\.mp4\.safetensors', found none\. Run `dynfocus extract-features` again"),
        ("nan", "got 12480 values that are no numbers"),
        ("shape", r"tokens of shape \[3, 64, 64\] instead of \['frames', 65, 64\]"),
        ("name", r"tokens of shape \[\] instead of \['frames', 65, 64\]"),
    ],
)
def test_a_damaged_file_is_a_bad_sample(folder, how, told):
    extract(run_of(folder))
    damage(folder / "f/video/clips/0.mp4.safetensors", how)
    data = samples(folder, tower_of("tiny", 0), features=str(folder / "f"))
    assert "bad" not in data[1]
    message = data[0]["bad"]
    assert message.startswith("set.json[0]: ")
    with pytest.raises(ValueError, match=told):
        data.sample(0)


def test_what_cannot_be_decoded_is_named_and_left_out(folder, capsys):
    (folder / "clips" / "0.mp4").write_bytes(b"nothing")
    records = json.loads((folder / "set.json").read_text())
    records += [talk("<image>\nWhat?", "x", video="gone.mp4"), {"id": "x", "conversations": [{"from": "gpt"}]}]
    (folder / "set.json").write_text(json.dumps(records))
    assert run_verb("extract-features", str(folder / "run.yaml"), "--workers", "0") == 1
    told = capsys.readouterr().out
    assert "2 files written (8 frames" in told
    assert "3 bad" in told
    for name in ("set.json[0]", "set.json[4]", "set.json[5]"):
        assert name in told


def test_values_that_the_dtype_cannot_hold_stop_the_command(folder, monkeypatch):
    from dynfocus_reference.vision import VisionTower

    whole = VisionTower.forward

    def loud(self, pixels):
        return whole(self, pixels)._replace(tokens=whole(self, pixels).tokens * 1e6)

    monkeypatch.setattr(VisionTower, "forward", loud)
    with pytest.raises(
        ValueError, match=r"tokens that torch\.float16 can hold, got \d+ that are no numbers .*bfloat16"
    ):
        extract(run_of(folder), dtype=torch.float16)
    assert files(folder) == []


def test_a_full_disk_stops_the_command(folder, monkeypatch):
    def full(self, place, tokens):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureFolder, "write", full)
    with pytest.raises(OSError, match=r"to write '.*wide\.png\.safetensors', got: .* No space left .* make room"):
        extract(run_of(folder))


def test_errors_of_the_command(folder):
    with pytest.raises(ValueError, match=r"got data\.features=None\. Add --output DIR"):
        extract(run_of(folder, "data.features=null"))
    with pytest.raises(ValueError, match=r"expected --model DIR and no key=value with a data file, got model None"):
        run_verb("extract-features", str(folder / "set.json"), "--output", "x")
    with pytest.raises(
        FileNotFoundError,
        match=r"expected manifest\.json in .*, found none\. Write the folder with `dynfocus extract-features`",
    ):
        train(run_of(folder))
    (folder / "other" / "clips").mkdir(parents=True)
    config, processor = run_of(folder), ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), preset("tiny"))
    twice = dataclasses.replace(
        config, sources=(*config.sources, Source(str(folder / "set.json"), str(folder / "other" / "clips")))
    )
    with pytest.raises(ValueError, match=r"roots with different last names, got '.*clips' and '.*other/clips'"):
        extract(twice)
    with pytest.raises(ValueError, match="roots with different last names"):
        ConversationDataset(twice.sources, processor, config.data)


def test_places(tmp_path):
    features = FeatureFolder.create(tmp_path, {"tokens": [5, 4]}, torch.float32)
    for path, place in (
        ("a/b.mp4", "video/root/a/b.mp4.safetensors"),
        ("../b.mp4", "video/root/__/b.mp4.safetensors"),
        ("/a/b.mp4", "video/a/b.mp4.safetensors"),
    ):
        assert features.place("some/root/", parse_record(talk("Hi", "Ho", video=path), "x")) == tmp_path / place


def test_text_alone_leaves_the_tower_out_where_features_are_read(model):
    ids = torch.tensor([[1, 5, 6, 7]])
    looked = []
    model.vision.register_forward_hook(lambda *args: looked.append(1))
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert looked == [1]
    model.zero_grad()
    model.reads_features = True
    model(input_ids=ids, labels=ids).loss.backward()
    assert looked == [1]
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_zero_3_stays_in_step_on_features(folder):
    """At every step the two ranks see different things: text, or what fills no batch of its modality."""
    pytest.importorskip("deepspeed")
    clips = folder / "clips"
    text = [talk(f"Say {i}", f"number {i}") for i in range(2)]
    gone = talk("<image>\nWhat?", "x", video="gone.mp4")
    image = talk("<image>\nColour?", "White.", image=str(clips / "wide.png"))
    records = [*text, image, gone, shown(clips, 0), shown(clips, 1)]
    changes = {"frames_per_chunk": 3, "max_bad_share": 0.9}
    paths = []
    for name, features in (("pixels", None), ("stored", str(folder / "f"))):
        made = write_run(folder, records, data={"features": features, "placeholder": "front"}, **changes)
        paths.append(made.rename(folder / f"{name}.yaml"))
    extract(load_config(paths[1]), dtype=torch.float32)
    found = zero_runs(folder, *(f"{path.stem}:3:{path}" for path in paths))
    pixels, stored = [[line["loss"] for line in found[path.stem]] for path in paths]
    assert len(pixels) == 4
    assert stored == pytest.approx(pixels, abs=1e-5)
