"""What the studio costs, in a real Chromium: opening, scrubbing, watching a run while it is made, many clients at once.

    python benchmarks/studio.py [--only open scrub live jobs] [--rounds 9] [--json FILE]

A server of its own on an empty data folder, one torch thread. `open`: milliseconds until the prompt takes words, of a fresh profile and of
one that has the files, and the bytes of the page (without the recorded run that ships, which is data). `scrub`: milliseconds until every
view of the page has drawn a step, over sweeps of the filmstrip. `live`: a run of 24 steps from the press of Generate until its last frame
is drawn, against `safelight.generate` alone in a process of its own; wall and processor time, paired and in turns, medians of the ratios.
`jobs`: 100 runs queued by 8 clients at once.
Needs playwright, and its Chromium or the system's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

STEPS, GOAL, FRAME = 24, 1.7, 16.0
PROMPT = "a red apple on a blue background"
_TICK = os.sysconf("SC_CLK_TCK")
_ALONE = """
import sys, time, torch
from safelight.assets import Assets
from safelight.generate import generate
from safelight.model import load
from safelight.spec import parse
model, count, steps = load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for line in sys.stdin:
    asked = parse({"prompt": [sys.argv[4]], "seed": int(line), "count": count, "steps": steps}, "request")
    wall, cpu = time.perf_counter(), time.process_time()
    for event in generate(model, asked):
        pass
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""
# Watches the stage's canvas; `drawn(k)` resolves with the time at which step k stood on it and the frame was handed over.
_WATCH = """(last) => {
  window.__drawn = new Promise((done) => {
    const look = () => {
      const c = document.querySelector('.view .stage canvas');
      if (c && Number(c.dataset.step) === last && !window.__stale.has(c)) requestAnimationFrame(() => done(performance.now()));
      else return false;
      seen.disconnect();
      return true;
    };
    window.__stale = new Set([...document.querySelectorAll('.view .stage canvas')].filter((c) => Number(c.dataset.step) === last));
    const seen = new MutationObserver(look);
    seen.observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-step'] });
  });
  window.__began = performance.now();
  document.querySelector('.go .primary').click();
}"""


class Served:
    """A server on an empty data folder, and its processes."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "safelight", "serve", "--data", str(folder), "--port", "0", "--device", "cpu"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = next(word.rstrip(",") for word in line.split() if word.startswith("http"))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or "null")

    def wait(self, id: str) -> dict[str, Any]:
        """A run once it is over."""
        while True:
            run: dict[str, Any] = self.call("GET", f"/v1/runs/{id}")
            if run["state"] in ("done", "failed", "stopped"):
                return run
            time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)


class Alone:
    """`generate` in a process of its own, which keeps the model."""

    def __init__(self, model: str, count: int) -> None:
        command = [sys.executable, "-c", _ALONE, model, str(count), str(STEPS), PROMPT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, seed: int) -> tuple[float, float]:
        """Wall and processor seconds of a run."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(seed, file=self.process.stdin, flush=True)
        wall, cpu = map(float, self.process.stdout.readline().split())
        return wall, cpu

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def spent(roots: list[int]) -> dict[int, float]:
    """Processor seconds so far of processes and all that descend from them, by id."""
    parents, used = dict[int, int](), dict[int, float]()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / _TICK
    mine, size = set(roots), 0
    while size != len(mine):
        size = len(mine)
        mine |= {pid for pid, parent in parents.items() if parent in mine}
    return {pid: used[pid] for pid in mine if pid in used}


def since(before: dict[int, float], now: dict[int, float]) -> float:
    """Processor seconds between two looks."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items())


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def until(page: Page, script: str, argument: Any = None) -> Any:
    """What a script gives once it is true; asked from outside, as the page's policy evaluates no text."""
    end = time.monotonic() + 120
    while not (found := page.evaluate(script, argument)):
        if time.monotonic() > end:
            raise TimeoutError(script)
        page.wait_for_timeout(20)
    return found


# Stands in the page before its own scripts: when the prompt and the button are there for the first time.
_READY = """new MutationObserver((_, me) => {
  if (document.querySelector('#prompt') && document.querySelector('.go .primary:not(:disabled)')) {
    window.__ready = performance.now();
    me.disconnect();
  }
}).observe(document, { subtree: true, childList: true });"""


