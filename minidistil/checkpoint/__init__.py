"""Checkpoints in the Hub's format: find the files, read the tensors, match the names, load and save a model."""
