"""What tools/quality/ feeds the batteries, and how it reads them. `make quality` runs them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastinit
from fastinit import Key

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tools.quality import batteries, build, laws, results  # noqa: E402

SEED = 20260101


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    """The first words of a stream."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("feed")
    options = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wno-psabi"]
    source = ROOT / "tools" / "quality" / "feed.cpp"
    subprocess.run(["g++", *options, source, "-o", folder / "feed"], check=True)
    names = np.array([name_digest(name) for name in ("a", "b", "c")], dtype=np.uint64)
    (folder / "names").write_bytes(names.tobytes())

    def words(stream: str, count: int) -> np.ndarray:
        command = [folder / "feed", stream, str(SEED), folder / "names"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            data = process.stdout.read(4 * count)
            process.kill()
        return np.frombuffer(data, dtype=np.uint32)

    return words


def name_digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def low_bits(key: Key, count: int, start: int = 0) -> np.ndarray:
    """The 24 bits of a key's words that its uniforms show, from the extension."""
    region = fastinit.Region.flat((1 << 62,), start)
    u = fastinit.uniform_(torch.empty(count), key=key, region=region)
    return (u.double() * 2**24).long().numpy()


EXPECTED = {
    "key": lambda n: low_bits(Key(SEED), 64, 64 * n),
    "seeds": lambda n: low_bits(Key(SEED + n), 64),
    "integers": lambda n: low_bits(Key(SEED).fold_in(n), 64),
    "names": lambda n: low_bits(Key(SEED).fold_in("abc"[n % 3]), 64, n // 3 * 64),
    "rows": lambda n: low_bits(Key(SEED), 64, n << 20),
    "columns": lambda n: np.concatenate(
        [low_bits(Key(SEED), 1, (64 * n + i) << 16) for i in range(64)]
    ),
    "shared-key": lambda n: low_bits(Key(SEED + n // 2), 64),
}


@pytest.mark.parametrize("stream", EXPECTED)
def test_a_stream_is_what_the_extension_draws(feed, stream):
    words = feed(stream, 64 * 7)
    for n in range(7):
        np.testing.assert_array_equal(words[64 * n :][:64] & 0xFFFFFF, EXPECTED[stream](n))


def test_the_tree_is_split_keys(feed):
    words = feed("tree", 64 * 3)
    for leaf in range(3):
        key = Key(SEED)
        for level in reversed(range(32)):
            key = key.split(2)[leaf >> level & 1]
        np.testing.assert_array_equal(words[64 * leaf :][:64] & 0xFFFFFF, low_bits(key, 64))


def test_uniforms_are_packed_without_loss(feed):
    drawn = low_bits(Key(SEED), 1000)
    bits = np.unpackbits(feed("uniform32", 750).byteswap().view(np.uint8)).reshape(1000, 24)
    np.testing.assert_array_equal(bits @ (1 << np.arange(23, -1, -1)), drawn)
    bits = np.unpackbits(feed("uniform32-reversed", 750).byteswap().view(np.uint8))
    np.testing.assert_array_equal(bits.reshape(1000, 24) @ (1 << np.arange(24)), drawn)


@pytest.mark.parametrize(
    ("stream", "bits", "draw"),
    [
        ("normal32", 8, lambda: fastinit.normal_(torch.empty(4000), key=Key(SEED))),
        ("normal64", 32, lambda: fastinit.normal_(torch.empty(1000).double(), key=Key(SEED))),
        ("trunc32", 8, lambda: fastinit.trunc_normal_(torch.empty(4000), key=Key(SEED))),
        ("trunc64", 32, lambda: fastinit.trunc_normal_(torch.empty(1000).double(), key=Key(SEED))),
    ],
    ids=["normal32", "normal64", "trunc32", "trunc64"],
)
def test_values_go_back_to_uniforms(feed, stream, bits, draw):
    words = feed(stream, 1000)
    if bits == 8:
        words = words.byteswap().view(np.uint8)
    law = laws.normal if stream.startswith("normal") else laws.truncated
    below, _ = law(draw().double().numpy())
    expected = np.clip(np.floor(below * 2.0**bits), 0, 2.0**bits - 1)
    # The last place of erfc moves a value across an edge about once in 2^20.
    assert np.abs(words.astype(np.float64) - expected).max() <= 1
    assert np.mean(words != expected) < 0.001


def test_four_rounds_are_not_ten(feed):
    assert not np.any(feed("four-rounds", 1000) == feed("key", 1000))


def test_every_stream_is_described(feed):
    program = subprocess.run(
        [*feed.__closure__[0].cell_contents.glob("feed")], capture_output=True, text=True
    )
    assert program.stdout.split() == [*batteries.STREAMS, *batteries.SPOILED]


TESTU01 = "p\t0.25\tGap\np\t0.9999999\tMaxOft\nAll tests\np\t1e-12\tRun\n"
PRACTRAND = """
length= 16 megabytes (2^24 bytes), time= 0.8 seconds
  no anomalies in 119 test result(s)
length= 32 megabytes (2^25 bytes), time= 1.8 seconds
  Test Name                         Raw       Processed     Evaluation
  BCFN(2+4,13-6,T)                  R=+15282  p =  1e-6643    FAIL !!!!!!!!
  [Low1/32]Gap-16:A                 R=  +5.2  p = 1-9.1e-5   unusual
  ...and 117 test result(s) without anomalies
"""


def test_what_the_batteries_print_is_read():
    tails = [s.tail for s in batteries.read_testu01(TESTU01)]
    assert tails == pytest.approx([0.25, 1e-7, 1e-12])
    count, anomalies = batteries.read_practrand(PRACTRAND)
    assert count == 119 + 117 + 2
    assert [(s.name, s.tail) for s in anomalies] == [
        ("BCFN(2+4,13-6,T)", 0.0),
        ("[Low1/32]Gap-16:A", 9.1e-5),
    ]


def result(spoiled: bool, tail: float) -> results.Result:
    extremes = [results.Statistic("Gap", str(tail), tail)]
    return results.Result("x", "x 1", "s", spoiled, "1 GB", 0, 1.0, 144, extremes)


def test_a_verdict():
    assert result(False, 4.6e-4).as_it_should  # one of 144
    assert not result(False, 1e-9).as_it_should
    assert not result(False, float("nan")).as_it_should
    assert result(True, 1e-9).as_it_should
    assert not result(True, 4.6e-4).as_it_should
    assert "SHOULD NOT" in results.table([result(True, 0.1)])


@pytest.mark.parametrize(("a2", "p"), [(1.933, 0.10), (2.492, 0.05), (3.878, 0.01)])
def test_anderson_darling_has_the_published_points(a2, p):
    """Stephens 1974, table 1; the point of one per cent from Marsaglia and Marsaglia 2004."""
    assert laws.anderson_darling(a2) == pytest.approx(p, rel=2e-3)


def test_the_laws_hold_and_spoiled_ones_fail():
    found = list(laws.results(1 << 22, SEED))
    assert {r.stream for r in found if r.spoiled} == {"std off", "no tails", "one key for two"}
    assert [r.stream for r in found if not r.as_it_should] == []


def test_the_names_are_those_of_fold_in(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "LAYERS", 2)
    digests = np.frombuffer(build.write_names(tmp_path).read_bytes(), dtype=np.uint64)
    key = Key(SEED).fold_in("model.layers.1.self_attn.k_proj.weight")
    assert key == Key(SEED).fold_in(int(digests[len(build.PARTS) + 1]))
