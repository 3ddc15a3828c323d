import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

from dynfocus_reference import ReferenceModel, preset
from dynfocus_reference.visuals import Visuals, in_chunks

from .conftest import video_batch, visual_inputs

MIXTURES = {
    "videos": [12, 30],
    "image and video": [1, 20],
    "images": [1, 1],
    "one short video": [2],
    "text": [],
}


def batch_of(lengths):
    if lengths:
        return video_batch(lengths)
    ids = torch.tensor([[1, 5, 6, 7]])
    return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_trainable_parameter_takes_part_in_every_step(model, mixture):
    model.train()
    model(**batch_of(MIXTURES[mixture])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def score_gradients(model, batch):
    """Of the loss of the language model alone, noise drawn from seed 0."""
    model.zero_grad()
    torch.manual_seed(0)
    model.train()(**batch).loss.backward()
    return [float(p.grad.abs().sum()) for p in model.connector.estimator.score.parameters()]


def test_language_model_loss_reaches_the_score_network_only_through_the_soft_topk(model, monkeypatch):
    model.set_trainable(["connector.estimator"])
    batch, estimator = video_batch([30]), model.connector.estimator
    soft = score_gradients(model, batch)
    assert len(soft) == 10
    assert min(soft) > 0
    relaxed = estimator._soft_mask
    monkeypatch.setattr(
        estimator,
        "_soft_mask",
        lambda scores, chosen, mask, k, max_k, hard, *drawn: relaxed(scores, chosen, mask, k, max_k, True, *drawn),
    )
    assert score_gradients(model, batch) == [0] * 10


def test_frozen_parts_stay_in_evaluation_mode(model):
    model.set_trainable([r"connector\.encoder\.projector\."])
    model.train()
    frozen = (model.vision, model.qformer, model.connector.estimator, model.language_model)
    assert [part.training for part in frozen] == [False] * 4
    assert model.connector.encoder.training
    model.set_trainable([r"connector\.", r"language_model\."])
    assert model.language_model.training
    assert model.connector.estimator.training
    assert not model.qformer.training


def test_gradient_checkpointing_of_a_frozen_language_model(model):
    model.set_trainable([r"connector\.encoder\.projector\."])
    batch = video_batch([5])
    model.train()(**batch).loss.backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.checkpoint_activations()
    calls = []
    for layer in model.language_model.model.layers:
        layer.self_attn.register_forward_hook(lambda *args: calls.append(1))
    model.train()(**batch).loss.backward()
    assert len(calls) == 2 * len(model.language_model.model.layers)
    for before, after in zip(plain, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(before, after)


def test_rotary_frequencies_stay_float32(model):
    rotary = model.language_model.model.rotary_emb
    exact = rotary.inv_freq.clone()
    model.to(torch.bfloat16)
    assert not torch.equal(rotary.inv_freq.float(), exact)
    assert model.restore_rotary() == 1
    assert torch.equal(rotary.inv_freq, exact)
    assert rotary.original_inv_freq.dtype == torch.float32
    assert model.restore_rotary() == 0


def test_trainable_patterns_are_checked(model):
    with pytest.raises(ValueError, match=r"patterns that fit a parameter, got \['projektor'\]"):
        model.set_trainable(["projektor"])
    with pytest.raises(ValueError, match="expected a frozen vision tower"):
        model.set_trainable(["vision"])


@torch.no_grad()
def test_batch_is_one_by_one(model):
    lengths = [12, 1, 30]
    batch = video_batch(lengths, labels=False)
    together = model(**batch).logits
    frames = batch["frames"].split(lengths)
    prompt = model.embed_prompt(batch["input_ids"], video=Visuals.build(*list(batch.values())[1:]))
    for i, length in enumerate(lengths):
        one = {key: value[i : i + 1] for key, value in batch.items() if key not in ("frames", "clip_lengths")}
        alone = model(**one, frames=frames[i], clip_lengths=torch.tensor([length])).logits[0]
        torch.testing.assert_close(together[i][prompt.attention_mask[i]], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_an_image_is_a_video_of_one_frame_with_forty_tokens(model):
    prompt = model.embed_prompt(torch.tensor([[1, -200, 5]]), video=Visuals.build(*visual_inputs([1]).values()))
    assert prompt.inputs_embeds.shape[1] == 2 + 40


@torch.no_grad()
def test_two_questions_about_one_clip(model):
    inputs = visual_inputs([20, 20])
    inputs["frames"][20:] = inputs["frames"][:20]
    ids = torch.tensor([[1, -200, 5, -200, 6]])
    twice = model(input_ids=ids, **inputs).logits
    once = {**inputs, "frames": inputs["frames"][:20], "clip_lengths": torch.tensor([20])}
    torch.testing.assert_close(model(input_ids=ids, **once, clip_index=torch.tensor([0, 0])).logits, twice)
    other = {**once, "question_ids": once["question_ids"].flip(0)}
    assert not torch.allclose(model(input_ids=ids, **other, clip_index=torch.tensor([0, 0])).logits, twice)


@torch.no_grad()
def test_features_of_the_tower_can_be_computed_before(model):
    batch = video_batch([9, 2], labels=False)
    before = {**batch, "frames": model.see(batch["frames"])}
    torch.testing.assert_close(model(**before).logits, model(**batch).logits)


@torch.no_grad()
def test_chunks_change_nothing(model):
    batch = video_batch([9, 20], labels=False)
    whole = model(**batch).logits
    model.frames_per_chunk = 7
    torch.testing.assert_close(model(**batch).logits, whole, atol=1e-5, rtol=1e-4)
    assert in_chunks(lambda x: 2 * x, 3, torch.arange(7)).tolist() == [0, 2, 4, 6, 8, 10, 12]


def test_generation_is_greedy_decoding_of_forward(model):
    batch = video_batch([12, 3], labels=False)
    batch["input_ids"] = torch.tensor([[1, -200, 5, 6, 7], [0, 1, -200, 5, 6]])
    batch["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    made = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    uncached = model.generate(
        **batch, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=False
    )
    assert made.tolist() == uncached.tolist()
    assert made.shape == (2, 4)
    video = model.compress(Visuals.build(*[batch[key] for key in list(visual_inputs([1]))])).split()
    for row in range(2):
        ids = batch["input_ids"][row : row + 1, 1 - int(batch["attention_mask"][row, 0]) :]
        for step in range(4):
            following = model(input_ids=ids, video=video[row]).logits[0, -1].argmax()
            assert following == made[row, step]
            ids = torch.cat([ids, following.view(1, 1)], 1)


def test_streaming_meets_the_new_tokens(model):
    class Streamer:
        def __init__(self):
            self.seen, self.ended = [], False

        def put(self, value):
            self.seen += value.flatten().tolist()

        def end(self):
            self.ended = True

    streamer = Streamer()
    batch = video_batch([4], labels=False)
    made = model.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=None, streamer=streamer)
    assert streamer.seen == made[0].tolist()
    assert streamer.ended


def test_generation_stops_at_the_end_token(model):
    batch = video_batch([4], labels=False)
    first = int(model.generate(**batch, max_new_tokens=1, do_sample=False)[0, 0])
    model.generation_config.eos_token_id = first
    assert model.generate(**batch, max_new_tokens=5, do_sample=False).tolist() == [[first]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_load_same_logits(model, tmp_path, dtype):
    model.save_pretrained(tmp_path / "first")
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "first", dtype=dtype).eval()
    assert isinstance(first, ReferenceModel)
    assert {p.dtype for p in first.parameters()} == {dtype}
    first.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=dtype).eval()
    assert AutoConfig.from_pretrained(tmp_path / "again").to_json_string() == first.config.to_json_string()
    batch = video_batch([12, 1], labels=False)
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, first(**batch).logits)
        if dtype is torch.float32:
            assert torch.equal(first(**batch).logits, model(**batch).logits)


