"""Save a checkpoint's weights in float16. They are converted to float32 when the checkpoint is loaded.

python half.py TRAINED FOLDER
"""

import json
import sys
from pathlib import Path

import minidistil

source, folder = sys.argv[1:]
model = minidistil.from_pretrained(source)
model.half().save_pretrained(folder)
minidistil.Tokenizer.from_pretrained(source).save_pretrained(folder)
config = Path(folder, "config.json")
values = json.loads(config.read_text(encoding="utf-8"))
values["dtype"] = "float32"
config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
