import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dynfocus_connector import DynFocusConnector
from dynfocus_reference import ReferenceConfig, ReferenceModel, ReferenceProcessor, preset
from dynfocus_reference.processing import byte_tokenizer
from dynfocus_reference.train import train
from dynfocus_reference.training.config import load_config
from dynfocus_reference.training.export import export_connector
from dynfocus_transformers import attach
from tests.integration.transformers.tiny import HOSTS, WIDTH, Video, text

from .conftest import run_verb
from .runs import mixture, write_run

pytest.importorskip("accelerate")
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def stages(clips, tmp_path_factory):
    """Two stages: the connector that each has, and the places where it lies."""
    folder = tmp_path_factory.mktemp("stages")
    first = write_run(folder, mixture(clips), train=["projector"], max_steps=2, data={"template": "plain"})
    one = train(load_config(first)).model.connector
    changes = ["train=[projector,language_model]", f"init_from_stage1={folder / 'out'}", f"output={folder / 'two'}"]
    two = train(load_config(first, changes)).model.connector
    return {
        "checkpoint": (folder / "out" / "checkpoint-2", one),
        "run": (folder / "out", one),
        "stage 2": (folder / "two", two),
        "model": (folder / "two" / "model", two),
    }


@pytest.mark.parametrize("place", ["checkpoint", "run", "stage 2", "model"])
def test_the_folder_holds_the_trained_connector(stages, tmp_path, place, capsys):
    source, trained = stages[place]
    assert run_verb("export-connector", str(source), str(tmp_path / "connector")) == 0
    assert "features 64 wide, tokens 128 wide" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "connector").iterdir()) == FILES
    loaded = DynFocusConnector.from_pretrained(tmp_path / "connector")
    assert loaded.config == trained.config
    for (name, one), two in zip(loaded.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    features = torch.randn(1, 6, 64, 64), torch.randn(1, 8, 64)
    assert torch.equal(loaded(*features).tokens, trained.eval()(*features).tokens)


def test_a_host_of_its_width_takes_it(tmp_path):
    """Features, tokens and questions of a host of transformers are as wide as its language model."""
    values = preset("tiny").to_dict()
    values["vision_kwargs"] = {**values["vision_kwargs"], "embed_dim": WIDTH}
    for part in ("text_config", "qformer_config"):
        values[part] = {**values[part], "hidden_size": WIDTH}
    values["qformer_config"]["encoder_hidden_size"] = WIDTH
    model = ReferenceModel(ReferenceConfig(**values))
    model.save_pretrained(tmp_path / "model")
    ReferenceProcessor(byte_tokenizer(), byte_tokenizer(), model.config).save_pretrained(tmp_path / "model")
    export_connector(tmp_path / "model", tmp_path / "connector")
    tiny = HOSTS["qwen2_5_vl"]
    host, batch = tiny.model(), tiny.batch([text(1, 3), Video(6, 1), text(2, 6)])
    plain = host(**batch).logits[:, -1]
    with attach(host, tmp_path / "connector", ratio=0.4) as attached:
        assert attached.dynfocus.config == model.connector.config
        compressed = attached(**batch).logits[:, -1]
        (report,) = attached.dynfocus_report
    assert report.tokens_after < report.tokens_before
    assert not torch.equal(compressed, plain)


def test_folders_without_a_connector(stages, tmp_path):
    def told(match, error=ValueError):
        return pytest.raises(error, match=match)

    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    with told(r"found neither config.json nor trained.safetensors in '.*empty'", FileNotFoundError):
        export_connector(tmp_path / "empty", tmp_path / "new")
    with told(r"found neither .* in '.*nowhere'", FileNotFoundError):
        export_connector(tmp_path / "nowhere", tmp_path / "new")
    with told(r"model folder of type 'dynfocus_reference', .* got type 'llama' in '.*other'"):
        export_connector(tmp_path / "other", tmp_path / "new")
    save_file({"connector.x": torch.zeros(1)}, tmp_path / "empty" / "trained.safetensors")
    with told(r"expected trained.safetensors of `dynfocus train`, got one without .* '.*empty/trained"):
        export_connector(tmp_path / "empty", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    model = stages["model"][0]
    before = sorted(path.name for path in model.iterdir())
    with told(r"expected an empty output folder, got '.*model'"):
        export_connector(stages["run"][0], model)
    assert sorted(path.name for path in model.iterdir()) == before


def test_weights_that_do_not_fit_their_configuration(stages, tmp_path):
    shutil.copytree(stages["model"][0], tmp_path / "model")
    values = preset("tiny", connector={"num_prototypes": 8, "score_hidden": [8, 4]}).to_dict()
    ReferenceConfig(**values).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"hold the weights of the connector .* mis-shaped: .*score"):
        export_connector(tmp_path / "model", tmp_path / "new")


def test_a_write_that_fails_leaves_nothing(stages, tmp_path, monkeypatch):
    def half(state, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr("dynfocus_connector.saving.save_file", half)
    with pytest.raises(OSError, match="full"):
        export_connector(stages["run"][0], tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
