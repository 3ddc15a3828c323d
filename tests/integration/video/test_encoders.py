"""Frames and questions to features: shapes, determinism, complete weights, clear refusals."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from dynfocus_video.clips import demo_clip
from dynfocus_video.embedded import EmbeddedEncoder, Recipe
from dynfocus_video.encoders import Encoder, load_encoder
from dynfocus_video.errors import EncoderError
from dynfocus_video.reader import read_video
from dynfocus_video.sampling import Sampling

timm = pytest.importorskip("timm")

TINY = "vit_tiny_patch16_224"
CLIP = "vit_xsmall_patch16_clip_224"
EVA = "eva02_tiny_patch14_224"


def frames(count: int = 3, height: int = 224, width: int = 224) -> torch.Tensor:
    return torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(1)).byte()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Random weights of a timm model, written to a file once."""
    folder = tmp_path_factory.mktemp("weights")

    def write(name: str, **options):
        path = folder / f"{name}{options}.pth"
        if not path.exists():
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=False, **options)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.03)
            torch.save(model.state_dict(), path)
        return path

    return write


def test_the_embedded_encoder_is_an_encoder():
    encoder = load_encoder()
    assert isinstance(encoder, Encoder)
    features = encoder.encode(frames())
    assert features.shape == (3, encoder.grid[0] * encoder.grid[1], encoder.dim) == (3, 256, 24)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert encoder.encode(frames(0)).shape == (0, 256, 24)


def test_a_frame_is_described_alike_in_any_company():
    encoder, many = EmbeddedEncoder(), frames(11)
    together = encoder.encode(many)
    assert torch.equal(together, torch.cat([encoder.encode(frame[None]) for frame in many]))
    assert torch.equal(together[3:8], encoder.encode(many[3:8]))
    assert torch.equal(together, encoder.encode(many))


def test_descriptors_say_where_and_what():
    """A red patch changes the colours of its own patch and the surround of its neighbours, and nothing farther away."""
    plain = torch.full((1, 224, 224, 3), 120, dtype=torch.uint8)
    marked = plain.clone()
    marked[:, 70:84, 98:112] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    encoder = EmbeddedEncoder()
    change = (encoder.encode(marked) - encoder.encode(plain)).abs().amax(-1).view(16, 16)
    assert change.argmax() == 5 * 16 + 7
    far = torch.ones(16, 16, dtype=torch.bool)
    far[4:7, 6:9] = False
    assert change[far].max() < 1e-5


