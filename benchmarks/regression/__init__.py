"""Semi-supervised regression: DML-S2R and its baselines over shares of labels and seeds."""
