"""Readers answer broken input with the library's own errors only."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.soak.fuzzing import guarded, seeds, targets
from tests.stress.soak.scale import LONG

# PyYAML is written in Python, and images are large; the others get a million runs
RUNS = {"image": 100_000, "safetensors": 100_000, "config": 100_000}
SHORT = 1_000


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Returns a copy with bytes changed, deleted, repeated, or replaced by odd values."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(changed) + 1)
        end = min(len(changed), start + generator.randint(1, 20))
        kind = generator.randrange(5)
        if kind == 0 and changed:
            changed[start % len(changed)] = generator.randrange(256)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = changed[start:end]
        elif kind == 3:
            odd = [b"NaN", b"1e999", b"-1", b"null", b"[]", b"{}", b"\0", b"\xff", b'"', b"9" * 400]
            changed[start:end] = generator.choice(odd)
        else:
            changed = changed[:start]
    return bytes(changed)


@pytest.mark.parametrize("name", sorted(seeds()))
def test_mutations(name, tmp_path):
    target = targets(tmp_path / "work")[name]
    generator = random.Random(name)
    refused = 0
    for content in seeds()[name]:
        guarded(target, content)
        for _ in range(SHORT):
            refused += not guarded(target, mutated(content, generator))
    assert refused > SHORT // 10


@pytest.mark.skipif(not LONG, reason="long: make soak")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", sorted(seeds()))
def test_guided_by_coverage(name):
    script = Path(__file__).with_name("fuzzing.py")
    command = [sys.executable, str(script), name, "--runs", str(RUNS.get(name, 1_000_000))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    print(done.stdout.strip())
    assert "refused by name" in done.stdout
