"""Odd checkpoints, made to order: what transformers saves, with its config, names, dtypes and files changed.

- `draft`: a checkpoint before it is written, and the functions that change it
- `names`: names that the tables share
- `loaded`, `refused`, `new_head`: the tables, a line for each checkpoint; the key to their columns is in `loaded`
"""
