"""Compute the weighted average of checkpoints of the same architecture. The tokenizer is that of the last one.

python average.py FOLDER inference=0.3 all=0.7
"""

import sys

import minidistil

folder, *given = sys.argv[1:]
shares = {name: float(share) for name, _, share in (one.rpartition("=") for one in given)}
if abs(sum(shares.values()) - 1) > 1e-6:
    sys.exit(f"the shares add up to {sum(shares.values())}: expected 1")

states = {name: minidistil.from_pretrained(name, dtype="float32").state_dict() for name in shares}
model = minidistil.from_pretrained(given[-1].rpartition("=")[0], dtype="float32")
model.load_state_dict(
    {key: sum(share * states[name][key] for name, share in shares.items()) for key in model.state_dict()}
)
model.save_pretrained(folder)
minidistil.Tokenizer.from_pretrained(given[-1].rpartition("=")[0]).save_pretrained(folder)
