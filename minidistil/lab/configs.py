"""Implementations with several configurations, such as block sizes: timing chooses one for each shape."""

from __future__ import annotations

import functools
import inspect
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.prepared import Prepared
from ..benchmarks.measure import seconds_of, take_turns
from ..errors import InputError
from ..layout import Layout

ROUNDS = 3  # timed calls of each configuration, after one that is not timed


class Tuned:
    """An operation that times its configurations in the first call with new shapes, and keeps the fastest.

    Shapes that agree after rounding to powers of two share a choice, so batches of different lengths need few.
    """

    def __init__(self, variants: Mapping[str, Callable[..., Any]]):
        self.variants = dict(variants)
        self.live = all(getattr(variant, "live", True) for variant in variants.values())
        self.chosen: dict[tuple[Any, ...], str] = {}  # names by shapes
        self.last = ""  # name of the configuration that ran last

    def __call__(self, *arguments: Any, **context: Any) -> Any:
        """Run the fastest configuration for these shapes."""
        key = tuple(_shape_of(x) for x in (*arguments, *context.values()))
        if key not in self.chosen:
            self.chosen[key] = self._fastest(arguments, context)
        self.last = self.chosen[key]
        return self.variants[self.last](*arguments, **context)

    def _fastest(self, arguments: tuple[Any, ...], context: dict[str, Any]) -> str:
        device = next(x.device.type for x in arguments if isinstance(x, Tensor))
        runs = [functools.partial(variant, *arguments, **context) for variant in self.variants.values()]
        with torch.no_grad():
            times = take_turns([functools.partial(seconds_of, run, device) for run in runs], ROUNDS, warm_up=1)
        return min(zip(map(statistics.median, times), self.variants, strict=True))[1]


def _shape_of(x: Any) -> Any:
    """Return what a configuration may depend on."""
    if isinstance(x, Tensor):
        return x.device.type, x.dtype, *map(_rounded, x.shape)
    if isinstance(x, nn.Module):
        return tuple(parameter.shape for parameter in x.parameters())
    return (_rounded(len(x)), _rounded(x.max_seqlen)) if isinstance(x, Layout) else None


def _rounded(size: int) -> int:
    return max(size - 1, 0).bit_length()


def variants_of(title: str, value: Any, configs: Sequence[Mapping[str, Any]]) -> dict[str, Callable[..., Any]]:
    """Return a function, or a `Prepared`, with the keywords of each configuration, by the configuration's name.

    Raises InputError unless the configurations are keywords of the function, each set another one.
    """
    function = value.run if isinstance(value, Prepared) else value
    variants: dict[str, Callable[..., Any]] = {}
    for config in configs:
        if not isinstance(config, Mapping) or not config:
            raise InputError(f'configs of {title}: {config!r} is not a dict such as {{"rows": 4}}')
        if unknown := [name for name in config if name not in inspect.signature(function).parameters]:
            raise InputError(f"configs of {title}: it has no parameter {unknown[0]!r}")
        run = functools.partial(function, **config)
        name = " ".join(f"{key}={setting}" for key, setting in config.items())
        variants[name] = Prepared(value.prepare, run) if isinstance(value, Prepared) else run
    if len(variants) != len(configs):
        raise InputError(f"configs of {title}: two are equal, expected different ones")
    return variants
