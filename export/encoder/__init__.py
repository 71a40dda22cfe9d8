"""Encoders and classifiers (BERT-like, ViT) → strongly typed INT8 ONNX, for TensorRT and for ONNX Runtime.

    Hugging Face directory ──trace──► float32 graph ──observe──► scales ──smooth, quantize, half──► model.onnx

Unlike the decoders, these graphs come from transformers' own exporter: an encoder has no cache and no checkpoint of
edgepress, and the exporter knows every architecture. What is added here is explicit Q/DQ around the linears, which both
TensorRT 10 and 11 take as the model's types.
"""
