"""Benchmarks against transformers and the inference runtimes."""
