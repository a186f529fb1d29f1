"""Processes that tests start: they have so much time, and none outlives the test that it fails."""

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest


ROOT = Path(__file__).parents[1]
SECONDS = 240  # less than a test's own limit, so that there is time to clear up


def run_program(command: Sequence[str], seconds: float = SECONDS, **options) -> subprocess.CompletedProcess:
    """What became of a program, its output as text. `options` are those of `subprocess.Popen`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **options) as process, killed_on_failure(process.pid):
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace")[-3000:]
            pytest.fail(f"{command} still ran after {seconds} s and was killed; it said: {said}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@contextmanager
def running_program(
    command: Sequence[str], ready: str, seconds: float = SECONDS, **options
) -> Iterator[subprocess.Popen]:
    """A program whose output has had a line with `ready`; it is told to end at the end, and killed if it does not."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes, **options) as process, killed_on_failure(process.pid):
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            pytest.fail(f"{command} ended before it said {ready!r}; it said: {''.join(said)[-3000:]}")
        watchdog.cancel()
        yield
        process.terminate()
        process.communicate(timeout=60)


def run_torchrun(program: Sequence[object], num_processes: int = 2, **environment: str) -> subprocess.CompletedProcess:
    """What became of a script or `-m` module with its arguments in several processes; a failure is the test's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}", f"--master_port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    done = run_program([sys.executable, *torchrun, *map(str, program)], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run_forked(task: Callable, *args, seconds: float = SECONDS, **kwargs) -> int:
    """Exit code of a copy of this process that runs `task`."""
    process = multiprocessing.get_context("fork").Process(target=task, args=args, kwargs=kwargs)
    process.start()
    with killed_on_failure(process.pid):
        process.join(seconds)
        if process.exitcode is None:
            pytest.fail(f"{task.__name__} still ran after {seconds} s and was killed")
    return process.exitcode


@contextmanager
def killed_on_failure(pid: int) -> Iterator[None]:
    """Where something is raised, the process is killed with its descendants; torchrun's have sessions of their own."""
    try:
        yield
    except BaseException:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            descendants = parent.children(recursive=True)
            for process in [parent, *descendants]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(descendants, timeout=10)  # the parent is waited for by who started it
        raise