def opening(browser: Browser, served: Served, rounds: int) -> dict[str, Any]:
    """Milliseconds from the address to a prompt that takes words, of fresh profiles and again; bytes; of each screen the bytes."""
    found: dict[str, list[float]] = {"fresh": [], "again": []}
    for _ in range(rounds):
        context = browser.new_context(base_url=served.url)
        context.add_init_script(_READY)
        page = context.new_page()
        for name in found:
            page.goto("/create")
            found[name].append(float(until(page, "window.__ready")))
            page.fill("#prompt", "a")
        context.close()
    weights = {}
    for screen in ("create", "edit", "mix", "morph", "compare", "explain", "gallery", "jobs"):
        context = browser.new_context(base_url=served.url)
        page = context.new_page()
        page.goto(f"/{screen}")
        until(page, "document.querySelector('main .screen, main section') && !document.querySelector('main .loading')")
        page.wait_for_timeout(500)
        sizes = page.evaluate(
            """() => [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
            .filter((r) => new URL(r.name).pathname.match('^/studio/(?!example/)') || r.entryType === 'navigation')
            .reduce(([wire, whole], r) => [wire + r.transferSize, whole + r.decodedBodySize], [0, 0])"""
        )
        weights[screen] = {"wire": sizes[0], "whole": sizes[1]}
        context.close()
    return {**{name: median(values) for name, values in found.items()}, "rounds": rounds, "bytes": weights}


