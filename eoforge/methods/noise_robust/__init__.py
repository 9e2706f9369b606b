"""Learning from labels that are partly wrong: GRID, RS-IRL-SVAE and the baselines, in one trainer."""
