from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynfocus_connector import (
    DynFocusConfig,
    DynFocusConnector,
    TokenBudget,
    TokenKind,
    build_connector,
)
from tests.arms import ARMS, DIM, PATCHES, question, small, video
from tests.comparing import assert_close, assert_every_parameter_has_a_gradient, assert_same_video

SITUATIONS = {
    "plain": {},
    "image": {"frames": 1},
    "padded": {"padded": True},
    "text_only": {"all_padding": True},
    "all_focus": {"focus_ratio": 1.0},
    "none_in_focus": {"focus_ratio": 0.0},
    "everything": {"budget": TokenBudget(ratio=1.0)},
    "budget": {"budget": TokenBudget(max_tokens=60)},
    "resampled": {"budget": TokenBudget(max_tokens=9)},
    "hard": {"hard": True},
    "no_question": {"asked": False},
}


class TestGradients:
    @pytest.mark.parametrize("situation", SITUATIONS)
    @pytest.mark.parametrize("arm", ARMS)
    def test_every_parameter_gets_one(self, arm, situation):
        options = dict(SITUATIONS[situation])
        ratio = {"focus_ratio": options.pop("focus_ratio")} if "focus_ratio" in options else {}
        connector = small(arm, **ratio).train()
        frames = video(2, options.pop("frames", 7))
        text = question(connector, 2) if options.pop("asked", True) else None
        if options.pop("padded", False):
            options["frame_mask"] = torch.tensor([[True] * 7, [False] * 4 + [True] * 3])
        if options.pop("all_padding", False):
            options["frame_mask"] = torch.zeros(2, 7, dtype=torch.bool)
        counts = connector.encoder.token_counts(PATCHES)
        if "budget" in options and counts.cone <= counts.rod and not options["budget"].ratio:
            pytest.skip("a budget needs cones that cost more than rods")
        if counts.rod == 0 and situation == "resampled":
            pytest.skip("without rods no budget is short")
        connector(frames, text, **options).tokens.square().sum().backward()
        assert_every_parameter_has_a_gradient(connector)

    @pytest.mark.parametrize("arm", ["paper", "cross_attention", "elementwise_max", "question", "straight_through"])
    def test_none_of_them_is_zero_where_it_takes_part(self, arm):
        connector = small(arm).train()
        connector(video(2), question(connector, 2)).tokens.square().sum().backward()
        dead = [name for name, p in connector.named_parameters() if not p.grad.any()]
        # A constant added to all scores changes nothing, nor one added to all keys.
        invariant = {n for n, _ in connector.named_parameters() if n.endswith(("key.bias",))}
        invariant |= {f"estimator.score.regress.{len(connector.estimator.score.regress) - 1}.bias"}
        assert set(dead) <= invariant

    @pytest.mark.parametrize("arm", ["cone_patches", "cone_none", "cone_rods"])
    def test_the_score_network_joins_with_weight_zero(self, arm):
        connector = small(arm).train()
        connector(video(2), question(connector, 2)).tokens.square().sum().backward()
        assert not any(p.grad.any() for p in connector.estimator.parameters())

    def test_frames_and_text_get_one(self):
        connector = small().train()
        frames, text = video(2).requires_grad_(), question(connector, 2).requires_grad_()
        connector(frames, text).tokens.square().sum().backward()
        assert frames.grad.any()
        assert text.grad.any()


