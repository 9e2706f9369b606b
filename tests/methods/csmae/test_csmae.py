"""The training step of CSMAE: variants, masks, reconstruction, losses, both paths, defects of the released code."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eoforge.errors import UsageError
from eoforge.methods.csmae.config import Config, Settings
from eoforge.methods.csmae.loss import objective, plain_mse
from eoforge.methods.csmae.masking import DecodeLayout, draw_masks, layout
from eoforge.methods.csmae.model import Csmae, Decoder, position_embedding
from eoforge.methods.csmae.pixels import Pixels
from kernels.masked_mse import masked_mse
from kernels.random_mask import mask_state

ROOT = Path(__file__).resolve().parents[3]
VARIANTS = ("cecd", "cesd", "secd", "sesd")
SMALL: dict[str, Any] = {
    "vit": "micro", "size": 40, "patch": 10, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip
PAIRS = 3


def settings_of(**changes: Any) -> Settings:
    return Settings(**{**SMALL, **changes})


def build(settings: Settings) -> Csmae:
    torch.manual_seed(0)
    return Csmae(settings)


def images_of(settings: Settings, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        m: torch.randn((PAIRS, len(bands), settings.size, settings.size), generator=generator)
        for m, bands in settings.sensor_bands.items()
    }


def masks_of(settings: Settings, step: int = 0) -> Any:
    return draw_masks(mask_state(7, step), PAIRS, settings)


def visible(masks: Any, modality: str) -> list[set[int]]:
    return [set(row) for row in masks[modality].visible.tolist()]


def terms_and_gradients(settings: Settings, images: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    network = build(settings)
    terms = objective(network, images, masks_of(settings))
    terms["loss"].backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return {n: t.detach() for n, t in terms.items()}, gradients


COMBINATIONS = [
    (variant, masking, reconstruction)
    for variant in VARIANTS
    for masking in ("identical", "disjoint", "random")
    for reconstruction in ("disjoint", "identical")
]


@pytest.mark.parametrize(("variant", "masking", "reconstruction"), COMBINATIONS)
def test_sharing_gives_the_plain_paths_losses_and_gradients(variant: str, masking: str, reconstruction: str) -> None:
    changes = {"variant": variant, "masking": masking, "reconstruction": reconstruction, "mde_weight": 0.5}
    # Ratios other than a half make the sensors' numbers of visible patches differ under disjoint masks.
    ratio = 0.75 if masking == "disjoint" else 0.5
    plain, shared = (settings_of(**changes, mask_ratio=ratio, sharing=sharing) for sharing in (False, True))
    images = images_of(plain)
    want, want_gradients = terms_and_gradients(plain, images)
    got, got_gradients = terms_and_gradients(shared, images)
    assert want.keys() == got.keys() == {"loss", "umr", "cmr", "mim", "mde"}
    for name, value in want.items():
        assert torch.allclose(got[name], value, rtol=2e-6, atol=2e-6), name
    assert want_gradients.keys() == got_gradients.keys()
    for name, gradient in want_gradients.items():
        assert torch.allclose(got_gradients[name], gradient, rtol=1e-4, atol=3e-6), name
    assert set(got_gradients) == {n for n, p in build(shared).named_parameters() if p.requires_grad}


def test_norm_pix_and_class_token_agree_on_both_paths_too() -> None:
    for changes in ({"norm_pix": True}, {"feature": "cls"}, {"mim_weight": 0.0}, {"cmr_weight": 0.0}):
        results = [
            terms_and_gradients(settings_of(**changes, sharing=s), images_of(settings_of()))[0] for s in (True, False)
        ]
        assert results[0].keys() == results[1].keys()
        assert all(torch.allclose(results[0][n], results[1][n], rtol=2e-6) for n in results[0]), changes


def test_norm_pix_divides_by_the_unbiased_variance_on_both_paths() -> None:
    """A prediction of zeros has the mean square (P - 1) / P of P values with unbiased variance 1, not 1."""
    settings = settings_of(size=4, patch=2, norm_pix=True)
    image = torch.randn(PAIRS, 2, 4, 4, generator=torch.Generator().manual_seed(4)) * 9 + 5
    masks = masks_of(settings)
    how = layout(masks, "s1", "s1", settings)
    plain = plain_mse(torch.zeros(PAIRS, 4, 8), image, how, settings)
    pixels = Pixels.of(image)
    zeros = torch.zeros(PAIRS, how.places.shape[1], 8)
    shared = masked_mse(
        zeros, pixels.sources, how.places, pixels.table, size=4, patch=2, pixel_major=True, norm_pix=True
    )
    assert float(plain) == pytest.approx(7 / 8, rel=1e-4)
    assert float(shared) == pytest.approx(7 / 8, rel=1e-4)


@pytest.mark.parametrize("sharing", [True, False])
def test_every_reconstruction_counts_once(sharing: bool) -> None:
    weights = {"umr_weight": 0.5, "cmr_weight": 3.0, "mim_weight": 7.0, "mde_weight": 11.0}
    settings = settings_of(**weights, sharing=sharing)
    network, images, masks = build(settings), images_of(settings), masks_of(settings)
    terms = {n: float(value.detach()) for n, value in objective(network, images, masks).items()}
    expected = sum(weights[f"{name}_weight"] * value for name, value in terms.items() if name != "loss")
    assert terms["loss"] == pytest.approx(expected, rel=1e-5)
    tokens = {}
    for modality, image in images.items():
        index = masks[modality].visible.long()[..., None].expand(-1, -1, settings.width)
        embedded = network.encoder.embed_all(image, modality).gather(1, index)
        tokens[modality] = network.encoder.shared(network.encoder.specific_stage(embedded, modality))
    errors = {}
    for source, target in ((a, b) for a in images for b in images):
        how = layout(masks, source, target, settings)
        predicted = network.decoder(target)(tokens[source], how, target)
        errors[source, target] = float(plain_mse(predicted, images[target], how, settings))
    assert terms["umr"] == pytest.approx(errors["s1", "s1"] + errors["s2", "s2"], rel=1e-4)
    assert terms["cmr"] == pytest.approx(errors["s1", "s2"] + errors["s2", "s1"], rel=1e-4)


def test_the_feature_is_the_mean_of_patch_tokens_without_the_class_token() -> None:
    for feature, reads in (("gap", slice(1, None)), ("cls", slice(0, 1))):
        encoder = build(settings_of(feature=feature)).encoder
        tokens = torch.randn(2, 6, 96, generator=torch.Generator().manual_seed(5)).requires_grad_()
        encoder.pool(tokens)[:, 0].sum().backward()
        assert tokens.grad is not None
        touched = tokens.grad.abs().sum(dim=(0, 2)) > 0
        assert torch.arange(6)[touched].tolist() == list(range(6))[reads]
    gap = build(settings_of()).encoder
    expected = torch.nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (96,), eps=1e-6)
    assert torch.allclose(gap.pool(tokens), expected, atol=1e-6)


def test_each_sensor_has_a_norm_of_its_own_before_the_shared_blocks() -> None:
    encoder = build(settings_of(variant="secd")).encoder
    image = images_of(settings_of())["s1"]
    staged = encoder.specific_stage(encoder.embed_all(image, "s1"), "s1")
    assert torch.allclose(staged.mean(dim=-1), torch.zeros(()), atol=1e-5)
    assert torch.allclose(staged.var(dim=-1, correction=0), torch.ones(()), atol=1e-3)
    with torch.no_grad():
        encoder.specific["s1"][-1].bias += 1.0  # type: ignore[index, union-attr, operator]
    assert torch.allclose(encoder.specific_stage(encoder.embed_all(image, "s1"), "s1"), staged + 1, atol=1e-5)
    other = images_of(settings_of())["s2"]
    assert encoder.specific_stage(encoder.embed_all(other, "s2"), "s2").mean().abs() < 1e-5


def test_layer_norms_have_the_released_epsilons() -> None:
    """timm's ViT says 1e-6; the decoder takes torch's default."""
    network = build(settings_of())
    for module, eps in ((network.encoder, 1e-6), (network.decoders, 1e-5)):
        found = {m.eps for m in module.modules() if isinstance(m, torch.nn.LayerNorm)}
        assert found == {eps}


def count_blocks(network: Csmae, run: Any) -> dict[str, list[int]]:
    """Samples x tokens of every call of each decoder's trunk and each patch embedding."""
    calls: dict[str, list[int]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, Decoder):
            watched = (f"{name}.trunk", module.trunk)
            hooks.append(
                watched[1].register_forward_hook(
                    lambda m, args, out, name=name: calls.setdefault(name, []).append(args[0].shape[0])
                )
            )
    run()
    for hook in hooks:
        hook.remove()
    return calls


