"""In how many bits tensors are stored and multiplied."""
