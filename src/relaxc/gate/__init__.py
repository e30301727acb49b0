"""The speed gate: quantize what is faster for it, and nothing else."""
