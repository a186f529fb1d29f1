# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""The same work on many files in worker processes, with a progress bar; a file that kills its worker is survived."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from datasets import Dataset, Video
from tqdm.auto import tqdm

from ..decoding_videoms import VideoDecodeError
from .tables import reason_of


KILLED = "the process that read it was killed (out of memory, or a fault of the decoder)"  # result of such an item


def look_through(
    look: Callable[[int, Callable[[], dict]], Any],
    table: Dataset,
    num_workers: int,
    description: str,
    faults: tuple[type[Exception], ...] = (VideoDecodeError, OSError),
) -> list[Any]:
    """`look(number, read)` for each row of a table, which `read()` gives; for one that raises `faults`, why (text)."""
    # Embedded videos stay in their table until they are needed; for others the workers need only the row.
    is_embedded = isinstance(table.features["video"], Video)
    rows = [None] * len(table) if is_embedded else table.to_list()
    work = partial(_look, look=look, table=table if is_embedded else None, faults=faults)
    found = dict(work_through(work, list(enumerate(rows)), num_workers, description))
    return [found[number] for number in range(len(table))]


def _look(item: tuple[int, dict | None], look: Callable, table: Dataset | None, faults: tuple) -> Any:
    number, row = item
    try:
        return look(number, lambda: row if table is None else table[number])
    except faults as error:
        return reason_of(error)


def work_through(
    work: Callable[[Any], Any], items: Sequence, num_workers: int, description: str
) -> Iterator[tuple[int, Any]]:
    """Yields (number of the item, what `work` returns for it) as they are done; errors of `work` are raised.

    `work` must be a function of a module, and `num_workers` 0 does all in this process. Where a worker dies, the items
    that were under way are tried again, each in a process of its own; one that dies again gives `KILLED`.
    """
    in_turn = ((number, work(item)) for number, item in enumerate(items))
    results = _in_processes(work, items, num_workers) if num_workers else in_turn
    yield from tqdm(results, description, len(items), unit="video")


def _in_processes(work: Callable[[Any], Any], items: Sequence, num_workers: int) -> Iterator[tuple[int, Any]]:
    waiting = list(range(len(items)))[::-1]
    while waiting:
        running, suspects = {}, []
        with _pool(work, min(num_workers, len(waiting))) as pool:
            while waiting or running:
                # Not all at once: a million futures are a gigabyte.
                while waiting and len(running) < 4 * num_workers and not suspects:
                    try:
                        running[pool.submit(_do, items[waiting[-1]])] = waiting[-1]
                    except BrokenProcessPool:  # a worker died a moment ago; those under way will say so
                        break
                    waiting.pop()
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(number)
                    else:
                        yield number, future.result()
        for number in sorted(suspects):
            result = KILLED
            with suppress(BrokenProcessPool), _pool(work, 1) as pool:
                result = pool.submit(_do, items[number]).result()
            yield number, result


def _begin(work: Callable[[Any], Any]) -> None:
    global _work  # sent once to a worker, not with every item: it may hold a table
    _work = work
    torch.set_num_threads(1)


def _do(item: Any) -> Any:
    return _work(item)


def _pool(work: Callable[[Any], Any], num_workers: int) -> ProcessPoolExecutor:
    # Not forked from here: threads that this process may have would be missing in its copy, and waited for forever.
    # A server that is started once, and has imported what is needed, is forked instead, where the system has that.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["__main__", "videoms_hf.data.preparation"])
    return ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(work,))
