"""Requests that wait together are judged together, and no more may wait than there is room for."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any


class Full(Exception):
    """There is no room for one more. seconds: after which there may be."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many images wait: try again in {seconds} s")
        self.seconds = seconds


class Batches:
    """One thread that judges what waits.

    Args:
        judge: From pictures to as many answers.
        at_once: The most pictures that it takes.
        room: Requests that may be under way, from their first byte to their answer.
    """

    def __init__(self, judge: Callable[[Sequence[Any]], Sequence[Any]], at_once: int, room: int) -> None:
        self.judge, self.at_once, self.room = judge, at_once, room
        self.under_way = 0
        self._seconds = 0.1  # that an image takes, as of late
        self._waiting: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="judge").start()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Room for one request. Called by the server's one loop. Errors: Full."""
        if self.under_way >= self.room:
            raise Full(max(1, round(self.under_way * self._seconds)))
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def submit(self, picture: Any) -> Future[Any]:
        """The answer to come; an error of the judge is its error."""
        future: Future[Any] = Future()
        self._waiting.put((picture, future))
        return future

    def _work(self) -> None:
        while True:
            jobs = [self._waiting.get()]
            while len(jobs) < self.at_once:
                try:
                    jobs.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            jobs = [job for job in jobs if job[1].set_running_or_notify_cancel()]
            begin = time.monotonic()
            try:
                answers = self.judge([picture for picture, _ in jobs]) if jobs else []
            except Exception as error:  # the request's, whatever it is: the thread must live
                for _, future in jobs:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(jobs, answers, strict=True):
                future.set_result(answer)
            if jobs:
                self._seconds = 0.8 * self._seconds + 0.2 * (time.monotonic() - begin) / len(jobs)