def test_a_common_decoder_runs_its_trunk_once_per_source() -> None:
    settings = settings_of(variant="secd")
    network, images, masks = build(settings), images_of(settings), masks_of(settings)
    assert count_blocks(network, lambda: objective(network, images, masks)) == {"decoders.common": [2 * PAIRS]}
    network.settings = dataclasses.replace(settings, sharing=False)
    assert count_blocks(network, lambda: objective(network, images, masks)) == {"decoders.common": [PAIRS] * 4}


@pytest.mark.parametrize("variant", VARIANTS)
def test_shared_parts_of_the_variants(variant: str) -> None:
    network = build(settings_of(variant=variant))
    names = {n for n, _ in network.named_parameters()}
    own_blocks = any(n.startswith("encoder.specific.s1.0.") for n in names)
    assert own_blocks == variant.startswith("se")
    assert (network.decoder("s1") is network.decoder("s2")) == variant.endswith("cd")
    assert any(n.startswith("encoder.shared.0.") for n in names)  # CE is 0/12, never two separate encoders (12/0)
    assert all(n in names for n in ("encoder.cls.s1", "encoder.cls.s2", "encoder.embed.s2.weight"))


def test_depths_and_sizes_are_the_released_ones() -> None:
    paper = Config.paper()
    assert (paper.depths, dataclasses.replace(paper, variant="cecd").depths) == ((10, 2), (0, 12))
    assert (paper.width, paper.tokens, paper.keep) == (768, 64, {"s1": 32, "s2": 32})
    assert dataclasses.replace(paper, vit="large").depths == (22, 2)
    assert paper.s2_bands == ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A")
    assert paper.s1_bands == ("VH", "VV")
    chosen = (paper.epochs, paper.batch_size, paper.learning_rate, paper.weight_decay, paper.beta2, paper.warmup_epochs)
    assert chosen == (150, 128, 1e-4, 0.05, 0.95, 10.0)
    assert (paper.masking, paper.reconstruction, paper.temperature, paper.seed) == ("random", "disjoint", 0.5, 42)
    assert (paper.umr_weight, paper.cmr_weight, paper.mim_weight, paper.mde_weight) == (1, 1, 1, 0)
    with torch.device("meta"):
        encoder = {v: Csmae(dataclasses.replace(paper, variant=v)).encoder for v in ("cesd", "sesd")}
    millions = {v: sum(p.numel() for p in e.parameters()) / 1e6 for v, e in encoder.items()}
    assert millions == pytest.approx({"cesd": 87, "sesd": 158}, abs=1.5)


