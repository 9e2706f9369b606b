"""Tensors of a network as a coordinator stores them: shape, dtype, role and initial values."""

from __future__ import annotations

from torch import nn

from eoforge.storage.tensorfile import Array, Role, TensorSpec


def specs_of(network: nn.Module) -> dict[str, TensorSpec]:
    """Shape, dtype and role of every tensor of the network's state.

    gamma and beta of batch normalisation have the role ``norm``; those of group and layer norms are weights like any
    other, since no statistics of a silo stand behind them.
    """
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    parameters = dict(network.named_parameters())
    specs = {}
    for name, tensor in network.state_dict().items():
        role: Role = "weight" if name in parameters else "statistic" if tensor.is_floating_point() else "counter"
        dtype = str(tensor.dtype).removeprefix("torch.")
        specs[name] = TensorSpec(tuple(tensor.shape), dtype, "norm" if name in norms else role)
    return specs


def first_model(network: nn.Module) -> tuple[dict[str, TensorSpec], dict[str, Array]]:
    """Specs and values of all tensors of ``network`` by name: what a federation begins with."""
    return specs_of(network), {n: t.numpy() for n, t in network.state_dict().items()}
