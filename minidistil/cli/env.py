"""What `minidistil env` reports: the versions, the hardware and the settings that a bug report needs."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__

DEPENDENCIES = ("torch", "safetensors", "tokenizers", "huggingface_hub", "numpy")
OPTIONAL = ("triton", "transformers", "datasets")  # used by the lab, by benchmarks and by training
CPUINFO = Path("/proc/cpuinfo")
FLAGS = {  # in CPUINFO, of x86 and of Arm
    **{"avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX512-VNNI"},
    **{"avx512_bf16": "AVX512-BF16", "amx_tile": "AMX", "amx_int8": "AMX-INT8", "amx_bf16": "AMX-BF16"},
    **{"asimd": "NEON", "asimddp": "DOTPROD", "i8mm": "I8MM", "bf16": "BF16", "sve": "SVE"},
}
PROBES = {  # private functions of torch.cpu, for systems without /proc/cpuinfo
    **{"_is_avx2_supported": "AVX2", "_is_avx512_supported": "AVX-512", "_is_vnni_supported": "AVX512-VNNI"},
    **{"_is_avx512_bf16_supported": "AVX512-BF16", "_is_amx_tile_supported": "AMX"},
}
VARIABLES = (  # that change results or speed; none of them holds a secret
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "FBGEMM_ENABLE_INSTRUCTIONS", "CUDA_VISIBLE_DEVICES"),
    *("PYTORCH_ALLOC_CONF", "TRITON_INTERPRET", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE"),
)


def environment() -> dict[str, Any]:
    """Return versions, hardware and settings, as values for JSON. An error is reported instead of a value."""
    packages = {name: _reported(functools.partial(metadata.version, name)) for name in DEPENDENCIES}
    return {
        "minidistil": {"version": __version__, "installed": _reported(_installed)},
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "packages": packages,
        "optional": {name: version for name in OPTIONAL if (version := _version(name)) is not None},
        "torch": _reported(_torch),
        "cpu": {"name": _reported(_cpu_name), "cores": os.cpu_count(), "features": _reported(_cpu_features)},
        "memory": _reported(_memory),
        "gpu": _reported(_gpus),
        "extras": _reported(_extras),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def show(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report for the terminal."""
    torch, cpu = report["torch"], report["cpu"]
    rows = {"minidistil": f"{report['minidistil']['version']} ({report['minidistil']['installed']})"}
    rows |= {"python": report["python"], "platform": report["platform"], **report["packages"]}
    if isinstance(torch, dict):
        rows["torch on GPU"] = torch["gpu_build"]
        rows["torch on CPU"] = f"{torch['cpu_capability']}, {torch['libraries']}, bfloat16: {torch['bfloat16']}"
        rows["threads"] = f"{torch['threads']} ({cpu['cores']} cores)"
    else:
        rows["torch on CPU"] = torch
    rows |= {"cpu": cpu["name"], "cpu features": _listed(cpu["features"]), "gpu": _listed(report["gpu"])}
    rows["memory"] = report["memory"]
    rows["extras"] = _listed(report["extras"])
    rows["optional"] = _listed([f"{name} {version}" for name, version in report["optional"].items()])
    rows["variables"] = _listed([f"{name}={value}" for name, value in report["variables"].items()])
    width = max(map(len, rows))
    for name, value in rows.items():
        yield f"{name:<{width}}  {value}"


def _listed(values: Any) -> str:
    return (", ".join(values) or "none") if isinstance(values, list) else str(values)


def _reported(read: Callable[[], Any]) -> Any:
    """Return what `read` returns, or its exception as text: a report of a broken installation must not fail."""
    try:
        return read()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


def _installed() -> str:
    """Return how minidistil was installed. Paths and URLs, which may be private, are not shown."""
    try:
        origin = metadata.distribution("minidistil").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return "not installed"
    if origin is None:
        return "from an index"
    source = json.loads(origin)
    if "vcs_info" in source:
        return f"from {source['vcs_info']['vcs']}, commit {source['vcs_info']['commit_id'][:12]}"
    editable = source.get("dir_info", {}).get("editable")
    return "from a file or folder" if not editable else f"editable, commit {_commit() or 'unknown'}"


def _commit() -> str | None:
    """Return the commit of the checkout that this file is in; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _torch() -> dict[str, Any]:
    import torch

    toolkits = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    libraries = [name for name in ("mkldnn", "mkl", "openmp") if getattr(torch.backends, name).is_available()]
    bfloat16 = _reported(lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return {
        "gpu_build": _listed([f"{name} {version}" for name, version in toolkits.items() if version]),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "libraries": " ".join(libraries),
        "bfloat16": {True: "yes", False: "no"}.get(bfloat16, "unknown"),
        "threads": torch.get_num_threads(),
    }


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "unknown"  # Windows
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _cpu_name() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    for key, value in _cpuinfo():
        if key == "model name":
            return value
    return platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    for key, value in _cpuinfo():
        if key in ("flags", "Features"):
            flags = set(value.split())
            return [name for flag, name in FLAGS.items() if flag in flags]
    import torch

    return [name for probe, name in PROBES.items() if getattr(torch.cpu, probe, bool)()]


def _cpuinfo() -> Iterator[tuple[str, str]]:
    """Yield the keys and values of /proc/cpuinfo; nothing on systems without it."""
    if not CPUINFO.exists():
        return
    for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()


def _gpus() -> list[str]:
    import torch

    names = []
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        capability = f"compute capability {gpu.major}.{gpu.minor}"
        names.append(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB, {capability})")
    if torch.backends.mps.is_available():
        names.append("Apple GPU (MPS)")
    return names


def _extras() -> list[str]:
    """Return the extras of minidistil whose packages are all installed, in versions that fit."""
    from packaging.requirements import Requirement  # a dependency of huggingface_hub

    distribution = metadata.distribution("minidistil")
    requirements = [Requirement(text) for text in distribution.requires or ()]

    def is_complete(extra: str) -> bool:
        wanted = [
            each
            for each in requirements
            if each.marker and each.marker.evaluate({"extra": extra}) and not each.marker.evaluate({"extra": ""})
        ]
        return bool(wanted) and all(
            all(map(is_complete, each.extras)) if each.name == "minidistil" else is_met(each) for each in wanted
        )

    def is_met(requirement: Any) -> bool:
        version = _version(requirement.name)
        return version is not None and requirement.specifier.contains(version, prereleases=True)

    return [extra for extra in distribution.metadata.get_all("Provides-Extra") or () if is_complete(extra)]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
