import threading
import time

import pytest

from apps.app.desk import Cancelled, Desk
from gensift.errors import ConfigError


def follow(desk, session, work):
    ended = []
    for _ in desk.follow(session, work, ended.append):
        pass
    return ended[0]


def in_threads(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def test_requests_are_worked_on_one_at_a_time_in_the_order_they_came():
    desk, busy, log = Desk(8, 60), threading.Lock(), []

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
        *(lambda n=n: found.update({n: follow(desk, str(n), work(n))}) for n in range(4))
    ):
        thread.join()
    assert sorted(log) == [0, 1, 2, 3]
    assert found == {n: n for n in range(4)}
    assert desk.is_idle


def test_work_that_is_cancelled_stops_at_its_next_check():
    desk, steps = Desk(8, 60), []

    def work(task):
        for step in range(1000):
            steps.append(step)
            task.tell()
            task.check()
            time.sleep(0.01)

    with pytest.raises(Cancelled):
        for _ in desk.follow("me", work, lambda result: None):
            assert desk.cancel("somebody else") == 0
            assert desk.cancel("me") == 1
    count = len(steps)
    assert count < 500
    time.sleep(0.05)
    assert len(steps) == count
    assert follow(desk, "me", lambda task: "free again") == "free again"


def test_a_request_that_still_waits_is_cancelled_without_ever_starting():
    desk, gate, started = Desk(8, 60), threading.Event(), []
    (first,) = in_threads(lambda: follow(desk, "a", lambda task: gate.wait(10)))
    while desk.is_idle:
        time.sleep(0.01)
    with pytest.raises(Cancelled):
        for before in desk.follow("b", started.append, lambda result: None):
            assert before == 1
            desk.cancel("b")
    assert first.is_alive()
    gate.set()
    first.join()
    assert started == []


def test_whoever_stops_listening_stops_the_work():
    desk, is_over = Desk(8, 60), threading.Event()

    def work(task):
        try:
            while True:
                task.check()
                time.sleep(0.01)
        finally:
            is_over.set()

    listening = desk.follow("me", work, lambda result: None)
    next(listening)
    listening.close()
    assert is_over.wait(5)


def test_the_line_is_bounded():
    desk, gate = Desk(2, 60), threading.Event()
    threads = in_threads(*[lambda: follow(desk, "a", lambda task: gate.wait(10))] * 2)
    while desk._line == [] or len(desk._line) < 2:
        time.sleep(0.01)
    with pytest.raises(ConfigError, match=r"2 requests are waiting.*try again"):
        follow(desk, "b", lambda task: None)
    gate.set()
    for thread in threads:
        thread.join()


def test_work_that_takes_too_long_is_ended():
    desk = Desk(2, 0.05)

    def work(task):
        while True:
            task.check()
            time.sleep(0.01)

    with pytest.raises(ConfigError, match="took more than"):
        follow(desk, "me", work)


def test_closing_stops_what_is_going_on_and_what_waits():
    desk, ended = Desk(4, 60), []

    def work(task):
        while True:
            task.check()
            time.sleep(0.01)

    def ask(name):
        with pytest.raises(Cancelled):
            follow(desk, name, work)
        ended.append(name)

    threads = in_threads(lambda: ask("a"), lambda: ask("b"))
    while len(desk._line) < 2:
        time.sleep(0.01)
    desk.close()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["a", "b"]


def test_an_error_reaches_who_asked_and_the_desk_goes_on():
    desk = Desk(2, 60)

    def fail(task):
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        follow(desk, "me", fail)
    assert follow(desk, "me", lambda task: 1) == 1


def test_nothing_is_taken_after_closing():
    desk = Desk(4, 60)
    desk.close()
    with pytest.raises(Cancelled):
        follow(desk, "a", lambda task: None)
    assert desk.is_idle
