"""Checkpoints that are damaged at random, and a worker that loads them.

Each damaged checkpoint must give finite logits or an error of minidistil's, within a second and a gibibyte.
Anything else, such as another exception, a crash or a hang, is a bug.

- `tables`: the odd values, as data
- `checkpoints`: tiny whole checkpoints, in every form of file
- `damage`, `weights`: functions that damage bytes, JSON, vocabularies, safetensors and pickles
- `cases`: which file of which checkpoint is damaged, and how; case i is made from the seed i alone
- `worker`: the process that loads them, and its limits of time and memory

`PYTHONPATH=tests python -m support.fuzz 7` repeats case 7.
"""
