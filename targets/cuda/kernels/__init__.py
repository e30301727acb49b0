"""Kernels in CUDA C++, and how compiled code launches them."""
