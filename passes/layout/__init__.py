"""Where tensors lie in memory."""