def test_masks_follow_their_strategy() -> None:
    for step in range(3):
        identical, disjoint, independent = (
            masks_of(settings_of(masking=m, mask_ratio=0.75), step) for m in ("identical", "disjoint", "random")
        )
        assert visible(identical, "s1") == visible(identical, "s2")
        for first, second in zip(visible(disjoint, "s1"), visible(disjoint, "s2"), strict=True):
            assert first | second == set(range(16))
            assert not first & second
        assert visible(independent, "s1") != visible(independent, "s2")
        assert all(len(v) == 4 for v in visible(independent, "s1") + visible(independent, "s2"))


def test_layout_rules() -> None:
    disjoint = settings_of()
    masks = masks_of(disjoint)
    how = layout(masks, "s1", "s2", disjoint)
    assert torch.equal(how.ranks, masks["s1"].ranks)
    assert torch.equal(how.places, masks["s1"].masked)
    identical = settings_of(reconstruction="identical")
    how = layout(masks, "s1", "s2", identical)
    assert torch.equal(how.ranks, masks["s2"].ranks)
    assert torch.equal(how.places, masks["s2"].masked)
    assert torch.equal(layout(masks, "s1", "s1", identical).places, masks["s1"].masked)


def test_defect_1_identical_masks_with_identical_reconstruction_flip_their_order() -> None:
    # The released code calls the flip on the wrong object and fails. Tokens take the masked positions, the loss
    # has the visible ones, where the decoder has mask tokens.
    settings = settings_of(masking="identical", reconstruction="identical")
    masks = masks_of(settings)
    how = layout(masks, "s1", "s2", settings)
    keep = settings.keep["s1"]
    for row in range(PAIRS):
        filled = {t for t in range(16) if how.ranks[row, t] < keep}
        assert filled == set(masks["s1"].masked[row].tolist())
        assert set(how.places[row].tolist()) == set(masks["s1"].visible[row].tolist())
        assert [int(how.ranks[row, t]) for t in masks["s1"].ids[row].tolist()] == list(range(15, -1, -1))
    assert terms_and_gradients(settings, images_of(settings))[0]["cmr"].isfinite()


