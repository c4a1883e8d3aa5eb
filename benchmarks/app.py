"""How soon the app shows something, and whether it stays the same size.

    python -m benchmarks.app

* start: seconds from the command until the page is served, and processor seconds spent meanwhile
  (on idle cores the two are about the same);
* first preview: seconds from pressing Generate, with 8 candidates, to the first picture on the
  page, in Chromium; on a fresh server, and on one that has worked before;
* clients: 20 requests by 4 clients at once: latencies, whose result each one got, and the resident
  memory of the server after each request.

The load of the machine is noted with the figures. Needs Chromium and Playwright.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from apps.web.serving import free_port
from benchmarks.results import publish

CANDIDATES = 8
CLIENTS, REQUESTS = 4, 20
SETTLED = 5
"""Requests after which memory is expected to stay the same."""
PATIENCE_S = 600


@dataclass(frozen=True)
class Served:
    """A running app."""

    url: str
    process: psutil.Process
    start: dict[str, float]

    @property
    def memory_mib(self) -> float:
        """Resident set, MiB."""
        return float(self.process.memory_info().rss) / 2**20


@contextmanager
def app(folder: str) -> Iterator[Served]:
    """`gensift app` in a process of its own, from the command to the first page."""
    port = free_port("127.0.0.1")
    command = [
        sys.executable,
        "-m",
        "apps.commands.main",
        "app",
        "--port",
        str(port),
        "--output",
        folder,
    ]
    begun = time.perf_counter()
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait_for(url)
        wall = time.perf_counter() - begun
        process = psutil.Process(child.pid)
        times = process.cpu_times()
        yield Served(url, process, {"wall_s": wall, "cpu_s": times.user + times.system})
    finally:
        child.terminate()
        child.wait()


def previews(served: Served) -> dict[str, float]:
    """Seconds from the press of the button to the first picture and to the winner, twice."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--headless", "--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.goto(served.url)
        page.locator("#picture-go").wait_for()
        count = page.locator("#picture-count input[type=number]")
        count.fill(str(CANDIDATES))
        count.press("Tab")
        for run in ("first", "second"):
            begun = time.perf_counter()
            page.locator("#picture-go").click()
            page.locator("#picture-outcome").wait_for(state="hidden")
            page.locator(".gs-card:not(.gs-winner):not(.gs-out) img").first.wait_for()
            found[f"{run}_preview_s"] = time.perf_counter() - begun
            page.locator("#picture-winner img").wait_for()
            found[f"{run}_winner_s"] = time.perf_counter() - begun
        browser.close()
    return found


def clients(served: Served) -> dict[str, Any]:
    """Several clients at once, each asking for pictures of its own prompts."""
    latencies: list[float] = []
    memory: list[float] = []
    wrong: list[str] = []
    lock = threading.Lock()
    numbers = iter(range(REQUESTS))

    def work() -> None:
        from gradio_client import Client

        client = Client(served.url, verbose=False)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            prompt = f"{('a', 'one')[number % 2]} red circle {number}"
            begun = time.perf_counter()
            found = client.predict(
                prompt, "ttsnap", CANDIDATES, number, {}, api_name="/generate_picture"
            )
            with lock:
                latencies.append(time.perf_counter() - begun)
                memory.append(served.memory_mib)
                if found["prompt"] != prompt:
                    wrong.append(prompt)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    growth = max(memory[SETTLED:]) / memory[SETTLED - 1] - 1
    return {
        "clients": CLIENTS,
        "requests": REQUESTS,
        "answered": len(latencies),
        "answered_with_anothers_prompt": len(wrong),
        "latency_median_s": statistics.median(latencies),
        "latency_max_s": max(latencies),
        "memory_mib": [round(value, 1) for value in memory],
        f"memory_growth_from_request_{SETTLED}": growth,
    }


def _wait_for(url: str) -> None:
    deadline = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"{url} was not served within {PATIENCE_S} s")


def main() -> None:
    """Measure and publish."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, app(folder) as served:
        figures = {"start": served.start}
        figures["previews"] = {"candidates": CANDIDATES, **previews(served)}
        figures["clients"] = clients(served)
    publish("app", {"load_average_at_start": load, **figures})


if __name__ == "__main__":
    main()
