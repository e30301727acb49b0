"""Loading and running artifacts, without TVM or ONNX."""