class TestShapes:
    @pytest.mark.parametrize("arm", ARMS)
    def test_do_not_depend_on_training(self, arm):
        connector, frames = small(arm), video(2)
        text = question(connector, 2)
        results = [connector.train(mode)(frames, text) for mode in (False, True)]
        for name in ("frame_index", "kind", "offsets"):
            assert torch.equal(getattr(results[0], name), getattr(results[1], name)) or connector.config.scorer
        assert [t.shape for t in results[0][:5]] == [t.shape for t in results[1][:5]]
        assert [t.dtype for t in results[0][:5]] == [t.dtype for t in results[1][:5]]
        assert [t.shape for t in results[0].selection] == [t.shape for t in results[1].selection]

    @pytest.mark.parametrize(("frames", "tokens"), [(1, 40), (16, 526), (25, 20 * 40 + 5 * 2), (100, 960)])
    def test_tokens_of_the_paper(self, frames, tokens):
        """K * 40 + (T - K) * 2 with 25 events and 20 in focus; 13 of 16 frames in a short video."""
        connector = build_connector(DynFocusConfig.training_free(dim=4)).eval()
        assert connector.num_tokens(frames, 256) == tokens
        result = connector(torch.randn(1, frames, 256, 4))
        assert len(result.tokens) == tokens
        assert result.tokens.shape[1] == 4

    @pytest.mark.parametrize(("frames", "tokens"), [(1, 40), (2, 2 * 38 - 38 + 2), (90, 36 * 38 + 54 * 2)])
    def test_tokens_of_the_authors_code(self, frames, tokens):
        """An image gets its two rod tokens as well."""
        connector = build_connector(DynFocusConfig.authors_code(dim=4, dim_out=3, dim_text=None)).eval()
        assert len(connector(torch.randn(1, frames, 256, 4)).tokens) == tokens

    @pytest.mark.parametrize("arm", ARMS)
    def test_nothing_real(self, arm):
        connector = small(arm)
        result = connector(video(2), question(connector, 2), frame_mask=torch.zeros(2, 9, dtype=torch.bool))
        assert result.tokens.shape[0] == 0
        assert result.offsets.tolist() == [0, 0, 0]


class TestDtypes:
    @pytest.mark.parametrize("arm", ARMS)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_in_is_out(self, arm, dtype):
        connector = small(arm).to(dtype)
        for hard in (True, False):
            result = connector(video(2).to(dtype), question(connector, 2).to(dtype), hard=hard)
            assert result.tokens.dtype == dtype
            assert result.selection.prototypes.dtype == dtype
            assert result.selection.soft_mask.dtype == dtype
            assert result.tokens.isfinite().all()

    def test_bfloat16_frames_choose_what_their_exact_values_choose(self):
        connector = small("importance", projector=None)
        frames = video(2, 20).bfloat16()
        half, exact = connector.bfloat16()(frames), connector.double()(frames.double())
        agree = (half.selection.is_focus == exact.selection.is_focus).float().mean()
        assert agree > 0.9

    def test_construction(self):
        assert {p.dtype for p in build_connector(DynFocusConfig.paper(dim=8), dtype=torch.bfloat16).parameters()} == {
            torch.bfloat16
        }

    @pytest.mark.parametrize(
        "preset", [DynFocusConfig.paper, DynFocusConfig.authors_code, DynFocusConfig.training_free]
    )
    def test_meta(self, preset):
        connector = build_connector(preset(), device="meta")
        assert {p.device.type for p in connector.parameters()} <= {"meta"}
        assert not list(connector.buffers())

    def test_autocast(self):
        connector = small("importance", distance_scale=1.0).float()
        frames, text = video(2).float(), question(connector, 2).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = connector(frames, text)
        plain = connector(frames, text)
        assert torch.equal(mixed.selection.focus_index, plain.selection.focus_index)
        assert_close(mixed.tokens.float(), plain.tokens, 0.1, 0.1)

    def test_autocast_training(self):
        connector = small().float().train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = connector(video(2).float(), question(connector, 2).float()).tokens.float().square().sum()
        loss.backward()
        assert_every_parameter_has_a_gradient(connector)


class TestRandomness:
    @pytest.mark.parametrize("arm", ARMS)
    def test_evaluation_draws_none(self, arm):
        connector, frames = small(arm), video(2)
        text, before = question(connector, 2), torch.random.get_rng_state()
        first = connector(frames, text)
        assert torch.equal(before, torch.random.get_rng_state())
        assert torch.equal(first.tokens, connector(frames, text).tokens)

    def test_a_generator_decides_in_training(self):
        connector, frames = small().train(), video(2)
        runs = [
            connector(frames, generator=torch.Generator().manual_seed(seed)).selection.soft_mask for seed in (3, 3, 4)
        ]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])

    def test_noise_decides_in_training(self):
        connector, frames = small().train(), video(2)
        noise, before = torch.randn(2, 8, 5, dtype=torch.float64), torch.random.get_rng_state()
        assert torch.equal(connector(frames, noise=noise).tokens, connector(frames, noise=noise).tokens)
        assert torch.equal(before, torch.random.get_rng_state())