def test_orientations_are_told_apart():
    ramp = torch.arange(224).byte()
    across = ramp.expand(224, 224)[None, :, :, None].expand(-1, -1, -1, 3)
    encoder = EmbeddedEncoder(Recipe(0, 0, 0, 0, 1, 0))
    inner = torch.zeros(16, 16, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    for picture, strongest in ((across, 0), (across.transpose(1, 2), 4)):
        assert (encoder.encode(picture)[0, inner.flatten()].argmax(-1) == strongest).all()


def test_shots_of_a_real_video_lie_apart():
    video = read_video(demo_clip("bikes.mp4"), Sampling(fps=5), size=EmbeddedEncoder.frame_size)
    features = EmbeddedEncoder().encode(video.frames)
    pooled = features.view(-1, 4, 4, 4, 4, features.shape[-1]).mean((2, 4)).flatten(1)
    cuts = torch.tensor([30, 76, 137, 187, 242])
    shot = torch.bucketize((video.timestamps * 25).round(), cuts, right=True)
    distance, same = torch.cdist(pooled, pooled), shot[:, None] == shot
    assert distance[~same].mean() > 2 * distance[same & ~torch.eye(50, dtype=torch.bool)].mean()


@pytest.mark.parametrize(
    ("name", "grid", "dim"),
    [
        (TINY, (14, 14), 192),
        ("resnet10t", (6, 6), 512),
        ("convnext_atto", (7, 7), 320),
        ("swin_tiny_patch4_window7_224", (7, 7), 768),
    ],
)
def test_any_timm_model_gives_a_grid(weights, name, grid, dim):
    encoder = load_encoder(f"timm:{name}", weights=weights(name))
    assert isinstance(encoder, Encoder)
    assert (encoder.grid, encoder.dim) == (grid, dim)
    features = encoder.encode(frames(2, 240, 300))
    assert features.shape == (2, grid[0] * grid[1], dim)
    assert features.isfinite().all()
    assert torch.allclose(features[1:], encoder.encode(frames(2, 240, 300)[1:]), rtol=1e-4, atol=1e-5)
    assert not features.requires_grad
    assert not features.is_inference()


def test_prefix_tokens_are_dropped_and_preprocessing_is_timms_own(weights):
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    encoder = load_encoder(f"timm:{TINY}", weights=weights(TINY))
    picture = frames(1, 260, 390)
    transform = create_transform(**resolve_data_config(model=encoder.model))
    theirs = encoder.model.forward_features(transform(Image.fromarray(picture[0].numpy()))[None])[:, 1:]
    assert encoder.frame_size.crop_fraction == pytest.approx(0.9)
    assert torch.allclose(encoder.encode(picture), theirs, rtol=0.05, atol=0.05)


def test_the_papers_tower_stops_at_the_last_block_but_one(weights, monkeypatch):
    from dynfocus_video import timm_encoder

    monkeypatch.setattr(timm_encoder, "_LAST_BUT_ONE", (EVA,))
    path = weights(EVA)
    encoder = load_encoder(f"timm:{EVA}", weights=path)
    assert encoder.frame_size.crop_fraction == 1.0
    whole = timm.create_model(EVA, pretrained=False)
    whole.load_state_dict(torch.load(path, weights_only=True))
    seen = {}
    whole.blocks[-2].register_forward_hook(lambda module, inputs, output: seen.update(tokens=output))
    pixels = (frames().permute(0, 3, 1, 2).float() / 255 - encoder._mean) / encoder._std
    with torch.no_grad():
        whole.eval()(pixels)
    assert torch.allclose(encoder.encode(frames()), seen["tokens"][:, 1:], rtol=1e-4, atol=1e-5)

    state = torch.load(path, weights_only=True)
    torch.save(
        {k: v for k, v in state.items() if not k.startswith(("blocks.11.", "norm.", "head."))},
        path.with_name("cut.pth"),
    )
    assert torch.equal(
        load_encoder(f"timm:{EVA}", weights=path.with_name("cut.pth")).encode(frames()), encoder.encode(frames())
    )


def test_the_papers_tower_sees_the_whole_shortest_edge():
    from dynfocus_video import timm_encoder

    assert timm_encoder._LAST_BUT_ONE == ("eva_giant_patch14_clip_224",)
    with torch.device("meta"):
        model = timm.create_model("eva_giant_patch14_clip_224", pretrained=False)
    size = timm_encoder._frame_size(timm_encoder._data_config(model), whole_edge=True)
    assert tuple(size) == (224, 224, "crop", 1.0, "bicubic")


def test_a_clip_tower_projects_every_patch(weights):
    path = weights(CLIP, num_classes=32)
    encoder = load_encoder(f"timm:{CLIP}", weights=path, project=True)
    assert (encoder.dim, encoder.joint_space) == (32, True)
    whole = timm.create_model(CLIP, pretrained=False, num_classes=32)
    whole.load_state_dict(torch.load(path, weights_only=True))
    whole.eval()
    last = whole.blocks[-1]
    pixels = (frames().permute(0, 3, 1, 2).float() / 255 - encoder._mean) / encoder._std
    with torch.no_grad():
        x = whole.forward_intermediates(
            pixels,
            indices=[len(whole.blocks) - 2],
            norm=False,
            intermediates_only=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )[0]
        x = torch.cat([x[1], x[0]], dim=1)
        values = last.attn.qkv(last.norm1(x)).chunk(3, dim=-1)[2]
        x = x + last.attn.proj(values)
        x = x + last.mlp(last.norm2(x))
        expected = whole.head(whole.norm(x))[:, 1:]
    assert torch.allclose(encoder.encode(frames()), expected, rtol=1e-4, atol=1e-5)


def test_safetensors_and_pth_load_the_same(weights, tmp_path):
    path = weights(TINY)
    save_file(torch.load(path, weights_only=True), tmp_path / "w.safetensors")
    torch.save({"state_dict": torch.load(path, weights_only=True)}, tmp_path / "wrapped.pth")
    first = load_encoder(f"timm:{TINY}", weights=path).encode(frames(1))
    for name in ("w.safetensors", "wrapped.pth"):
        assert torch.equal(first, load_encoder(f"timm:{TINY}", weights=tmp_path / name).encode(frames(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.3.attn.qkv.weight"), r"1 that do not fit in .*: missing blocks\.3\.attn\.qkv\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda s: s.update({"blocks.0.mlp.fc1.bias": torch.zeros(5)}),
            r"blocks\.0\.mlp\.fc1\.bias has shape \(5,\), expected \(768,\)",
        ),
    ],
)
def test_partial_weights_are_refused(weights, tmp_path, change, message):
    state = torch.load(weights(TINY), weights_only=True)
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"timm:{TINY}", weights=tmp_path / "bad.pth")


