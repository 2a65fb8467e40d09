"""What computes the network: PyTorch, OpenVINO or ONNX Runtime. None of them is imported before it is used."""
