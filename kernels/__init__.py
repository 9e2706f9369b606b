"""Triton kernels with plain-PyTorch references; imports torch and triton only, nothing of eoforge."""
