import functools
import re

import pytest
from PIL import Image

from dynfocus_reference import preset
from dynfocus_reference.data.dataset import ConversationDataset
from dynfocus_reference.data.options import Source
from dynfocus_reference.lora import LoraOptions
from dynfocus_reference.model_info import build_on_meta
from dynfocus_reference.train import build, train
from dynfocus_reference.trainable import TABLE_7, count_parameters, patterns_of
from dynfocus_reference.training.config import CONFIG_FOLDER, load_config
from dynfocus_reference.training.plan import plan

from .conftest import run_verb, talk
from .runs import REPOSITORY, shown, write_run

NAMES = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_named_run_is_valid_on_eight_gpus(name):
    config = load_config(name)
    assert config.accumulation(8) >= 1
    assert config.output == f"runs/{name}"
    assert all(source.path.startswith("data/") for source in config.sources)


@functools.cache
def empty(lora=None):
    return build_on_meta(preset("paper-7b"), lora)


def trainable(name):
    model = empty(load_config(name).lora)
    model.set_trainable(patterns_of(load_config(name).train))
    return count_parameters(model, trainable_only=True)


def test_the_stages_of_the_paper():
    first, second = load_config("stage1"), load_config("stage2")
    for config, lr, batch in ((first, 1e-3, 256), (second, 2e-5, 32)):
        assert (config.learning_rate, config.global_batch_size) == (lr, batch)
        assert (config.weight_decay, config.warmup, config.epochs, config.bf16) == (0, 0.03, 1, True)
    assert (first.data.template, second.data.template, second.data.placeholder) == ("plain", "vicuna_v1", "random")
    assert second.carry == "projector"
    assert trainable("stage1") == 28_323_840
    assert trainable("stage1-authors-script") == 31_390_464
    assert trainable("stage2") == 6_738_415_616 + 44_287_745
    assert trainable("stage2-with-qformer") == 6_968_390_913
    assert trainable("stage2-lora") == 319_815_680 + 44_287_745
    assert load_config("stage2-per-turn").data.per_turn


ROWS = {
    "table7-row1-stage1": 44_287_745,
    "table7-row1-stage2": 6_782_703_361,
    "table7-row2-stage1": 0,
    "table7-row2-stage2": 6_766_739_456,
    "table7-row3-stage1": 44_287_745,
    "table7-row3-stage2": 6_766_739_456,
    "table7-row4-stage1": 28_323_840,
    "table7-row4-stage2": 6_782_703_361,
}


@pytest.mark.parametrize("name", ROWS)
def test_how_many_parameters_each_row_of_table_7_trains(name):
    assert trainable(name) == ROWS[name]
    row, _, stage = name.rpartition("-")
    lines = (REPOSITORY / "docs" / "guides" / "training.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{row}-…`")]
    assert line.split(" | ")[2 + int(stage == "stage2")].startswith(f"{ROWS[name]:,}")


@pytest.mark.parametrize("row", TABLE_7)
def test_table_7(row):
    stages = [load_config(f"{row}-stage{number}") for number in (1, 2)]
    assert tuple(stage.train for stage in stages) == TABLE_7[row]
    assert [source.name for stage in stages for source in stage.sources] == ["WebVid-Cap", "VideoChatGPT-100K"]
    assert (stages[1].init_from_stage1 is None) == (not stages[0].train)


def test_table_13_adds_one_set_after_another():
    rows = [{source.name for source in load_config(f"table13-row{n}").sources} for n in range(1, 6)]
    added = [after - before for before, after in zip([set(), *rows], rows, strict=False)]
    assert added == [{"VideoChatGPT-100K"}, {"LLaVA-665K"}, {"ScienceQA"}, {"CLEVRER"}, {"NExT-QA", "WebVid-QA"}]
    assert rows[4] == {source.name for source in load_config("stage2").sources}


