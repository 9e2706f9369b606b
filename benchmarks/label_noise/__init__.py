"""Methods against label noise: every objective, kind of noise, rate and seed on two data sets, with known truth."""
