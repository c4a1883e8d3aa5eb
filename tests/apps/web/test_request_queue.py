import threading
import time

import pytest

from apps.web.request_queue import Cancelled, RequestQueue
from gensift.errors import ConfigError


def follow(request_queue, session, work):
    ended = []
    for _ in request_queue.follow(session, work, ended.append):
        pass
    return ended[0]


def in_threads(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def test_requests_are_worked_on_one_at_a_time_in_the_order_they_came():
    request_queue, busy, log = RequestQueue(8, 60), threading.Lock(), []

    def work(name):
        def run(task):
            assert busy.acquire(blocking=False)
            time.sleep(0.02)
            busy.release()
            log.append(name)
            return name

        return run

    found = {}
    for thread in in_threads(
        *(lambda n=n: found.update({n: follow(request_queue, str(n), work(n))}) for n in range(4))
    ):
        thread.join()
    assert sorted(log) == [0, 1, 2, 3]
    assert found == {n: n for n in range(4)}
    assert request_queue.is_idle


def test_work_that_is_cancelled_stops_at_its_next_check():
    request_queue, steps = RequestQueue(8, 60), []

    def work(task):
        for step in range(1000):
            steps.append(step)
            task.tell()
            task.check()
            time.sleep(0.01)

    with pytest.raises(Cancelled):
        for _ in request_queue.follow("me", work, lambda result: None):
            assert request_queue.cancel("somebody else") == 0
            assert request_queue.cancel("me") == 1
    count = len(steps)
    assert count < 500
    time.sleep(0.05)
    assert len(steps) == count
    assert follow(request_queue, "me", lambda task: "free again") == "free again"


def test_a_request_that_still_waits_is_cancelled_without_ever_starting():
    request_queue, gate, started = RequestQueue(8, 60), threading.Event(), []
    (first,) = in_threads(lambda: follow(request_queue, "a", lambda task: gate.wait(10)))
    while request_queue.is_idle:
        time.sleep(0.01)
    with pytest.raises(Cancelled):
        for before in request_queue.follow("b", started.append, lambda result: None):
            assert before == 1
            request_queue.cancel("b")
    assert first.is_alive()
    gate.set()
    first.join()
    assert started == []


def test_whoever_stops_listening_stops_the_work():
    request_queue, is_over = RequestQueue(8, 60), threading.Event()

    def work(task):
        try:
            while True:
                task.check()
                time.sleep(0.01)
        finally:
            is_over.set()

    listening = request_queue.follow("me", work, lambda result: None)
    next(listening)
    listening.close()
    assert is_over.wait(5)


def test_the_line_is_bounded():
    request_queue, gate = RequestQueue(2, 60), threading.Event()
    threads = in_threads(*[lambda: follow(request_queue, "a", lambda task: gate.wait(10))] * 2)
    while request_queue._line == [] or len(request_queue._line) < 2:
        time.sleep(0.01)
    with pytest.raises(ConfigError, match=r"2 requests are waiting.*try again"):
        follow(request_queue, "b", lambda task: None)
    gate.set()
    for thread in threads:
        thread.join()


def test_work_that_takes_too_long_is_ended():
    request_queue = RequestQueue(2, 0.05)

    def work(task):
        while True:
            task.check()
            time.sleep(0.01)

    with pytest.raises(ConfigError, match="took more than"):
        follow(request_queue, "me", work)


def test_closing_stops_what_is_going_on_and_what_waits():
    request_queue, ended = RequestQueue(4, 60), []

    def work(task):
        while True:
            task.check()
            time.sleep(0.01)

    def ask(name):
        with pytest.raises(Cancelled):
            follow(request_queue, name, work)
        ended.append(name)

    threads = in_threads(lambda: ask("a"), lambda: ask("b"))
    while len(request_queue._line) < 2:
        time.sleep(0.01)
    request_queue.close()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["a", "b"]


def test_an_error_reaches_who_asked_and_the_desk_goes_on():
    request_queue = RequestQueue(2, 60)

    def fail(task):
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        follow(request_queue, "me", fail)
    assert follow(request_queue, "me", lambda task: 1) == 1


def test_nothing_is_taken_after_closing():
    request_queue = RequestQueue(4, 60)
    request_queue.close()
    with pytest.raises(Cancelled):
        follow(request_queue, "a", lambda task: None)
    assert request_queue.is_idle
