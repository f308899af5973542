"""Average the weights of two checkpoints of one shape: `share` of the second.

python average.py FIRST SECOND FOLDER --share 0.5
"""

import argparse

import torch

import minidistil

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("first")
parser.add_argument("second")
parser.add_argument("folder")
parser.add_argument("--share", type=float, default=0.5)
given = parser.parse_args()

first, second = minidistil.from_pretrained(given.first), minidistil.from_pretrained(given.second)
other = second.state_dict()
first.load_state_dict(
    {name: torch.lerp(weight, other[name], given.share) for name, weight in first.state_dict().items()},
    assign=True,
)
first.save_pretrained(given.folder)
minidistil.Tokenizer.from_pretrained(given.second).save_pretrained(given.folder)
