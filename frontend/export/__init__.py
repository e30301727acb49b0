"""From Relax back to ONNX."""
