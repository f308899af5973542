"""The tables of docs/transformers.md: arguments and attributes of transformers, and what replaces them."""

from __future__ import annotations

from minidistil.checkpoint import arguments as lists

MODELS = {name: row for name, row in lists.PIPELINES.items() if name not in lists.LOADING}
SECTIONS = {
    "Of `from_pretrained`, and of `pipeline` and its `model_kwargs`": lists.LOADING,
    "Of `pipeline` and its calls; of each only where its task lacks the argument": MODELS,
    "Of a call of a tokenizer, and of its `encode`": lists.TOKENIZING,
    "Of `encode` in sentence-transformers": lists.EMBEDDING,
    "Attributes of a tokenizer": lists.TOKENIZER_ATTRIBUTES,
    "Attributes of a pipeline": lists.PIPELINE_ATTRIBUTES,
}


def tables() -> str:
    """Return all tables, with one row for each replacement."""
    parts = []
    for title, rows in SECTIONS.items():
        by_replacement: dict[str, list[str]] = {}
        for name, row in rows.items():
            values, replacement = ((), row) if isinstance(row, str) else row
            held = f" ({', '.join(f'`{value!r}`' for value in values)} accepted)" if values else ""
            by_replacement.setdefault(replacement, []).append(f"`{name}`{held}")
        lines = [f"| {', '.join(names)} | {replacement} |" for replacement, names in by_replacement.items()]
        parts.append("\n".join([f"{title}:", "", "| name | instead |", "|---|---|", *lines]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(tables())
