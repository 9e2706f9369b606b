"""The training step on a GPU: compiled blocks, and one CUDA graph of the forward and backward pass.

An eager step of a thousand small kernels is limited by Python. A graph is one launch for all of them; the trainer,
which has the optimiser, gets an ordinary loss whose gradients are computed already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from eoforge.methods.csmae.loss import objective
from eoforge.methods.csmae.masking import draw_masks
from eoforge.methods.csmae.model import Csmae
from eoforge.methods.csmae.pixels import Pixels

WARM_UP = 3
"""Runs before a capture, in which kernels are compiled and libraries create their handles."""

Run = Callable[[], None]


def compile_blocks(network: Csmae, backend: str = "inductor") -> None:
    """Compiles every transformer block in place, without renaming weights. Blocks of one width share their code."""
    for module in network.modules():
        if isinstance(module, Block):
            module.compile(backend=backend, dynamic=False)


def cuda_graph(run: Run) -> Run:
    """The replay of a captured ``run``, which reads and writes the same memory each time."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class RecordedObjective:
    """The objective with its gradients, recorded at the first call and replayed at later ones.

    Inputs are copied to fixed memory. Results are valid until the next call; the backward pass of ``loss`` returns the
    recorded gradients of all parameters.

    Args:
        network: Its parameters must keep their memory (optimisers and ``load_state_dict`` write in place).
        record: Returns the replay of a run: :func:`cuda_graph`, or in tests the run itself.
    """

    def __init__(self, network: Csmae, record: Callable[[Run], Run] = cuda_graph) -> None:
        self.network, self.record = network, record
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.gradients: list[Tensor] = []
        self._terms: dict[str, Tensor] = {}
        self._inputs: dict[str, Pixels] = {}
        self._state: Tensor | None = None
        self._replay: Run | None = None

    def __call__(self, images: Mapping[str, Pixels], state: Tensor) -> dict[str, Tensor]:
        """All terms by name, as :func:`~eoforge.methods.csmae.loss.objective` gives them.

        Args:
            images: Sensor -> images.
            state: int64 ``[2]``, state of the masks, see :func:`~eoforge.methods.csmae.masking.draw_masks`.
        """
        fits = self._replay is not None and all(self._inputs[m].fits(p) for m, p in images.items())
        if fits and self._state is not None:
            self._state.copy_(state)
            for modality, pixels in images.items():
                self._inputs[modality].copy_(pixels)
        else:  # the first batch, or one of another size, needs a new recording
            self._inputs = {modality: pixels.clone() for modality, pixels in images.items()}
            self._state = state.clone()
            self._replay = self.record(self._run)
        assert self._replay is not None
        self._replay()
        terms = {name: value.detach().clone() for name, value in self._terms.items()}
        terms["loss"] = _Replayed.apply(self, terms["loss"], *self.parameters)
        return terms

    def _run(self) -> None:
        assert self._state is not None
        batch = next(iter(self._inputs.values())).sources[0].shape[0]
        device = self._state.device.type
        # Cached casts of weights would be stale at every replay.
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, dtype, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
            self._terms = objective(self.network, self._inputs, draw_masks(self._state, batch, self.network.settings))
        self.gradients = list(torch.autograd.grad(self._terms["loss"], self.parameters))


class _Replayed(torch.autograd.Function):
    """A loss whose gradients are computed already."""

    @staticmethod
    def forward(ctx: Any, recorded: RecordedObjective, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.recorded = recorded
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # One call for all parameters: a launch for each takes as long as the optimiser.
        return None, None, *torch._foreach_mul(ctx.recorded.gradients, grads[0])
