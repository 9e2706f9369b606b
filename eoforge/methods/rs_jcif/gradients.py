"""Combination of the gradients of two tasks on shared weights.

Shared weights are those in both losses (the codec's analysis); private weights have the gradient of their task. Every
rule is a pair of scalars ``g = a g1 + b g2`` computed from three dot products: one reduction over the list of shared
tensors and one axpy, without copies or projections per tensor.

The rule is applied to all shared weights of a sensor's network together, and to each sensor's network separately: the
networks share no weights, and in a common dot product the sensor with longer gradients (the optical one, five times)
dominates (the README has the measurement).

With ``d11 = g1.g1``, ``d12 = g1.g2``, ``d22 = g2.g2``:

========  ==========================================================================  ================================
rule      a, b                                                                        status
========  ==========================================================================  ================================
sum       1, 1                                                                        plain
fixed     1, w                                                                        plain
pcgrad    1, 1 if d12 >= 0, else 1 - d12 / d11, 1 - d12 / d22                         *confirmed*, closed form of T = 2
mgda      clip((d22 - d12) / (d11 - 2 d12 + d22), 0, 1), 1 - a                        *confirmed*
========  ==========================================================================  ================================

PCGrad: from each gradient its component against the *original* other one is removed, then both are added (Yu et al.
2020). MGDA: the shortest convex combination of the two (Désidéri 2012; closed form of Sener and Koltun 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from eoforge.errors import UsageError

Rule = Literal["pcgrad", "mgda", "sum", "fixed"]
RULES: tuple[Rule, ...] = ("pcgrad", "mgda", "sum", "fixed")
Gradients = Sequence[Tensor]


def dot_products(first: Gradients, second: Gradients) -> Tensor:
    """Dot products ``(g1.g1, g1.g2, g2.g2)`` of two lists of tensors of equal shapes, float64 ``[3]`` on their device.

    Each tensor's products are in float32, their sum over tensors in float64 and in the order of the list.
    """
    rows = [
        torch.stack([a @ a, a @ b, b @ b])
        for a, b in ((x.float().flatten(), y.float().flatten()) for x, y in zip(first, second, strict=True))
    ]
    return torch.stack(rows).double().sum(dim=0)


def coefficients(dots_3: Tensor, rule: Rule, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """The scalars ``a, b`` of ``rule``, on the device of ``dots_3`` without synchronisation.

    Args:
        dots_3: From :func:`dot_products`.
        rule: One of ``RULES``.
        weight: The scalar b of "fixed".

    Raises:
        UsageError: The rule is unknown.
    """
    first, cross, second = dots_3.unbind()
    one = torch.ones_like(first)
    if rule in ("sum", "fixed"):
        return one, one * (weight if rule == "fixed" else 1.0)
    tiny = torch.finfo(first.dtype).tiny  # a zero gradient has no conflict, and 0 / tiny is 0
    if rule == "pcgrad":
        conflict = cross.clamp(max=0)
        return 1 - conflict / first.clamp(min=tiny), 1 - conflict / second.clamp(min=tiny)
    if rule == "mgda":
        alpha = ((second - cross) / (first - 2 * cross + second).clamp(min=tiny)).clamp(0, 1)
        return alpha, 1 - alpha
    raise UsageError(f"gradients are combined by {', '.join(RULES)}; got {rule!r}")


def joint_loss(
    first: Tensor,
    second: Tensor,
    shared: Mapping[str, Sequence[Tensor]],
    private: tuple[Sequence[Tensor], Sequence[Tensor]],
    rule: Rule,
    weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A scalar whose backward pass gives the combined gradients, for any trainer that calls ``backward``.

    This call differentiates both losses once; the backward pass of the returned scalar only returns the results, so
    accumulation, gradient hooks and DDP have ordinary gradients. With several ranks the shared gradients are averaged
    before the rule is applied, so all ranks use the coefficients of the whole batch.

    Args:
        first: Loss of the first task (compression).
        second: Loss of the second task (hashing).
        shared: Network -> its weights in both losses; each network has its own coefficients.
        private: Weights of the first loss only, and of the second only.
        rule: One of ``RULES``.
        weight: Weight of the second task under "fixed", also on private weights.

    Returns:
        The scalar (its value is the plain or weighted sum), and for the logs the cosine of the gradients and the
        coefficients of each network.

    Raises:
        UsageError: The rule is unknown.
    """
    value = first.detach() + (weight if rule == "fixed" else 1.0) * second.detach()
    both = [tensor for tensors in shared.values() for tensor in tensors]
    first_gradients = _gradients(first, [*both, *private[0]], retain_graph=True)
    second_gradients = _gradients(second, [*both, *private[1]], retain_graph=False)
    count = len(both)
    first_shared, second_shared = _averaged(first_gradients[:count]), _averaged(second_gradients[:count])
    figures: dict[str, Tensor] = {}
    start = 0
    for network, tensors in shared.items():
        part = slice(start, start + len(tensors))
        found = _combine(first_shared[part], second_shared[part], rule, weight)
        figures |= {f"{name}_{network}": value for name, value in found.items()}
        start = part.stop
    second_private = second_gradients[count:]
    if rule == "fixed" and second_private:
        torch._foreach_mul_(second_private, weight)
    gradients = [*first_shared, *first_gradients[count:], *second_private]
    return _KnownGradients.apply(value, gradients, *both, *private[0], *private[1]), figures


def _combine(first: list[Tensor], second: list[Tensor], rule: Rule, weight: float) -> dict[str, Tensor]:
    """Sets ``first`` to ``a first + b second`` in place; returns their cosine before, and the coefficients."""
    dots_3 = dot_products(first, second)
    a, b = coefficients(dots_3, rule, weight)
    torch._foreach_mul_(first, a.to(first[0].dtype))
    torch._foreach_mul_(second, b.to(second[0].dtype))
    torch._foreach_add_(first, second)
    cosine = dots_3[1] / (dots_3[0] * dots_3[2]).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return {"gradient_cosine": cosine, "gradient_a": a, "gradient_b": b}


def _gradients(loss: Tensor, weights: list[Tensor], *, retain_graph: bool) -> list[Tensor]:
    found = torch.autograd.grad(loss, weights, retain_graph=retain_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _averaged(gradients: list[Tensor]) -> list[Tensor]:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for gradient in gradients:
            distributed.all_reduce(gradient)
        torch._foreach_div_(gradients, distributed.get_world_size())
    return gradients


class _KnownGradients(torch.autograd.Function):
    """A value without a graph whose backward pass returns given gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, []  # scaled in place, so valid for one backward pass
        torch._foreach_mul_(gradients, upstream[0])
        return (None, None, *gradients)