def scrubbing(browser: Browser, served: Served, count: int) -> dict[str, dict[str, float]]:
    """Milliseconds a step, until every view has drawn it: of Create's stage with its pictures, and of the microscope with its charts."""
    asked = {"prompt": [PROMPT], "seed": 1, "count": count, "steps": STEPS}
    id = served.wait(served.call("POST", "/v1/runs", {"request": asked, "record": "branches"})["id"])["id"]
    found = {}
    for name, path in (("create", "/create"), ("microscope", f"/run/{id}")):
        context = browser.new_context(base_url=served.url, viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.add_init_script(f"localStorage.setItem('safelight.current', JSON.stringify('{id}'))")
        page.goto(path)
        until(page, "document.querySelector('.dock .strip canvas')")
        page.wait_for_timeout(2000)
        times = page.evaluate(
            """async (n) => { const { setStep } = await import('/studio/js/filmstrip.js'), all = [];
            const next = () => new Promise((done) => requestAnimationFrame(done));
            setStep(0); await next(); await next();
            for (let i = 0; i < 10 * n; i++) {
              const k = Math.floor(i / n) % 2 ? n - 1 - (i % n) : i % n, began = performance.now();
              setStep(k);
              await next();
              await new Promise((done) => { const c = new MessageChannel(); c.port1.onmessage = done; c.port2.postMessage(0); });
              all.push([performance.now() - began, 0]);
              await next();
            }
            for (let i = 0; i < 10 * n; i++) {
              const began = performance.now();
              setStep(Math.floor(i / n) % 2 ? n - 1 - (i % n) : i % n);
              document.body.offsetHeight;
              all[i][1] = performance.now() - began;
              await next();
            }
            return all; }""",
            STEPS,
        )
        context.close()
        whole, script = sorted(t[0] for t in times), sorted(t[1] for t in times)
        at = int(0.95 * len(times))
        found[name] = {"script": median(script), "script_p95": script[at], "frame": median(whole), "frame_p95": whole[at]}
    return found


def watching(browser: Browser, served: Served, browsers: list[int], model: str, count: int, rounds: int) -> dict[str, Any]:
    """Ratios of a run in the page to the same run alone, paired; wall until the last live frame, and processor time until it is over."""
    alone = Alone(model, count)
    context = browser.new_context(base_url=served.url, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto("/create")
    until(page, "document.querySelector('#prompt')")
    rows: list[dict[str, float]] = []

    def here(seed: int) -> tuple[float, float, float]:
        form = {"prompt": PROMPT, "steps": STEPS, "count": count, "seed": seed, "locked": True}
        page.evaluate("(form) => import('/studio/js/store.js').then((s) => s.fill('form', s.FORM, form))", form)
        page.wait_for_timeout(600)
        before, looked = spent([served.process.pid]), spent(browsers)
        page.evaluate(_WATCH, STEPS - 1)
        wall = page.evaluate("window.__drawn.then((at) => at - window.__began)") / 1000
        until(page, "document.querySelector('.view .stage img.shot')")
        page.wait_for_timeout(300)
        return wall, since(before, spent([served.process.pid])), since(looked, spent(browsers))

    alone.run(0), here(0)
    for k in range(rounds):
        if k % 2:
            (wall, cpu), (shown, served_cpu, browser_cpu) = alone.run(k), here(1000 * count + k)
        else:
            shown, served_cpu, browser_cpu = here(1000 * count + k)
            wall, cpu = alone.run(k)
        rows.append({"alone": wall, "alone_cpu": cpu, "shown": shown, "served_cpu": served_cpu, "browser_cpu": browser_cpu})
    context.close()
    alone.stop()
    return {
        "alone": median([r["alone"] for r in rows]),
        "shown": median([r["shown"] for r in rows]),
        "wall": median([r["shown"] / r["alone"] for r in rows]),
        "cpu": median([r["served_cpu"] / r["alone_cpu"] for r in rows]),
        "cpu_with_browser": median([(r["served_cpu"] + r["browser_cpu"]) / r["alone_cpu"] for r in rows]),
        "rounds": rounds,
    }


def crowd(served: Served, clients: int = 8, jobs: int = 100) -> dict[str, float]:
    """Seconds until 100 runs of 8 clients at once are queued, and done; raises where one is lost or fails."""
    before = {run["id"] for run in served.call("GET", "/v1/jobs")["jobs"]}
    barrier = threading.Barrier(clients)

    def client(number: int) -> list[str]:
        barrier.wait()
        asked = [{"prompt": ["bag"], "seed": k, "steps": 1} for k in range(number, jobs, clients)]
        return [
            served.call("POST", "/v1/runs", {"model": "fashion-mnist", "request": one, "record": "preview"})["id"]
            for one in asked
        ]

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        ids = [id for several in pool.map(client, range(clients)) for id in several]
    queued = time.perf_counter() - began
    states = [served.wait(id)["state"] for id in ids]
    if len(set(ids) - before) != jobs or set(states) != {"done"}:
        raise RuntimeError(f"{jobs} jobs were asked for, {len(set(ids))} were queued, they ended as {sorted(set(states))}")
    return {"queued": queued, "done": time.perf_counter() - began}


@contextlib.contextmanager
def world() -> Iterator[tuple[Served, Browser, list[int]]]:
    """A server, a browser, and the browser's processes."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        served = Served(Path(folder))
        before = set(spent([os.getpid()]))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield served, browser, sorted(set(spent([os.getpid()])) - before)
        finally:
            browser.close()
            served.stop()


def main() -> int:
    """Measure and print; exit 1 where a budget is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("open", "scrub", "live", "jobs")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--model", default="sprites-small", help="the model of `live` (%(default)s, the default of the server)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    found: dict[str, Any] = {}
    kept: list[bool] = []
    with world() as (served, browser, browsers):
        if "open" in args.only:
            found["open"] = one = opening(browser, served, args.rounds)
            print(
                f"interactive after {one['fresh']:.0f} ms with a fresh profile, {one['again']:.0f} ms again (medians of {args.rounds})"
            )
            for screen, size in one["bytes"].items():
                print(f"  /{screen:<8} {size['whole'] / 1000:6.1f} kB, {size['wire'] / 1000:6.1f} kB over the wire")
            kept += [one["fresh"] < 1000, one["bytes"]["create"]["whole"] < 150_000]
            kept += [size["wire"] < 150_000 for size in one["bytes"].values()]
        if "scrub" in args.only:
            found["scrub"] = {}
            for count in (1, 4):
                found["scrub"][count] = scrubbing(browser, served, count)
                for name, ms in found["scrub"][count].items():
                    print(
                        f"a scrub, {count} picture{'s' * (count > 1)}, {name}: drawn in {ms['script']:.1f} ms, p95 {ms['script_p95']:.1f};"
                        f" to the end of the frame {ms['frame']:.1f} ms, p95 {ms['frame_p95']:.1f}"
                    )
                    kept.append(ms["script_p95"] < FRAME)
        if "live" in args.only:
            found["live"] = {}
            for count in (1, 4):
                found["live"][count] = one = watching(browser, served, browsers, args.model, count, args.rounds)
                print(
                    f"{STEPS} frames, {count} picture{'s' * (count > 1)}: {one['alone']:.2f} s alone, {one['shown']:.2f} s in the page;"
                    f" {one['wall']:.2f}x wall, {one['cpu']:.2f}x processor (with the browser {one['cpu_with_browser']:.2f}x)"
                )
                kept.append(one["wall"] < GOAL)
        if "jobs" in args.only:
            found["jobs"] = one = crowd(served)
            print(f"100 jobs of 8 clients at once: queued in {one['queued']:.1f} s, done after {one['done']:.1f} s, none lost")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
