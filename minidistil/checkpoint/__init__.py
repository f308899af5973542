"""Checkpoints in the Hub's format: files, tensors, names; loading and saving of models and tokenizers."""
