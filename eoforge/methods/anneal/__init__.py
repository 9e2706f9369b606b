"""ANNEAL: active learning of image similarity from pairs that people or labels call similar or dissimilar."""
