"""Work in processes: every item once, and a worker that dies takes one item with it."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from videoms_hf.data import workers
from videoms_hf.data.workers import KILLED, work_through


def half_or_die(number):
    if number == 5:
        os._exit(1)
    return number / 2


def test_work_is_done_once_for_each_item():
    assert dict(work_through(half_or_die, [0, 2, 4], 0, "halving")) == {0: 0, 1: 1, 2: 2}


class SlowToSubmit(ProcessPoolExecutor):
    """A pool that hears of a dead worker before its second item is submitted, otherwise a matter of chance."""

    def submit(self, *args):
        while self._processes and not self._broken:
            time.sleep(0.01)
        return super().submit(*args)


def test_a_pool_that_breaks_between_two_submissions_loses_no_item(monkeypatch):
    kinds = [SlowToSubmit]

    def pool(work, num_workers):
        kind = kinds.pop() if kinds else ProcessPoolExecutor
        context = multiprocessing.get_context("fork")  # quicker
        return kind(num_workers, context, initializer=workers._begin, initargs=(work,))

    monkeypatch.setattr(workers, "_pool", pool)
    found = dict(work_through(half_or_die, [5, 2, 4], 1, "halving"))
    assert found.pop(0) == KILLED and found == {1: 1, 2: 2}


@pytest.mark.slow
def test_an_item_that_kills_its_worker_is_told_and_the_others_are_done():
    found = dict(work_through(half_or_die, list(range(12)), 2, "halving"))
    assert found.pop(5) == KILLED
    assert found == {number: number / 2 for number in range(12) if number != 5}
