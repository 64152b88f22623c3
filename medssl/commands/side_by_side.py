"""Work in processes of their own that end with the command that started them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TypeVar

from medssl.imaging.errors import MedsslError

Item = TypeVar("Item")
Result = TypeVar("Result")

_TERMINATED = 143


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], logs: Sequence[Path], jobs: int
) -> Iterator[tuple[Item, Result]]:
    """Results of a function of each item, as they come.

    Args:
        work: The function; it can be pickled.
        items: What it is called with.
        logs: Where it tells what it does, for each item; used with more than one job.
        jobs: Items at a time. More than one are done in processes of their own, each with its share of the processors.

    Raises:
        MedsslError: The system killed a process.
    """
    if jobs == 1:
        for item in items:
            yield item, work(item)
        return
    with killed_worker_told("--jobs"), ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (jobs,)) as pool:
        pending = {pool.submit(_quietly, work, item, log): item for item, log in zip(items, logs, strict=True)}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_workers(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Results of a function of each item, as they come.

    Args:
        work: The function; it can be pickled.
        items: What it is called with.
        workers: Processes, an option of the command; with one there are none beside this.

    Raises:
        MedsslError: The system killed a process.
    """
    if workers <= 1 or len(items) <= 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), get_context("spawn"), end_with_parent)
    try:
        with killed_worker_told("--workers"):
            for future in as_completed([pool.submit(work, item) for item in items]):
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def killed_worker_told(option: str) -> Iterator[None]:
    """Say in words that a worker of a pool was killed, and which option makes fewer of them."""
    try:
        yield
    except BrokenProcessPool as error:
        raise MedsslError(
            "a worker was killed, most likely for want of memory: run the same again with fewer "
            f"{option}; what is finished is kept",
            reason="worker-killed",
        ) from error


def end_with_parent() -> None:
    """Let this worker end as soon as the command that started it is gone, however that ended.

    A pool's workers outlive a parent that was killed: they would go on with what waits in the queue, beside those of
    the next start.
    """
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(_TERMINATED)


def _begin(jobs: int) -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _quietly(work: Callable[[Item], Result], item: Item, log: Path) -> Result:
    with _told_to(log):
        return work(item)


@contextmanager
def _told_to(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream, redirect_stdout(stream), redirect_stderr(stream):
        yield
