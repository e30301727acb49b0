"""NVIDIA GPUs, through CUDA."""
