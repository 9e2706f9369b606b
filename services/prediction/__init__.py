"""Prediction service: labels and maps of patches by the Open Inference Protocol V2."""