def test_defect_1_disjoint_masks_train() -> None:
    settings = settings_of(masking="disjoint")
    assert terms_and_gradients(settings, images_of(settings))[0]["loss"].isfinite()


def test_defect_2_the_discrepancy_term_is_subtracted() -> None:
    without, with_it = settings_of(), settings_of(mde_weight=2.0)
    images = images_of(without)
    plain, terms = terms_and_gradients(without, images)[0], terms_and_gradients(with_it, images)[0]
    assert "mde" not in plain
    assert -math.log(1 + math.e) <= terms["mde"] <= -math.log(1 + 1 / math.e)
    assert terms["loss"] == pytest.approx(float(plain["loss"] + 2 * terms["mde"]), abs=1e-5)


def test_defect_3_inference_draws_and_sorts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of()
    network, images = build(settings), images_of(settings)
    for name in ("rand", "argsort", "sort", "gather"):
        monkeypatch.setattr(torch, name, None)
    before = torch.get_rng_state()
    network.encoder.features(images["s1"], "s1")
    assert torch.equal(before, torch.get_rng_state())


def test_defect_4_disjoint_masking_leaves_inference_whole() -> None:
    networks = [build(settings_of(masking=m)) for m in ("disjoint", "random")]
    images = images_of(networks[0].settings)
    for modality in ("s1", "s2"):
        disjoint, independent = (n.encoder.features(images[modality], modality) for n in networks)
        assert disjoint.isfinite().all()
        assert torch.equal(disjoint, independent)
        shifted = images[modality].clone()
        shifted[:, :, -10:, -10:] += 1  # the last patch counts too
        assert not torch.allclose(networks[0].encoder.features(shifted, modality), disjoint)


def test_defect_5_the_contrast_is_finite_in_half_precision() -> None:
    settings = settings_of(temperature=0.01)
    network, images = build(settings), images_of(settings)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(network, images, masks_of(settings))
    assert terms["mim"].dtype == torch.float32
    assert terms["loss"].isfinite()