def test_pickled_code_is_never_run(tmp_path):
    torch.save({"model": pytest.approx}, tmp_path / "code.pth")
    with pytest.raises(EncoderError, match="expected tensors in a"):
        load_encoder(f"timm:{TINY}", weights=tmp_path / "code.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": "clip"}, r"expected one of 'embedded' .*'timm:NAME' .*got 'clip'"),
        ({"spec": "timm:"}, "got 'timm:'"),
        ({"spec": "timm:vit_tiny_patch16_223"}, r"got 'vit_tiny_patch16_223'\. Did you mean vit_tiny_patch16_224"),
        ({"spec": "embedded", "weights": "w.pth"}, "no weights for 'embedded'"),
        ({"spec": "embedded", "project": True}, "expected a CLIP tower"),
        ({"spec": f"timm:{TINY}", "weights": "nowhere.pth"}, r"got 'nowhere\.pth', which does not exist"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(options.pop("spec"), **options)


def test_a_model_without_text_space_cannot_project(weights):
    with pytest.raises(EncoderError, match=f"expected a CLIP vision transformer.*got '{TINY}'"):
        load_encoder(f"timm:{TINY}", weights=weights(TINY), project=True)


def test_without_a_network_the_file_option_is_named(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EncoderError, match=rf"pretrained weights of '{TINY}', got OSError: Name.*--weights FILE"):
        load_encoder(f"timm:{TINY}")


@pytest.fixture(scope="session")
def clip_text(tmp_path_factory):
    """A folder with a random CLIP text tower of width 32 and a tokenizer of single letters."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip_text")
    letters = "abcdefghijklmnopqrstuvwxyz?"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=48, projection_dim=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_questions_live_in_the_joint_space(clip_text, weights):
    from dynfocus_video.text_encoder import load_text_encoder, require_joint_space

    text = load_text_encoder(clip_text)
    questions = ["where is the taxi?", "who?"]
    tokens, mask = text.encode(questions)
    assert tokens.shape == (*mask.shape, text.dim) == (2, 16, 32)
    assert mask.sum(1).tolist() == [16, 6]
    alone, alone_mask = text.encode(questions[1:])
    assert torch.allclose(tokens[1][mask[1]], alone[0][alone_mask[0]], atol=1e-6)
    assert torch.allclose(text.embed(questions[1:])[0], alone[0, -1], atol=1e-6)
    tower = load_encoder(f"timm:{CLIP}", weights=weights(CLIP, num_classes=32), project=True)
    require_joint_space(tower, text)
    with pytest.raises(EncoderError, match=r"without\. Load a timm CLIP tower with project=True"):
        require_joint_space(load_encoder(), text)
    wide = load_encoder(f"timm:{CLIP}", weights=weights(CLIP, num_classes=40), project=True)
    with pytest.raises(EncoderError, match=r"expected a text model of width 40 .*got 32"):
        require_joint_space(wide, text)
    with pytest.raises(ValueError, match="expected a list of at least one text, got 'who'"):
        text.encode("who")


def test_a_text_tower_that_is_none_is_refused(clip_text, tmp_path):
    from dynfocus_video.text_encoder import load_text_encoder

    with pytest.raises(EncoderError, match=r"expected a CLIP text model with tokenizer, got '.*Name a folder"):
        load_text_encoder(tmp_path)
    (tmp_path / "half").mkdir()
    for path in clip_text.iterdir():
        (tmp_path / "half" / path.name).write_bytes(path.read_bytes())
    from safetensors.torch import load_file

    state = load_file(clip_text / "model.safetensors")
    state.pop("text_projection.weight")
    save_file(state, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"without 1: text_projection\.weight"):
        load_text_encoder(tmp_path / "half")
