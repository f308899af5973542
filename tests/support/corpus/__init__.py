"""Unusual checkpoints: saved by transformers, with changes to the config, tensor names, dtypes and files.

- `draft`: a checkpoint before it is written, and the functions that change it
- `names`: names that the tables share
- `loaded`, `refused`, `new_head`: tables of checkpoints; `loaded` explains their columns
"""