def test_changes_and_paths(tmp_path):
    config = load_config("stage1", ["data_root=/d", "data.fps=2", "train=[rods]", "max_steps=3", "learning_rate=2e-3"])
    assert config.sources[0] == Source("/d/llava-cc3m.jsonl", "/d/llava-cc3m", name="LLaVA-CC3M")
    assert config.learning_rate == 0.002
    assert (config.data.fps, config.data.template, config.train, config.max_steps) == (2, "plain", ("rods",), 3)
    assert load_config("stage1", ["data.max_frames=null"]).data.max_frames is None
    (tmp_path / "mine.yaml").write_text("extends: stage1\nseed: 5\ndata: {fps: 2}\n")
    mine = load_config(tmp_path / "mine.yaml")
    assert (mine.seed, mine.data.seed, mine.data.fps, mine.data.template) == (5, 5, 2, "plain")
    (tmp_path / "base.yaml").write_text("extends: stage2-lora\nlora: {alpha: 7}\n")
    (tmp_path / "small.yaml").write_text("extends: base\nlora: {rank: 8}\n")
    assert load_config(tmp_path / "small.yaml").lora == LoraOptions(rank=8, alpha=7)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("stage1", ["learnig_rate=1"], r"got \['learnig_rate'\]"),
        ("stage1", ["data.fsp=1"], r"got \['fsp'\]"),
        ("stage1", ["train=[phi]"], r"got \['phi'\]"),
        ("stage1", ["zero=4"], r"zero among \(0, 1, 2, 3\), got 4"),
        ("stage1", ["carry=some"], r"carry among .*'some'"),
        ("stage1", ["max_bad_share=1"], "max_bad_share < 1, got 1"),
        ("stage1", ["learning_rate=fast"], "learning_rate to be float, got 'fast'"),
        ("stage1", ["zero=true"], "zero to be int, got True"),
        ("stage1", ["bf16=1"], "bf16 to be bool, got 1"),
        ("stage1", ["seed"], "expected key=value, got 'seed'"),
        ("stage1", ["data_root=..."], r"expected YAML in 'data_root=\.\.\.', got: while parsing"),
        ("stage1", ["sources=[{root: x}]"], r"Source in 'stage1': expected keys among .* missing \['path'\]"),
        ("stage1", ["sources=[{path: x, wieght: 2}]"], r"Source in .* got \['wieght'\]"),
        ("stage1", ["sources=[x]"], "Source in 'stage1': expected keys and values, got 'x'"),
        ("stage1", ["data.fps=fast"], "DataOptions in 'stage1': expected fps to be float, got 'fast'"),
        ("stage1", ["data.max_frames=2.5"], r"max_frames to be int \| None, got 2.5"),
        ("stage1", ["model.name=x"], "expected 'model' to hold keys of its own, got 'models/paper-7b'"),
    ],
)
def test_misspelt_keys_are_named(name, changes, message):
    with pytest.raises(ValueError, match=message):
        load_config(name, changes)


def test_files_that_are_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one of .*stage1, .* got 'stage3'"):
        load_config("stage3")
    (tmp_path / "empty.yaml").write_text("- a")
    with pytest.raises(ValueError, match=r"keys and values in .* got list"):
        load_config(tmp_path / "empty.yaml")
    (tmp_path / "short.yaml").write_text("model: tiny")
    with pytest.raises(ValueError, match=r"missing \['output', 'sources', 'train'\]"):
        load_config(tmp_path / "short.yaml")
    with pytest.raises(ValueError, match="8 samples × 7 GPUs, got 256"):
        load_config("stage1").accumulation(7)


def test_dry_run(capsys):
    assert run_verb("train", "stage1", "model=paper-7b", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "28,323,840" in text
    assert "16.0" in text
    assert re.search(r"GB of a checkpoint at most +0\.5\n", text)
    assert "1,160" in text
    assert re.search(r"tokens per step +needs the data and a model folder\n", text)
    assert "not found: data/llava-cc3m.jsonl" in text


def test_a_dry_run_estimates_the_tokens_that_the_language_model_reads(clips, tmp_path):
    """A video of 8 seconds, an image, a text, a video of unknown length: as the samples of the run itself are."""
    Image.new("RGB", (80, 40), "red").save(tmp_path / "red.png")
    image = talk("<image>\nWhat?", "A ball", image=str(tmp_path / "red.png"))
    records = [shown(clips, 2) | {"duration": 8}, image, talk("Hi", "Ho"), shown(clips, 3)]
    config = load_config(write_run(tmp_path, records, data={"max_frames": 11}))
    said = plan(config, 1)
    model, processor = build(config)
    data = ConversationDataset(config.sources, processor, config.data)
    frames = [0 if data[i]["frames"] is None else len(data[i]["frames"]) for i in range(4)]
    assert frames == [8, 1, 0, 11]
    visual = [model.connector.num_tokens(count, model.vision.num_patches) for count in frames if count]
    assert said["  of videos and images"] == sum(visual)
    assert said["  of text"] == sum(len(data[i]["input_ids"]) for i in range(4)) - 3
    assert said["tokens per step, about"] == said["  of text"] + said["  of videos and images"]
    assert said["  videos taken for the longest"] == "25% of samples say no duration"


@pytest.mark.parametrize(("samples", "epochs", "processes"), [(8, 1, 1), (9, 1, 1), (9, 1.5, 1), (33, 2, 4)])
def test_a_dry_run_counts_the_steps_that_are_taken(tmp_path, samples, epochs, processes):
    path = write_run(
        tmp_path, [talk("Say", str(i)) for i in range(samples)], epochs=epochs, max_steps=-1, save_steps=99
    )
    changes = ["global_batch_size=8"] if processes > 1 else []
    said = plan(load_config(path, changes), processes)["steps"]
    if processes == 1:
        assert said == train(load_config(path)).state.global_step
    assert said == {8: 2, 9: 3 if epochs == 1 else 5, 33: 10}[samples]
