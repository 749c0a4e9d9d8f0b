"""The machine that a measurement was made on."""

import os
import platform
from pathlib import Path

from msgspec import Struct


class Machine(Struct):
    """What decides about figures, as far as the system tells."""

    processor: str
    cores: int
    memory_gb: float
    kernel: str
    system: str
    load_average: float
    """Of the minute before the measurement."""


def this_machine() -> Machine:
    processors = _field("/proc/cpuinfo", "model name")
    memory = _field("/proc/meminfo", "MemTotal")
    return Machine(
        processor=processors or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gb=round(int(memory.split()[0]) / 1e6, 1) if memory else 0.0,
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        load_average=os.getloadavg()[0],
    )


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
