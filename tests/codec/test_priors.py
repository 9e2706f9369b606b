"""Likelihoods of the entropy model against SciPy's distributions, their bounds, and the integer tables of the prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import logistic

from eoforge.codec.learned.priors import HYPER_REACH, FactorisedPrior, gaussian_likelihood
from eoforge.codec.tables import SCALES


@pytest.fixture
def prior() -> FactorisedPrior:
    made = FactorisedPrior(3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter, spread in ((made.centre, 3.0), (made.log_scale, 1.0), (made.weight, 1.0)):
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return made


def test_the_factorised_prior_is_a_mixture_of_logistics(prior: FactorisedPrior) -> None:
    values = torch.arange(-12, 13).float()
    found = prior.likelihood(values.view(1, 1, -1, 1).expand(1, 3, -1, 1))[0, :, :, 0].detach().numpy()
    centre, weight = prior.centre.detach().numpy(), prior.weight.softmax(-1).detach().numpy()
    scale = prior.log_scale.exp().detach().numpy()
    for channel in range(3):
        edges = [values.numpy()[:, None] + side for side in (0.5, -0.5)]
        upper, lower = (logistic.cdf(edge, centre[channel], scale[channel]) for edge in edges)
        np.testing.assert_allclose(found[channel], ((upper - lower) * weight[channel]).sum(1), rtol=2e-4, atol=1e-8)


def test_scales_have_bounds(prior: FactorisedPrior) -> None:
    """Beyond the last table there is none, and a scale of e^5 covers every value of the hyper-latent."""
    residual = torch.tensor([0.0, 3.0, 40.0])
    for index, bound in ((SCALES + 3.0, SCALES - 1.0), (-2.0, 0.0)):
        outside = gaussian_likelihood(residual, torch.full((3,), index))
        torch.testing.assert_close(outside, gaussian_likelihood(residual, torch.full((3,), bound)))
    z = torch.tensor([-9.0, 0.0, 9.0]).view(1, 1, 3, 1).expand(1, 3, 3, 1)
    for given, bound in ((8.0, 5.0), (-7.0, -4.0)):
        found = []
        for value in (given, bound):
            with torch.no_grad():
                prior.log_scale.fill_(value)
            found.append(prior.likelihood(z))
        torch.testing.assert_close(found[0], found[1])


def test_tables_hold_the_mass_of_each_value_and_of_all_others(prior: FactorisedPrior) -> None:
    """Frequencies of 22 bits: rounded down, so that they never exceed what the coder can hold."""
    assert prior.frequencies.shape == (3, 2 * HYPER_REACH + 2)
    prior.update()
    values = torch.arange(-HYPER_REACH, HYPER_REACH + 1).float()
    mass = prior.likelihood(values.view(1, 1, -1, 1).expand(1, 3, -1, 1))[0, :, :, 0].detach().double()
    for channel, table in enumerate(prior.tables()):
        assert 2**22 - len(table) <= table.sum() <= 2**22
        np.testing.assert_allclose(table[:-1] / 2**22, mass[channel].numpy(), atol=1e-6)
        assert table[-1] / 2**22 == pytest.approx(max(1 - float(mass[channel].sum()), 1e-6), abs=2e-6)
