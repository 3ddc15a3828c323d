import pytest
import timm
import torch

from dynfocus_reference import VisionTower

TOWERS = {
    "eva": ("eva02_tiny_patch14_224", {"img_size": 28, "embed_dim": 24, "depth": 4, "num_heads": 2}, 24, 4, 5),
    "eva_giant": (
        "eva_giant_patch14_clip_224",
        {"img_size": 28, "embed_dim": 32, "depth": 4, "num_heads": 2},
        32,
        4,
        5,
    ),
    "clip": ("vit_base_patch16_clip_224", {"img_size": 32, "embed_dim": 40, "depth": 4, "num_heads": 2}, 40, 4, 5),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32, "embed_dim": 48, "depth": 4, "num_heads": 2}, 48, 4, 4),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_features_are_the_last_block_but_one_without_norm(kind):
    name, sizes, dim, patches, tokens = TOWERS[kind]
    torch.manual_seed(1)
    whole = timm.create_model(name, pretrained=False, **sizes).eval()
    tower = VisionTower(name, **sizes)
    kept = {key: value for key, value in whole.state_dict().items() if key in tower.model.state_dict()}
    tower.model.load_state_dict(kept)
    seen = []
    whole.blocks[-2].register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = torch.randn(3, 3, sizes["img_size"], sizes["img_size"])
    with torch.no_grad():
        whole.forward_features(pixels)
    features = tower(pixels)
    assert features.tokens.shape == (3, tokens, dim)
    assert features.patches.shape == (3, patches, dim) == (3, tower.num_patches, tower.dim)
    torch.testing.assert_close(features.tokens, seen[0])
    torch.testing.assert_close(features.patches, seen[0][:, tokens - patches :])
    assert len(tower.model.blocks) == 3


def test_tower_never_trains():
    tower = VisionTower("vit_tiny_patch16_224", img_size=32, depth=3).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower(torch.zeros(1, 3, 32, 32)).patches.requires_grad


def test_a_block_that_does_not_exist():
    with pytest.raises(ValueError, match=r"expected a block between -3 and 2 .* got -4"):
        VisionTower("vit_tiny_patch16_224", img_size=32, depth=3, block=-4)
