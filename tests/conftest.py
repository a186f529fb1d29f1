"""Fixtures of all tests: a tiny model, random states that do not leak, real data if it lies next to the project."""

import faulthandler
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from videoms_hf import VideoMSConfig

from . import shard_files
from .odd_files import write_file, write_packed


SHARED = Path(__file__).parents[2] / "shared"
STDERR = pytest.StashKey[int]()


def pytest_configure(config):
    config.stash[STDERR] = os.dup(2)  # before pytest captures it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that hangs where Python hears no signal, so that pytest-timeout cannot end it, ends the process.

    The watchdog's thread is C and needs no lock: it shows the stacks a minute after the time limit, and exits.
    """
    mark = item.get_closest_marker("timeout")
    seconds = mark.args[0] if mark else float(item.config.getini("timeout"))
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def fixed_and_restored_random_states():
    """Every test starts from the same random states and leaves the global ones as it found them."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    yield
    torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])


@pytest.fixture
def tiny_config():
    """Makes a configuration of 4 x 4 x 4 = 64 tokens: 8 frames of 32 x 32, patch 8."""

    def make(**fields) -> VideoMSConfig:
        return VideoMSConfig(
            **{
                "image_size": 32,
                "patch_size": 8,
                "num_frames": 8,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "decoder_hidden_size": 12,
                "decoder_num_hidden_layers": 2,
                "decoder_num_attention_heads": 3,
                "decoder_intermediate_size": 20,
                **fields,
            }
        )

    return make


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Randomise every parameter: new biases are zero and new norms one, which would hide lost weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture
def shared_data() -> Path:
    """Folder with the real labelled clips; the test is skipped where a checkout stands alone."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no real clips next to this checkout (../shared/data)")
    return SHARED / "data"


@pytest.fixture
def shared_clips() -> Path:
    """Folder with single real clips, ordinary and odd; the test is skipped where a checkout stands alone."""
    if not (SHARED / "clips").is_dir():
        pytest.skip("no real clips next to this checkout (../shared/clips)")
    return SHARED / "clips"


@pytest.fixture(scope="session")
def odd_file(tmp_path_factory):
    """Makes one of the odd files by its name, once."""
    folder, made = tmp_path_factory.mktemp("odd"), {}

    def get(name):
        if name not in made:
            made[name] = write_packed(folder / name) if name == "packed.avi" else write_file(folder, name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def contents(tmp_path_factory) -> list[bytes]:
    """The videos of `tars` and `parquets`."""
    return shard_files.write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def tars(contents, tmp_path_factory) -> Path:
    return shard_files.write_tars(tmp_path_factory.mktemp("tars"), contents)


@pytest.fixture(scope="session")
def parquets(contents, tmp_path_factory) -> Path:
    return shard_files.write_parquets(tmp_path_factory.mktemp("parquets"), contents)


@pytest.fixture(params=["tars", "parquets"])
def shard_folder(request) -> Path:
    return request.getfixturevalue(request.param)
