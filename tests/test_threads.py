"""What other threads, signals, a lack of memory and very large tensors do to a fill: nothing.

test_fork.py has the child of a process that has filled. docs/reliability.md says how often more of
this was tried.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

import fastinit
from fastinit import Key, Region

THREADS = 1000
SIZES = [0, 1, 17, 255, 4096]


def run_threads(work, count=THREADS):
    """Run work(i) for all i at once; an exception in one of them is raised here."""
    start, errors = threading.Barrier(count), []

    def one(i):
        try:
            start.wait()
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def bits(tensor):
    return tensor.numpy().tobytes()


@pytest.mark.parametrize("default", [False, True], ids=["a generator", "the default generator"])
def test_a_thousand_threads_on_one_generator(default):
    """Each gets a key of its own, and together those that one thread would get in turn."""
    generator = torch.Generator()
    argument = {} if default else {"generator": generator}

    def seed():
        torch.manual_seed(5) if default else generator.manual_seed(5)

    def state():
        return torch.get_rng_state() if default else generator.get_state()

    seed()
    expected = Counter(bits(fastinit.normal_(torch.empty(64), **argument)) for _ in range(THREADS))
    assert set(expected.values()) == {1}
    after = state()
    seed()
    tensors = [torch.empty(64) for _ in range(THREADS)]
    run_threads(lambda i: fastinit.normal_(tensors[i], **argument))
    assert Counter(map(bits, tensors)) == expected
    torch.testing.assert_close(state(), after, rtol=0, atol=0)


def test_a_thousand_threads_with_keys():
    laws = [fastinit.uniform_, fastinit.normal_, fastinit.trunc_normal_]

    def fill(i, tensor):
        return laws[i % 3](tensor, key=Key(7).fold_in(i))

    sizes = [SIZES[i % len(SIZES)] for i in range(THREADS)]
    expected = [bits(fill(i, torch.empty(size))) for i, size in enumerate(sizes)]
    tensors = [torch.full((size,), -192.0) for size in sizes]
    run_threads(lambda i: fill(i, tensors[i]))
    assert [bits(tensor) for tensor in tensors] == expected


def test_threads_fill_parts_of_one_tensor():
    whole = fastinit.normal_(torch.empty(200, 333), key=3)
    shared = torch.full((200, 333), -192.0)
    run_threads(
        lambda i: fastinit.normal_(shared[i : i + 1], key=3, region=Region((200, 333), (i, 0))), 200
    )
    assert bits(shared) == bits(whole)


def test_threads_that_fill_in_parallel_themselves():
    expected = [bits(fastinit.normal_(torch.empty(1 << 17), key=i)) for i in range(16)]
    tensors = [torch.full((1 << 17,), -192.0) for _ in range(16)]
    run_threads(lambda i: fastinit.normal_(tensors[i], key=i), 16)
    assert [bits(tensor) for tensor in tensors] == expected


# In processes of their own: what they do to themselves would fall on other tests.


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


INTERRUPTED = """
import signal, torch, fastinit
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
expected = fastinit.trunc_normal_(torch.empty(300_000), key=1)
inside = 0
for attempt in range(20):
    w = torch.full((300_000,), -192.0)
    signal.setitimer(signal.ITIMER_REAL, 0.0002 * (1 + attempt % 5))
    filled = 0
    try:
        while True:
            fastinit.trunc_normal_(w, key=1)
            filled += 1
    except KeyboardInterrupt:
        pass
    untouched = bool((w == -192.0).all())
    assert untouched or torch.equal(w, expected), "half a fill"
    inside += not untouched
    assert torch.equal(fastinit.trunc_normal_(w, key=1), expected)
print(inside)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets timers")
def test_an_interrupt_leaves_no_half_of_a_fill():
    assert int(run(INTERRUPTED)) > 0


SIGNALLED = """
import signal, torch, fastinit
expected = fastinit.normal_(torch.empty(1 << 20), key=1)
signals = 0
def count(number, frame):
    global signals
    signals += 1
signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while signals < 50:
    w = torch.full((1 << 20,), -192.0)
    assert torch.equal(fastinit.normal_(w, key=1), expected)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets timers")
def test_signals_change_nothing():
    run(SIGNALLED)


OUT_OF_MEMORY = """
import resource, torch, fastinit
size = 4096
w = torch.full((size, size), -192.0)
expected = fastinit.normal_(torch.empty(1000), key=1)
small = fastinit.orthogonal_(torch.empty(64, 64), key=1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    fastinit.orthogonal_(w, key=1)
except RuntimeError as error:
    print(error)
else:
    raise SystemExit("there was memory")
assert bool((w.sum(0) == -192.0 * size).all()), "touched"
assert torch.equal(fastinit.normal_(torch.empty(1000), key=1), expected)
assert torch.equal(fastinit.orthogonal_(torch.empty(64, 64), key=1), small)
fastinit.normal_(w, key=1)  # needs none
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory")
def test_without_memory_a_matrix_is_refused_and_untouched():
    text = run(OUT_OF_MEMORY)
    assert re.search(r"4096 x 4096 .* there is no memory for one", text), text


FORKS = """
import os, threading, torch, fastinit
# Other operators of torch may wait in the child for the threads of the parent.
expected = fastinit.normal_(torch.empty(1 << 16), key=1).numpy().tobytes()
stop = threading.Event()
def work():
    w = torch.empty(1 << 16)
    while not stop.is_set():
        fastinit.normal_(w, key=1)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        w = fastinit.normal_(torch.empty(1 << 16), key=1)
        os._exit(0 if w.numpy().tobytes() == expected else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
assert codes == [0] * 10, codes
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_fork_while_other_threads_fill():
    run(FORKS)


def available_memory() -> int:
    path = Path("/proc/meminfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(r"MemAvailable:\s*(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


@pytest.mark.skipif(available_memory() < 7 << 30, reason="needs 7 GB of memory")
def test_five_billion_elements():
    """In memory beyond 2^31 and 2^32 elements; each place is filled alone for comparison."""
    count = 5_000_000_000
    w = torch.empty(count, dtype=torch.float8_e5m2)
    fastinit.normal_(w, key=9)
    for begin in (0, 2**31 - 500, 2**32 - 500, 3 * 2**30 + 1, count - 1000):
        part = torch.empty(1000, dtype=torch.float8_e5m2)
        fastinit.normal_(part, key=9, region=Region.flat((count,), begin))
        assert bits(w[begin : begin + 1000].view(torch.uint8)) == bits(part.view(torch.uint8))
    # Nothing was left out: the law leaves zeros, whose count is known, and new memory is zeros.
    sample = w[:: 1 << 12].float()
    assert float((sample == 0).float().mean()) < 1e-3
    assert float(sample.square().mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins threads")
def test_one_processor_for_many_threads():
    before = os.sched_getaffinity(0)
    expected = bits(fastinit.normal_(torch.empty(1 << 20), key=2))
    os.sched_setaffinity(0, {min(before)})
    try:
        assert bits(fastinit.normal_(torch.empty(1 << 20), key=2)) == expected
    finally:
        os.sched_setaffinity(0, before)
