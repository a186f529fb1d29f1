"""Decoding in threads and processes: the same frames, the machine's cores shared, nothing left open, no hang."""

import gc
import multiprocessing
import os
import sys

import av
import pytest
import torch

from videoms_hf import decoding_videoms
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames, decoder_threads

from .odd_files import spoil, write_numbered
from .processes import run_program
from .test_decoding import LISTS


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264 open gop.mp4", "hevc.mp4", "vp9.webm", "mpeg4 b.avi", "packed.avi"]
)
def test_frames_do_not_depend_on_the_number_of_threads(odd_file, name):
    expected = decode_frames(odd_file(name), LISTS[2], num_threads=1)
    for num_threads in (2, 4):
        assert torch.equal(decode_frames(odd_file(name), LISTS[2], num_threads=num_threads), expected)


def test_the_workers_of_a_loader_share_the_cores(monkeypatch):
    large = decoding_videoms.THREADED_PIXELS
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert decoder_threads(large) == 1, "no worker"
    worker = type("Worker", (), {"num_workers": 1})
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: worker)
    shares = {}
    for worker.num_workers in (1, 4, 5, 8, 16, 32):
        shares[worker.num_workers] = decoder_threads(large)
    assert shares == {1: 4, 4: 4, 5: 3, 8: 2, 16: 1, 32: 1}
    worker.num_workers = 4
    assert decoder_threads(large - 1) == 1, "small frames"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert decoder_threads(large) == 2


def decode_in_child(path, queue):
    queue.put(decode_frames(path, [5, 20]).sum().item())


def test_no_decoder_is_left_over_and_a_forked_child_decodes_on(odd_file):
    path = odd_file("h264.mp4")
    expected = decode_frames(path, [5, 20], num_threads=2).sum().item()
    with pytest.raises(VideoDecodeError):
        decode_frames(path, [99])
    gc.collect()
    kinds = (av.container.Container, av.codec.CodecContext, av.stream.Stream)
    assert not [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
    assert not [f for f in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{f}") == str(path)]
    processes = multiprocessing.get_context("fork")
    queue = processes.Queue()
    child = processes.Process(target=decode_in_child, args=(path, queue), daemon=True)
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


DECODE_DAMAGED = """
import sys, threading
import av, torch
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames

class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        try:
            return len(decode_frames(sys.argv[1], [2, 5, 8 + 2 * i], num_threads=3))
        except VideoDecodeError:
            return 0

if __name__ == "__main__":
    decode_all = lambda: [Clips()[i] for i in range(len(Clips()))]
    av.logging.set_level(av.logging.ERROR)
    threads = [threading.Thread(target=decode_all) for _ in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    for level in (av.logging.VERBOSE, None, av.logging.ERROR):
        av.logging.set_level(level)
        decode_all()
    print(len(list(torch.utils.data.DataLoader(Clips(), num_workers=1))))
"""


def test_no_log_level_and_number_of_threads_hang(tmp_path):
    path = write_numbered(
        tmp_path / "h.mp4", "libx264", "yuv420p", {"g": "50", "bf": "2"}, size=(480, 640), num_frames=32
    )
    path.write_bytes(spoil(path.read_bytes(), 0, 0.002))
    done = run_program([sys.executable, "-c", DECODE_DAMAGED, str(path)], seconds=60)
    assert done.returncode == 0 and done.stdout.split() == ["8"], done.stderr[-3000:]
