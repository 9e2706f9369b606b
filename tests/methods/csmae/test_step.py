"""The GPU step of CSMAE: native grids, compiled blocks and the recorded objective, against the plain objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from eoforge.data.bands import S1_BANDS, S2_BANDS_10
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.errors import UsageError
from eoforge.methods.csmae.config import Pretraining, Settings
from eoforge.methods.csmae.loss import objective
from eoforge.methods.csmae.masking import draw_masks
from eoforge.methods.csmae.method import PretrainingLearner
from eoforge.methods.csmae.model import Csmae
from eoforge.methods.csmae.pixels import NativeGrids, Pixels
from eoforge.methods.csmae.step import RecordedObjective, Run, compile_blocks
from kernels.random_mask import mask_state

SMALL: dict[str, Any] = {"vit": "micro", "patch": 30, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
PAIRS = 2
MEAN, STD = 1500.0, 900.0


def network_of(**changes: Any) -> Csmae:
    torch.manual_seed(0)
    return Csmae(Settings(**{**SMALL, **changes}))


def stored(pairs: int = PAIRS, seed: int = 0) -> PatchBatch:
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int, side: int) -> Tensor:
        return torch.randint(1, 9000, (pairs, channels, side, side), generator=generator).to(torch.uint16)

    s1 = torch.randn((pairs, 2, 120, 120), generator=generator) * 5 - 12
    names = [str(i) for i in range(pairs)]
    return PatchBatch(names, draw(4, 120), draw(6, 60), draw(2, 20), s1, torch.zeros(pairs, dtype=torch.int64))


def native(batch: PatchBatch, flip: Tensor | None = None) -> dict[str, Pixels]:
    device = batch.label_mask.device
    grids = {
        "s1": NativeGrids.build(S1_BANDS, [-12.0] * 2, [5.0] * 2, device),
        "s2": NativeGrids.build(S2_BANDS_10, [MEAN] * 10, [STD] * 10, device),
    }
    return {modality: g.pixels(batch, flip) for modality, g in grids.items()}


def results(network: Csmae, terms: dict[str, Tensor], factor: float = 1.0) -> tuple[dict[str, Tensor], list[Tensor]]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(terms["loss"] * factor, parameters)
    return {n: t.detach() for n, t in terms.items()}, list(gradients)


@pytest.mark.parametrize("sharing", [True, False])
def test_native_grids_give_the_losses_of_prepared_images(sharing: bool) -> None:
    network, batch, flip = network_of(sharing=sharing), stored(), torch.tensor([1, 2], dtype=torch.uint8)
    prepares = {
        "s1": Prepare(S1_BANDS, [-12.0] * 2, [5.0] * 2),
        "s2": Prepare(S2_BANDS_10, [MEAN] * 10, [STD] * 10),
    }
    images = {modality: prepare(batch, flip) for modality, prepare in prepares.items()}
    masks = draw_masks(mask_state(3), PAIRS, network.settings)
    want = results(network, objective(network, images, masks))
    got = results(network, objective(network, native(batch, flip), masks))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_native_grids_are_used_only_where_the_kernels_can_upsample() -> None:
    assert NativeGrids.can(S2_BANDS_10, 120, "nearest")
    assert not NativeGrids.can(S2_BANDS_10, 120, "bicubic")
    assert not NativeGrids.can(S2_BANDS_10, 60, "nearest")
    batch = stored()
    batch.s2_20m = None
    with pytest.raises(UsageError, match="lacks one of s2_10m"):
        native(batch)


def test_the_learner_reads_native_grids_or_prepares() -> None:
    normalisation = dict.fromkeys((*S1_BANDS, *S2_BANDS_10), (MEAN, STD))
    for interpolation, sides in (("nearest", [120, 60]), ("bicubic", [120])):
        learner = PretrainingLearner(Pretraining(**SMALL, interpolation=interpolation), normalisation)
        pixels = learner._pixels(stored(), None)
        assert [s.shape[-1] for s in pixels["s2"].sources] == sides
        assert pixels["s1"].sources[0].shape == (PAIRS, 2, 120, 120)


def test_a_recorded_objective_gives_losses_gradients_and_their_scale() -> None:
    network, recorded_runs = network_of(), []

    def record(run: Run) -> Run:  # like a CUDA graph without a GPU: the same run on the same memory
        recorded_runs.append(run)
        return run

    recorded = RecordedObjective(network, record)
    for seed, pairs in ((0, PAIRS), (1, PAIRS), (2, PAIRS + 1)):
        pixels, state = native(stored(pairs, seed)), mask_state(7, seed)
        want = results(network, objective(network, pixels, draw_masks(state, pairs, network.settings)))
        terms = recorded(pixels, state)
        halves = results(network, terms, 0.5)[1]
        torch.testing.assert_close({n: t.detach() for n, t in terms.items()}, want[0])
        torch.testing.assert_close([2 * g for g in halves], want[1])
        pixels["s1"].sources[0].zero_()  # its own memory holds the batch
    assert len(recorded_runs) == 2  # once for each size


def test_a_recorded_objective_trains_as_the_objective_does() -> None:
    curves = []
    for fast in (False, True):
        network = network_of()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        recorded = RecordedObjective(network, lambda run: run)
        curve = []
        for step in range(4):
            pixels, state = native(stored(seed=step)), mask_state(1, step)
            masks = draw_masks(state, PAIRS, network.settings)
            terms = recorded(pixels, state) if fast else objective(network, pixels, masks)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            curve.append(float(terms["loss"].detach()))
        curves.append(curve)
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_compiled_blocks_give_the_same_numbers_and_keep_their_names() -> None:
    plain, compiled = network_of(), network_of()
    compile_blocks(compiled, backend="aot_eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    masks = draw_masks(mask_state(0), PAIRS, plain.settings)
    pixels = native(stored())
    want, got = (results(n, objective(n, pixels, masks)) for n in (plain, compiled))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_gpu_a_graph_of_compiled_blocks_gives_the_objectives_numbers(autocast: bool) -> None:
    plain, fast = network_of().cuda(), network_of().cuda()
    compile_blocks(fast)
    recorded = RecordedObjective(fast)
    for seed in range(3):
        pixels, state = native(stored(seed=seed).to("cuda")), mask_state(5, seed, "cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            want = results(plain, objective(plain, pixels, draw_masks(state, PAIRS, plain.settings)))
            got = results(fast, recorded(pixels, state))
        bound = 5e-2 if autocast else 1e-3
        torch.testing.assert_close(got[0], want[0], rtol=bound, atol=bound)
        for ours, theirs in zip(got[1], want[1], strict=True):
            assert (ours - theirs).abs().max() <= bound * theirs.abs().max() + 1e-6