def test_defect_6_disjoint_reconstruction_keeps_tokens_in_place() -> None:
    # With independent masks, tokens in the target's order change their positions; in the source's they do not.
    settings = settings_of(masking="random")
    masks = masks_of(settings)
    keep = settings.keep["s1"]

    def in_place(how: DecodeLayout) -> bool:
        ids = masks["s1"].ids.long()
        return bool((how.ranks.gather(1, ids[:, :keep]) == torch.arange(keep)).all())

    assert in_place(layout(masks, "s1", "s2", settings))
    assert not in_place(layout(masks, "s1", "s2", dataclasses.replace(settings, reconstruction="identical")))


def test_the_masked_error_is_that_of_a_slow_loop() -> None:
    settings = settings_of()
    image = images_of(settings)["s1"]
    places = torch.tensor([[0, 5], [15, 2], [7, 8]], dtype=torch.uint8)
    predicted = torch.randn((PAIRS, 16, 200), generator=torch.Generator().manual_seed(3))
    total = 0.0
    for b in range(PAIRS):
        for t in places[b].tolist():
            row, column = divmod(t, 4)
            cut = image[b, :, row * 10 : row * 10 + 10, column * 10 : column * 10 + 10].numpy()
            target = np.stack([cut[c, p, q] for p in range(10) for q in range(10) for c in range(2)])
            total += float(((predicted[b, t].numpy() - target) ** 2).mean())
    how = DecodeLayout(places, places)
    assert float(plain_mse(predicted, image, how, settings)) == pytest.approx(total / 6, rel=1e-5)


def test_masked_patches_do_not_change_features_and_visible_ones_not_the_loss() -> None:
    settings = settings_of(cmr_weight=0.0, mim_weight=0.0)
    network, images, masks = build(settings), images_of(settings), masks_of(settings)
    before = objective(network, images, masks)["umr"]
    hidden = int(masks["s1"].masked[0, 0])
    row, column = divmod(hidden, 4)
    images["s1"][0, :, row * 10 : row * 10 + 10, column * 10 : column * 10 + 10] += 3.0
    tokens = [
        network.encoder.embed_visible(images["s1"], "s1", masks["s1"].visible),
        network.encoder.embed_visible(images_of(settings)["s1"], "s1", masks["s1"].visible),
    ]
    assert torch.equal(*tokens)
    assert objective(network, images, masks)["umr"] != before


def test_the_position_embedding_distinguishes_columns_and_rows() -> None:
    table = position_embedding(16, 3)
    assert table.shape == (10, 16)
    assert not table[0].any()
    grid = table[1:].reshape(3, 3, 16)
    assert torch.equal(grid[0, :, :8], grid[2, :, :8])  # the first half encodes the column
    assert torch.equal(grid[:, 0, 8:], grid[:, 2, 8:])  # the second half encodes the row
    assert torch.allclose(grid[0, 1, :2], torch.tensor([math.sin(1.0), math.sin(0.1)]), atol=1e-6)


def test_twelve_bands_and_any_order() -> None:
    bands = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    settings = settings_of(s2_bands=bands[::-1])
    assert terms_and_gradients(settings, images_of(settings))[0]["loss"].isfinite()
    assert build(settings).decoder("s2").heads["s2"].out_features == 1200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 9}, "patch must divide size"),
        ({"patch": 2}, "at most 256 patches"),
        ({"mask_ratio": 1.0}, "mask_ratio must mask at least one"),
        ({"shared_depth": 5}, "shared_depth must lie in 1..4"),
        ({"decoder_width": 30}, "multiple of 4 x decoder_heads"),
        ({"umr_weight": 0.0, "cmr_weight": 0.0}, "umr_weight or cmr_weight must be positive"),
        ({"s1_bands": ("VV", "B02")}, "bands of s1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings_of(**changes)


def test_a_step_needs_torch_triton_timm_and_numpy_only() -> None:
    absent = ("pyarrow", "lance", "pytorch_lightning", "obstore", "faiss", "typer", "safetensors")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import benchmarks.methods.csmae_step, eoforge.methods.csmae.importer; print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "imported", done.stderr[-2000:]