class TestBudget:
    @pytest.mark.parametrize("arm", [name for name in ARMS if ARMS[name].get("rod_tokens") != 0])
    def test_everything_is_the_patches(self, arm):
        """Bit for bit, through F_fine only."""
        for projector in (None, "mlp2x_gelu"):
            connector, frames = small(arm, projector=projector), video(2)
            for mode in (False, True):
                result = connector.train(mode)(frames, question(connector, 2), budget=TokenBudget(ratio=1.0))
                assert torch.equal(result.tokens, connector.encoder.projector.fine(frames).flatten(0, 2))
                assert result.frame_index.tolist() == [t for t in range(9) for _ in range(PATCHES)] * 2
                assert result.anchor.tolist() == list(range(PATCHES)) * 18
                assert torch.equal(result.pool_like(frames), frames.flatten(0, 2))

    def test_ragged_batch_is_its_videos(self):
        connector, frames = small(), video(3, 8)
        text = question(connector, 3)
        mask = torch.tensor([[True] * 8, [True] * 3 + [False] * 5, [False, True] * 4])
        result = connector(frames, text, frame_mask=mask, budget=TokenBudget(max_tokens=70))
        for b, part in enumerate(result.split()):
            row = slice(b, b + 1)
            alone = connector(frames[row, mask[b]], text[row], budget=TokenBudget(max_tokens=70))
            assert_same_video(part, alone.split()[0])

    def test_one_video_with_padding(self):
        connector, frames = small(), video(1, 8)
        mask = torch.tensor([[False, False, True, True, True, False, True, True]])
        alone = connector(frames[:, mask[0]], budget=TokenBudget(max_tokens=40))
        assert_same_video(connector(frames, frame_mask=mask, budget=TokenBudget(max_tokens=40)), alone)

    @pytest.mark.parametrize("batch", [1, 2])
    def test_queries_of_every_frame_with_padding(self, batch):
        connector, frames = small(), video(batch, 6)
        mask = (torch.arange(6) < 4).expand(batch, -1)
        text = torch.randn(batch, 6, 3, 5, dtype=torch.float64)
        result = connector(frames, text, frame_mask=mask, budget=TokenBudget(max_tokens=40))
        alone = connector(frames[:, :4], text[:, :4], budget=TokenBudget(max_tokens=40))
        assert_close(result.tokens, alone.tokens)

    def test_a_padded_video_without_frames(self):
        mask = torch.tensor([[True] * 6, [False] * 6])
        result = small()(video(2, 6), frame_mask=mask, budget=TokenBudget(max_tokens=40))
        assert result.offsets[1] == result.offsets[2]

    def test_pool_like_after_resampling(self):
        connector, frames = small(projector=None), video(1, 30)
        result = connector(frames, budget=TokenBudget(max_tokens=20), keep_merging=True)
        assert_close(result.pool_like(frames), result.tokens)

    def test_selection_after_resampling_names_the_frames_of_the_video(self):
        connector = small()
        result = connector(video(1, 30), budget=TokenBudget(max_tokens=40))
        focus = result.frame_index[result.kind == TokenKind.CONE].unique()
        assert focus.tolist() == result.selection.focus_index[0].tolist()
        assert result.selection.is_focus.shape == (1, 30)

    def test_pool_like_of_a_ragged_batch(self):
        connector, frames = small(projector=None), video(2, 6)
        mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
        result = connector(frames, frame_mask=mask, budget=TokenBudget(max_tokens=60), keep_merging=True)
        assert_close(result.pool_like(frames), result.tokens)

    def test_resampled_frames_are_spread_evenly(self):
        result = small()(video(1, 30), budget=TokenBudget(max_tokens=20))
        assert result.frame_index.unique().tolist() == [3, 9, 15, 21, 27]

    def test_plan_is_known_before(self):
        connector = small()
        mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
        plans = connector.plan(PATCHES, TokenBudget(max_tokens=50), 9, mask)
        result = connector(video(2), frame_mask=mask, budget=TokenBudget(max_tokens=50))
        assert result.offsets.diff().tolist() == [plan.num_tokens for plan in plans]


