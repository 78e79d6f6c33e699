"""Checkpoints of this package for stock libraries: transformers, timm, ONNX, plain safetensors."""
