"""The method object of RS-IRL-SVAE."""

from __future__ import annotations

from eoforge.methods.noise_robust.method import RobustMethod
from eoforge.methods.noise_robust.settings import SVAE
from eoforge.methods.rs_irl_svae.config import Config

METHOD = RobustMethod(
    SVAE,
    Config,
    "Land-cover classes of patches, learned from labels that are partly wrong (RS-IRL-SVAE): the task loss of each "
    "sample is weighted by an importance that a supervised variational autoencoder on the features helps to find.",
)
