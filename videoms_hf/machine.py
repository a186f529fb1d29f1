# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Where and how a result was made: machine, library versions, command and time."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch


LIBRARIES = ("videoms_hf", "torch", "torchvision", "transformers", "accelerate", "datasets", "evaluate", "av", "numpy")


def describe_machine(num_processes: int = 1) -> dict:
    """Processor, threads, accelerator and processes of this run."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")  # on Linux `platform` only knows the architecture
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": num_processes,
        "system": platform.platform(),
    }


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def describe_origin(num_processes: int = 1) -> dict:
    """Command, time (UTC), machine and library versions of this run."""
    program = sys.argv[0] if sys.argv[0].startswith("videoms ") else shlex.join(["python", sys.argv[0]])
    return {
        "command": f"{program} {shlex.join(sys.argv[1:])}".rstrip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(num_processes),
        "versions": library_versions(),
    }
