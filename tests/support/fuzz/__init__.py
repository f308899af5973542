"""A fuzzer of checkpoints: it damages their files at random, and loads them in a worker process.

Each damaged checkpoint must have finite logits or raise an error of minidistil, within a second and a gibibyte.
Anything else, such as another exception, a crash or a hang, is a bug.

- `tables`: unusual values, as data
- `checkpoints`: tiny intact checkpoints, in every form of file
- `damage`, `weights`: functions that damage bytes, JSON, vocabularies, safetensors and pickles
- `cases`: the file, the checkpoint and the damage of each case; case i depends on the seed i only
- `worker`: the process that loads them, with limits of time and memory

`PYTHONPATH=tests python -m support.fuzz 7` repeats case 7.
"""
