import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, InstructBlipQFormerConfig

from dynfocus_reference import ReferenceModel, ReferenceProcessor, VisionTower, checkpoints, preset
from dynfocus_reference.checkpoints import load_exactly, read_tensors
from dynfocus_reference.processing import byte_tokenizer
from dynfocus_reference.qformer import QuestionFormer
from dynfocus_reference.weights import load_language_model, load_qformer, load_vision, qformer_key

from .conftest import run_verb, video_batch

SIZES = {"img_size": 28, "embed_dim": 32, "depth": 4, "num_heads": 2}
SMALL = {
    "vocab_size": 320,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.fixture
def eva():
    """A small tower of EVA's family, whole, with the key names of eva_vit_g.pth."""
    return timm.create_model("eva_giant_patch14_clip_224", pretrained=False, num_classes=5, **SIZES).eval()


@pytest.fixture
def qformer():
    return QuestionFormer(InstructBlipQFormerConfig(**SMALL), 32, 4).eval()


def lavis_names(qformer):
    """The state of a Q-Former as LAVIS writes it, with what else lies in that file."""
    state = {}
    for key, value in qformer.state_dict().items():
        if key.startswith("bert."):
            key = "Qformer." + key.replace("embeddings.layernorm", "embeddings.LayerNorm")
            key = key.replace("attention.attention.", "attention.self.")
        state[key.replace("norm.", "ln_vision.") if key.startswith("norm.") else key] = value
    position_ids = torch.arange(512)[None]
    return {**state, "Qformer.bert.embeddings.position_ids": position_ids, "llm_proj.weight": torch.zeros(3, 16)}


def hugging_face_names(qformer, prefix):
    state = {"language_model.lm_head.weight": torch.zeros(2, 2)}
    for key, value in qformer.state_dict().items():
        name = key.replace("bert.", "qformer.", 1)
        state[prefix + (name if not key.startswith("norm.") else "vision_model.post_layernorm." + key[5:])] = value
    return state


def assert_same_state(one, other):
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_eva_file(eva, tmp_path, wrapped):
    state = eva.state_dict()
    torch.save({"model": state} if wrapped else state, tmp_path / "eva_vit_g.pth")
    tower = VisionTower("eva_giant_patch14_clip_224", **SIZES)
    report = load_vision(tower, str(tmp_path / "eva_vit_g.pth"))
    assert {name.split(".")[0] for name in report.tolerated} == {"blocks", "norm", "head"}
    assert all(name.startswith("blocks.3.") for name in report.tolerated if name.startswith("blocks"))
    seen = []
    eva.blocks[2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        eva(pixels)
    torch.testing.assert_close(tower(pixels).tokens, seen[0])


def test_vision_weights_that_do_not_fit(eva, tmp_path):
    tower = VisionTower("eva_giant_patch14_clip_224", **SIZES)
    state = eva.state_dict()
    state["blocks.0.ls"] = state.pop("blocks.0.attn.proj.bias")
    state["blocks.1.mlp.fc1.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "eva.pth")
    with pytest.raises(ValueError, match=r"1 missing: blocks.0.attn.proj.bias; 1 extra: blocks.0.ls; "
                                         r"1 mis-shaped: blocks.1.mlp.fc1.bias \(3,\) instead of"):  # fmt: skip
        load_vision(tower, str(tmp_path / "eva.pth"))


def test_timm_tag(eva, monkeypatch):
    asked = []

    def create_model(name, pretrained, num_classes):
        asked.append((name, pretrained))
        return eva

    tower = VisionTower("eva_giant_patch14_clip_224", **SIZES)
    monkeypatch.setattr(timm, "create_model", create_model)
    load_vision(tower, "timm:eva_giant_patch14_clip_224.laion400m")
    assert asked == [("eva_giant_patch14_clip_224.laion400m", True)]
    torch.testing.assert_close(tower.model.blocks[2].mlp.fc1.weight, eva.blocks[2].mlp.fc1.weight)


def test_lavis_file(qformer, tmp_path):
    torch.save({"model": lavis_names(qformer)}, tmp_path / "instruct_blip_vicuna7b_trimmed.pth")
    other = QuestionFormer(InstructBlipQFormerConfig(**SMALL), 32, 4)
    load_qformer(other, str(tmp_path / "instruct_blip_vicuna7b_trimmed.pth"))
    assert_same_state(other, qformer)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_hugging_face_folder_is_read_through_its_index(qformer, tmp_path, prefix):
    state = hugging_face_names(qformer, prefix)
    first = sorted(key for key in state if "qformer" in key)[:10]
    shards = {"a.safetensors": first, "b.safetensors": [key for key in state if key not in first and "lm_" not in key]}
    mapping = {key: name for name, keys in shards.items() for key in keys}
    mapping["language_model.lm_head.weight"] = "never-downloaded.safetensors"
    for name, keys in shards.items():
        save_file({key: state[key].contiguous() for key in keys}, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    other = QuestionFormer(InstructBlipQFormerConfig(**SMALL), 32, 4)
    report = load_qformer(other, str(tmp_path))
    assert report.loaded == len(qformer.state_dict())
    assert_same_state(other, qformer)


def test_a_repository_of_the_hub_is_fetched_file_by_file(qformer, tmp_path, monkeypatch):
    state, asked = hugging_face_names(qformer, ""), []
    parts = {"a": [key for key in state if "qformer" in key], "b": [key for key in state if "vision" in key]}
    parts |= {"c": ["query_tokens"], "never-asked-for": ["language_model.lm_head.weight"]}
    for name, keys in parts.items():
        save_file({key: state[key].contiguous() for key in keys}, tmp_path / f"{name}.safetensors")
    mapping = {key: f"{name}.safetensors" for name, keys in parts.items() for key in keys}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))

    def download(repository, name):
        asked.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr(checkpoints, "hf_hub_download", download)
    other = QuestionFormer(InstructBlipQFormerConfig(**SMALL), 32, 4)
    load_qformer(other, "Salesforce/instructblip-vicuna-7b")
    assert_same_state(other, qformer)
    assert asked == ["model.safetensors.index.json", "a.safetensors", "b.safetensors", "c.safetensors"]


def test_every_key_of_the_published_qformer_has_a_name(qformer):
    full = QuestionFormer(InstructBlipQFormerConfig(**{**SMALL, "num_hidden_layers": 12}), 32, 4)
    named = [name for key in lavis_names(full) if (name := qformer_key(key)) is not None]
    assert sorted(named) == sorted(full.state_dict())
    assert len([name for name in named if name.startswith("bert.")]) == 328


def test_the_wrong_file_for_a_part(eva, qformer, tmp_path):
    torch.save(eva.state_dict(), tmp_path / "eva.pth")
    with pytest.raises(ValueError, match=r"hold the weights of the Q-Former .* got 61 missing"):
        load_qformer(qformer, str(tmp_path / "eva.pth"))


def test_pickles_are_read_as_weights_only(qformer, tmp_path):
    class Surprise:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"query_tokens": qformer.query_tokens.data, "x": Surprise()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"tensors and nothing else"):
        load_qformer(qformer, str(tmp_path / "evil.pth"))


def test_sources_that_are_not_there(tmp_path):
    for name in ("missing.pth", "missing.safetensors", "./missing"):
        with pytest.raises(FileNotFoundError, match="missing"):
            read_tensors(name if name.startswith(".") else str(tmp_path / name), str)
    with pytest.raises(ValueError, match=r"expected model.safetensors or"):
        read_tensors(str(tmp_path), str)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"dictionary of tensors .* got list"):
        read_tensors(tmp_path / "list.pth", str)
    with pytest.raises(ValueError, match="weights of the head and no others, got 1 missing: bias"):
        load_exactly(torch.nn.Linear(1, 1), {"weight": torch.ones(1, 1)}, part="head", source="x")


