"""From ONNX files to Relax modules."""
