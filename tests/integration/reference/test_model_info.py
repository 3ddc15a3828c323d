import json

import pytest

from dynfocus_reference import preset
from dynfocus_reference.memory import model_state_bytes
from dynfocus_reference.model_info import build_on_meta, model_info
from dynfocus_reference.trainable import STAGES, TABLE_7, count_parameters, patterns_of

from .conftest import run_verb
from .runs import REPOSITORY


@pytest.fixture(scope="module")
def info():
    return model_info(preset("paper-7b"))


def call(*arguments):
    return run_verb("model-info", *arguments)


def test_every_part_has_the_published_size(info):
    assert list(info["parts"].values()) == [
        985_894_528,
        185_660_160 + 32 * 768 + 2 * 1408,
        12_897_281,
        28_323_840,
        1_983_872 + 768 * 1408 + 1408,
        6_738_415_616,
    ]
    assert info["total"] == sum(info["parts"].values()) == 7_954_285_441


def test_trainable_parameters_of_each_stage_by_name(info):
    assert {name: stage["trainable"] for name, stage in info["stages"].items()} == {
        "stage1": 28_323_840,
        "stage1-authors-script": 31_390_464,
        "stage2": 7_954_285_441 - 985_894_528 - 185_687_552,
        "stage2-with-qformer": 7_954_285_441 - 985_894_528,
        "stage2-lora": 44_287_745 + 319_815_680,
    }


def test_memory_is_the_table_of_the_documentation(info):
    lines = (REPOSITORY / "docs" / "guides" / "training.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| GB per GPU, 8 GPUs"))
    assert len(info["stages"]) == 5
    for line, stage in zip(lines[start + 2 :], info["stages"].values(), strict=False):
        sizes = [f"{size / 1e9:.1f}" for size in stage["bytes_per_gpu"]]
        assert line.strip("| ").split(" | ")[1:] == [f"{stage['trainable']:,}", *sizes]


@pytest.mark.parametrize("row", TABLE_7)
def test_the_rows_of_table_7(row):
    model = build_on_meta(preset("tiny"))
    parts = {
        "dynamic": (model.connector.estimator, model.connector.encoder.rods),
        "projector": (model.connector.encoder.projector,),
        "language_model": (model.language_model,),
    }
    expected = {"table7-row1": ("oox", "ooo"), "table7-row2": ("xxx", "xoo"), "table7-row3": ("oox", "xoo"),
                "table7-row4": ("xox", "ooo")}  # fmt: skip
    for groups, letters in zip(TABLE_7[row], expected[row], strict=True):
        model.set_trainable(patterns_of(groups))
        opened = [all(p.requires_grad for module in part for p in module.parameters()) for part in parts.values()]
        locked = [not any(p.requires_grad for module in part for p in module.parameters()) for part in parts.values()]
        assert opened == [letter == "o" for letter in letters]
        assert locked == [letter == "x" for letter in letters]


def test_presets_have_the_sizes_they_promise():
    assert 1e6 < count_parameters(build_on_meta(preset("tiny"))) < 5e6
    assert 1.2e8 < count_parameters(build_on_meta(preset("small"))) < 1.8e8


def test_command_prints_tables_and_json(capsys, tmp_path):
    assert call("tiny", "--gpus", "4") == 0
    text = capsys.readouterr().out
    assert "on 4 GPUs" in text
    assert all(stage in text for stage in STAGES)
    preset("tiny").save_pretrained(tmp_path)
    assert call(str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == model_info(preset("tiny"))["total"]


def test_errors_name_the_thing():
    with pytest.raises(ValueError, match="got 'paper-8b'"):
        call("paper-8b")
    with pytest.raises(ValueError, match="ZeRO stage 0–3 and gpus >= 1, got 4 and 8"):
        model_state_bytes(1, 1, 4, 8)
    with pytest.raises(ValueError, match=r"expected groups among projector.*, got \['phi'\]"):
        patterns_of(["phi"])