@pytest.fixture
def language_folder(tmp_path):
    folder = tmp_path / "vicuna"
    AutoModelForCausalLM.from_config(preset("tiny").text_config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_language_model_that_does_not_fit(language_folder):
    load_language_model(str(language_folder))
    state = load_file(language_folder / "model.safetensors")
    state["model.more"] = state.pop("model.norm.weight")
    state["lm_head.weight"] = torch.zeros(3, 128)
    save_file(state, language_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"got 1 missing: model\.norm\.weight; 1 extra: model\.more; "
                                         r"1 mis-shaped: lm_head\.weight \(3, 128\) instead of"):  # fmt: skip
        load_language_model(str(language_folder))


def test_language_model_of_pickled_shards(language_folder):
    """Vicuna-7B-v1.5 is published as pytorch_model-*.bin."""
    state = load_file(language_folder / "model.safetensors")
    (language_folder / "model.safetensors").unlink()
    torch.save(state, language_folder / "pytorch_model.bin")
    model = load_language_model(str(language_folder))
    torch.testing.assert_close(model.lm_head.weight.data, state["lm_head.weight"])


def full(*arguments):
    raise OSError("no room")


def test_one_command_makes_one_folder(language_folder, tmp_path, capsys, monkeypatch):
    config = preset("tiny")
    tower = VisionTower(config.vision_name, **config.vision_kwargs)
    torch.save(tower.model.state_dict(), tmp_path / "vision.pth")
    qformer = QuestionFormer(config.qformer_config, tower.dim, config.num_queries)
    torch.save({"model": lavis_names(qformer)}, tmp_path / "qformer.pth")
    arguments = [
        *("convert-weights", str(tmp_path / "out"), "--preset", "tiny", "--dtype", "float32"),
        *("--vision", str(tmp_path / "vision.pth"), "--qformer", str(tmp_path / "qformer.pth")),
        *("--language-model", str(language_folder), "--qformer-tokenizer", str(language_folder)),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(ReferenceProcessor, "save_pretrained", full)
        with pytest.raises(OSError, match="no room"):
            run_verb(*arguments)
    assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.glob(".out*"))
    assert run_verb(*arguments) == 0
    assert "connector: 20 tensors drawn with seed 0" in capsys.readouterr().out
    model = ReferenceModel.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(model.vision.state_dict(), tower.state_dict())
    assert_same_state(model.qformer, qformer)
    assert model(**video_batch([2])).loss.isfinite()
    processor = ReferenceProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.decode(processor.tokenizer("héllo")["input_ids"]) == "héllo"
    with pytest.raises(ValueError, match="expected an empty output folder"):
        run_verb(*arguments)
    with pytest.raises(FileNotFoundError, match="qformer_tokenizer/"):
        ReferenceProcessor.from_pretrained(language_folder)


def test_a_tokenizer_without_padding():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="expected a tokenizer with a padding token"):
        ReferenceProcessor(tokenizer, byte_tokenizer(), preset("tiny"))