def test_a_tower_with_buffers_that_no_checkpoint_holds(tmp_path):
    sizes = {"img_size": 28, "embed_dim": 24, "depth": 3, "num_heads": 2}
    model = ReferenceModel(preset("tiny", vision_name="eva02_tiny_patch14_224", vision_kwargs=sizes, image_size=28))
    model.eval().save_pretrained(tmp_path)
    again = ReferenceModel.from_pretrained(tmp_path).eval()
    batch = {**video_batch([3], labels=False), "frames": torch.randn(3, 3, 28, 28)}
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_missing_extra_and_misshaped_weights_are_refused(model, tmp_path):
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["connector.nothing"] = state.pop("connector.estimator.score.regress.4.bias")
    state["qformer.norm.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"got 1 missing: connector\.estimator\.score\.regress\.4\.bias; "
                                         r"1 extra: connector\.nothing; "
                                         r"1 mis-shaped: qformer\.norm\.bias \(3,\) instead of \(64,\)"):  # fmt: skip
        ReferenceModel.from_pretrained(tmp_path)


def test_tied_language_model_and_other_families(tmp_path):
    tied = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                       tie_word_embeddings=True)  # fmt: skip
    qwen = Qwen2Config(vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                       num_key_value_heads=2)  # fmt: skip
    for name, text in (("tied", tied), ("qwen", qwen)):
        model = ReferenceModel(preset("tiny", text_config=text)).eval()
        model.save_pretrained(tmp_path / name)
        again = ReferenceModel.from_pretrained(tmp_path / name).eval()
        batch = video_batch([3], labels=False)
        with torch.no_grad():
            assert torch.equal(again(**batch).logits, model(**batch).logits)
            assert again.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] <= 2


@pytest.mark.parametrize(
    ("name", "dim"), [("vit_base_patch16_clip_224", 40), ("vit_base_patch16_siglip_224", 48)], ids=["clip", "siglip"]
)
def test_sizes_follow_from_the_tower(name, dim):
    sizes = {"img_size": 64, "embed_dim": dim, "depth": 3, "num_heads": 2}
    model = ReferenceModel(preset("tiny", vision_name=name, vision_kwargs=sizes))
    assert model.connector.config.dim == dim == model.qformer.norm.weight.numel()
    model.train()(**video_batch([3])).loss.backward()


def test_errors_name_the_thing(model):
    batch = video_batch([3, 2], labels=False)
    with pytest.raises(ValueError, match="got 1 placeholders and 2 videos"):
        model(**{**batch, "input_ids": torch.tensor([[1, -200, 5]])})
    with pytest.raises(ValueError, match=r"add up to 5 frames, got \[3, 3\]"):
        model(**{**batch, "clip_lengths": torch.tensor([3, 3])})
    with pytest.raises(ValueError, match=r"one question per placeholder \(2\)"):
        model(**{**batch, "question_ids": torch.ones(1, 6).long()})
    with pytest.raises(ValueError, match=r"clip_index below 2, got \[0, 2\]"):
        model(**batch, clip_index=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="clip_lengths and question_ids beside frames"):
        model(input_ids=batch["input_ids"], frames=batch["frames"])
    with pytest.raises(ValueError, match=r"without dim, dim_out, dim_text, got \['dim'\]"):
        preset("tiny", connector={"dim": 3})
    with pytest.raises(ValueError, match="expected one of paper-7b, small, tiny, got 'huge'"):
        preset("huge")
    with pytest.raises(ValueError, match=r"fields of ReferenceConfig, got \['visoin_name'\]"):
        preset("tiny", visoin_name="x")