class TestSaving:
    @pytest.mark.parametrize("arm", ARMS)
    def test_round_trip(self, arm, tmp_path):
        connector = small(arm).float().train()
        connector.save_pretrained(tmp_path)
        again = DynFocusConnector.from_pretrained(str(tmp_path))
        assert not again.training
        assert not any(module.training for module in again.modules())
        assert again.config == connector.config
        assert again.state_dict().keys() == connector.state_dict().keys()
        frames, text = video(2).float(), question(connector, 2).float()
        assert_same_video(again(frames, text), connector.eval()(frames, text), 0.0)

    def test_files(self, tmp_path):
        small().save_pretrained(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert {"config.json", "model.safetensors"} <= names <= {"config.json", "model.safetensors", "README.md"}
        assert DynFocusConfig.from_dict(json.loads((tmp_path / "config.json").read_text())) == small().config

    def test_dtype_and_place(self, tmp_path):
        small().save_pretrained(tmp_path)
        again = DynFocusConnector.from_pretrained(str(tmp_path), dtype=torch.bfloat16)
        assert {p.dtype for p in again.parameters()} == {torch.bfloat16}

    def test_without_parameters(self, tmp_path):
        connector = build_connector(DynFocusConfig.training_free(dim=DIM))
        connector.save_pretrained(tmp_path)
        assert DynFocusConnector.from_pretrained(str(tmp_path)).config == connector.config

    @pytest.mark.parametrize("kind", ["missing", "extra", "mis-shaped"])
    def test_strict(self, kind, tmp_path):
        small().save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
        state, name = load_file(path), "encoder.rods.key.weight"
        if kind == "missing":
            del state[name]
        elif kind == "extra":
            name, state["encoder.more"] = "encoder.more", torch.zeros(1)
        else:
            state[name] = torch.zeros(6, 5)
        save_file(state, path)
        with pytest.raises(ValueError, match=rf"{kind} \[['\"]{name}"):
            DynFocusConnector.from_pretrained(str(tmp_path))

    def test_no_half_written_files(self, tmp_path, monkeypatch):
        def fail(tensors, path, **_):
            with open(path, "w") as file:
                file.write("half")
            raise OSError("disk full")

        monkeypatch.setattr("dynfocus_connector.saving.save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            small().save_pretrained(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_failed_save_leaves_the_old_checkpoint(self, tmp_path, monkeypatch):
        small().save_pretrained(tmp_path)

        def fail(*_, **__):
            raise OSError("disk full")

        monkeypatch.setattr("dynfocus_connector.saving.save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            small().save_pretrained(tmp_path)
        DynFocusConnector.from_pretrained(str(tmp_path))

    def test_a_model_card_written_by_hand_stays(self, tmp_path):
        (tmp_path / "README.md").write_text("mine")
        small().save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "mine"

    def test_state_dict_round_trip(self):
        connector, other = small(), build_connector(small().config, dtype=torch.float64).eval()
        other.load_state_dict(connector.state_dict())
        assert_same_video(connector(video()), other(video()), 0.0)


class TestTrainingFree:
    def test_has_no_parameters(self):
        assert not list(build_connector(DynFocusConfig.training_free(dim=DIM)).parameters())

    def test_tokens_live_in_the_space_of_the_features(self):
        connector = build_connector(DynFocusConfig.training_free(dim=DIM)).eval()
        frames = video(1, 30, patches=256).float()
        result = connector(frames)
        assert result.tokens.min() >= frames.min()
        assert result.tokens.max() <= frames.max()

    def test_a_short_insert_is_kept(self):
        """Two frames of another scene in a long static one."""
        connector = build_connector(DynFocusConfig.training_free(dim=DIM, num_prototypes=8, focus_ratio=1.0)).eval()
        frames = video(1, 1, patches=64).float() + 0.05 * torch.randn(1, 100, 64, DIM)
        frames[:, 40:42] += 3
        assert connector(frames).selection.is_focus[0, 40:42].any()


def test_chosen_frames():
    connector, frames = small(), video(2)
    result = connector(frames, focus_index=torch.tensor([[5, 1], [3, -1]]))
    assert result.selection.is_focus.nonzero().tolist() == [[0, 1], [0, 5], [1, 3]]
    assert result.offsets.diff().tolist() == [2 * 10 + 7 * 2, 10 + 8 * 2]


@pytest.mark.parametrize("arm", ARMS)
def test_copies_do_not_change_the_number_of_tokens(arm):
    connector = small(arm, focus_ratio=1.0, num_prototypes=8)
    frames = video(1, 3, seed=2)[:, [0, 2, 0, 2, 0]]
    assert len(connector(frames).tokens) == connector.num_tokens(5, PATCHES)


@pytest.mark.parametrize("damage", [math.nan, math.inf])
@pytest.mark.parametrize("arm", ARMS)
def test_a_damaged_video_changes_no_other(arm, damage):
    connector, frames = small(arm), video(2)
    damaged, text = frames.clone(), question(connector, 2)
    damaged[0] = damage
    assert_same_video(connector(damaged, text).split()[1], connector(frames, text).split()[1])
