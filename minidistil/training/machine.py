"""Description of a run's machine, and its energy use as measured by codecarbon."""

from __future__ import annotations

import logging
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import write_files
from ..errors import InputError, require


def processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device, processes: int) -> dict[str, Any]:
    """Describe the hardware of a run, as plain values for JSON."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {"processor": processor(), "cores": os.cpu_count(), "device": name, "processes": processes}


class EnergyMeter:
    """Measures this machine's energy use and estimates carbon emissions, with codecarbon offline.

    Args:
        country: three-letter ISO 3166 code; None: measure nothing.
        folder: folder that codecarbon may write to.
    """

    def __init__(self, country: str | None, folder: str | Path):
        self.country, self.folder = country, folder
        self.tracker: Any = None
        if country is None:
            return
        if not isinstance(country, str) or not re.fullmatch("[A-Z]{3}", country):
            raise InputError(f"country is {country!r}: expected the three letters of ISO 3166, such as FRA")
        require("codecarbon", "carbon")
        if country not in require("codecarbon.input", "carbon").DataSource().get_global_energy_mix_data():
            raise InputError(
                f"country is {country!r}: codecarbon has no electricity data for it; expected a code such as FRA"
            )

    def start(self) -> None:
        """Start measuring."""
        if self.country is None:
            return
        write_files(self.folder, {})  # creates the folder
        codecarbon = require("codecarbon", "carbon")
        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it logs before it reads its log_level
        self.tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=self.country,
            output_dir=str(self.folder),
            log_level="error",
            allow_multiple_runs=True,  # otherwise it handles Ctrl-C
            output_methods=[],  # this and the following override its config files and environment variables
            output_handlers=[],
            emissions_endpoint=None,
            electricitymaps_api_token="",
            force_carbon_intensity_g_co2e_kwh=None,
            region=None,
            cloud_provider=None,
            cloud_region=None,
        )
        self.tracker.start()

    def stop(self) -> dict[str, Any] | None:
        """Stop measuring; return the energy in kWh and the carbon in kg CO2eq, or None if nothing was measured."""
        if self.tracker is None:
            return None
        self.tracker.stop()
        final = getattr(self.tracker, "final_emissions_data", None)  # missing after an error
        if final is None:
            return None
        return {
            "energy_kwh": final.energy_consumed,
            "carbon_kg": final.emissions,
            "country": final.country_iso_code,
            "tool": f"codecarbon {final.codecarbon_version}",
        }
