"""Damage sparse files in every way we can think of and watch what the loader does with them.

    python benchmarks/fuzz_sparse_file.py --mutations 10000 --seed 0

Every load must succeed or raise SparseFileError, quickly and with little memory. The loads run in child
processes with a limit on their address space, so that a crash is seen as a crash and a hang as a hang. Exit
code 1 if any load did anything else. Mutation i of a seed is always the same: `case(seed, i)`. Runs on Linux.
"""

import argparse
import copy
import hashlib
import json
import multiprocessing
import platform
import random
import re
import resource
import shlex
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor, nn

from dirprune.core.atomic import write_json
from dirprune.errors import SparseFileError
from dirprune.export import load_sparse, save_sparse
from dirprune.export.sparse_layout import encode

KEY = "dirprune-sparse"
BYTES_PER_BYTE = 512  # twice what a file may unfold to
ALLOWANCE = 2**20  # interpreter objects, whatever the size of the file
ADDRESS_SPACE = 2**30  # what a child may map beyond what it has when it starts
BATCH = 500  # loads in one child
GOOD = {"loaded", "refused"}

Load = Callable[[Path], object]


# ---- honest files ----


@cache
def corpus() -> tuple[bytes, ...]:
    """A small network with tied weights, a mix of dtypes and shapes, a large one, a tiny one, all honest."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16)
    )
    model[4].weight = model[3].weight
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand_like(parameter) < 0.9] = 0.0
    sparse = (torch.rand(13, 11) < 0.1).float()
    dtypes = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int32", "bool"]
    mixed = {name: sparse.to(getattr(torch, name)) for name in dtypes}
    mixed |= {"scalar": torch.tensor(0.0), "empty": torch.zeros(0, 3), "dense": torch.randn(3, 5, 2)}
    large = (torch.rand(300, 200) < 0.02).float()
    plain = [content_of(state) for state in (model, mixed, {"large": large}, {"zeros": torch.zeros(50)})]
    packed = [content_of(state, values="bf16", compress=True) for state in (mixed, {"large": large})]
    old = [
        encode(state, "same", compress=False, indices=("bitmask",))[0] for state in (mixed, {"large": large})
    ]
    return (*plain, *packed, *(as_version(1, content) for content in old), as_version(2, old[1]))


def content_of(state: nn.Module | dict[str, Tensor], **options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return save_sparse(state, Path(folder) / "file", **options).path.read_bytes()


def as_version(version: int, content: bytes) -> bytes:
    """The same file, of bitmasks only, as an earlier version of the format had it."""
    parts = Parts.of(content)
    parts.description["version"] = version
    if version == 1:
        del parts.description["sha256"]
    return parts.build()


@dataclass
class Parts:
    """A sparse file taken apart, so that it can be put together again with a lie in it."""

    header: dict[str, Any]
    description: Any
    data: bytes

    @classmethod
    def of(cls, content: bytes) -> "Parts":
        """Take an honest file apart."""
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        return cls(header, json.loads(header.pop("__metadata__")[KEY]), content[end:])

    def build(self) -> bytes:
        """Put the parts together, by the layout of safetensors, with a checksum that fits the lie."""
        if isinstance(self.description, dict) and "sha256" in self.description:
            entries = json.dumps(self.description.get("entries"), separators=(",", ":"))
            self.description["sha256"] = hashlib.sha256(entries.encode() + self.data).hexdigest()
        text = self.description if isinstance(self.description, str) else json.dumps(self.description)
        header = {"__metadata__": {KEY: text}, **self.header}
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw + self.data


# ---- damage to the bytes ----


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_header_bits(rng: random.Random, content: bytes) -> bytes:
    end = min(len(content), 8 + int.from_bytes(content[:8], "little"))
    return flip_bits(rng, content[:end]) + content[end:]


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[
        : rng.choice([rng.randrange(len(content)), rng.randrange(min(len(content), 16)), len(content) - 1])
    ]


def insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.choice([rng.randrange(len(content)), len(content)])
    return content[:at] + rng.randbytes(rng.choice([1, 2, 8, 1000])) + content[at:]


def delete(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice([1, 2, 8, 100]) :]


def repeat(rng: random.Random, content: bytes) -> bytes:
    start, end = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:end] + content[start:]


def splice(rng: random.Random, content: bytes) -> bytes:
    other = rng.choice(corpus())
    return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]


def header_length(rng: random.Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    odd = [0, 1, 7, 2**31, 2**32, 2**63, 2**64 - 1, len(content), len(content) - 8, 100_000_001]
    lie = rng.choice([*odd, length + rng.randint(-9, 9)])
    return (lie % 2**64).to_bytes(8, "little") + content[8:]


def noise(rng: random.Random, content: bytes) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 7, 8, 9, len(content)]))


# ---- lies in the header, the description, or both ----

ODD_VALUES = [
    *(None, True, False, -1, 0, 1, 2, 7, 2**31, 2**32 - 1, 2**60, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e308),
    *(
        "",
        "F32",
        "F64",
        "U8",
        "BOOL",
        "F4",
        "dense",
        "bitmask",
        "elias-fano",
        "alias",
        "zip",
        "float32",
        "\ud800",
        "x" * 5000,
    ),
    *(
        [],
        {},
        [[]],
        [0],
        [-1],
        [2**40, 2**40],
        [2**62],
        [1] * 65,
        [0, 2**62, 2**62],
        [True],
        [1.0],
        {"name": "a"},
    ),
]
ODD_TEXTS = [
    *(
        "",
        "null",
        "[]",
        "{",
        "1" * 5000,
        "[" * 100_000,
        '{"version":' * 50_000,
        '{"version":1}',
        '{"version":2,"sha256":"","entries":[]}',
        "NaN",
        "\x00",
    ),
    *('{"version":1,"entries":[]}', '{"version":2}', '{"version":1,"entries":[' + "[]," * 20_000 + "[]]}"),
    '{"version":1,"entries":[' + ",".join(['{"name":"a","encoding":"alias","target":"a"}'] * 500) + "]}",
]


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON tree."""
    pairs = (
        list(tree.items())
        if isinstance(tree, dict)
        else list(enumerate(tree))
        if isinstance(tree, list)
        else []
    )
    return [(tree, key) for key, _ in pairs] + [place for _, value in pairs for place in places(value)]


def replace_value(rng: random.Random, tree: Any) -> None:
    if spots := places(tree):
        container, key = rng.choice(spots)
        container[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def describe_oddly(rng: random.Random, parts: Parts) -> None:
    replace_value(rng, parts.description)


def describe_in_odd_text(rng: random.Random, parts: Parts) -> None:
    parts.description = rng.choice(ODD_TEXTS)


def head_oddly(rng: random.Random, parts: Parts) -> None:
    replace_value(rng, parts.header)


def entries_of(parts: Parts) -> list[Any]:
    """The list of entries, or a list of its own where earlier damage has left none."""
    entries = parts.description.get("entries") if isinstance(parts.description, dict) else None
    return entries if isinstance(entries, list) and entries else [{}]


def shuffle_entries(rng: random.Random, parts: Parts) -> None:
    entries = entries_of(parts)
    chosen = rng.choice(entries)
    rng.choice(
        [
            lambda: rng.shuffle(entries),
            lambda: entries.remove(chosen),
            lambda: entries.append(copy.deepcopy(chosen)),
        ]
    )()


def lie_about_an_entry(rng: random.Random, parts: Parts) -> None:
    entries = entries_of(parts)
    entry, other = rng.choice(entries), rng.choice(entries)
    if not isinstance(entry, dict) or not isinstance(other, dict):
        return
    shape = entry.get("shape")
    lies = [
        {"encoding": rng.choice(["dense", "bitmask", "elias-fano", "alias"])},
        {"count": rng.choice([entry.get("count"), 0, 1, 2, 1200, *ODD_VALUES])},
        {"low_bits": rng.choice([0, 1, 3, 4, 5, 32, *ODD_VALUES])},
        {"dtype": rng.choice(["F64", "F32", "F16", "BF16", "F8_E5M2", "I64", "I8", "BOOL", "U8", "C64"])},
        {"name": other.get("name")},
        {"extra": rng.choice(ODD_VALUES)},
        {"values": rng.choice(["F16", "BF16", "F32", "U8", *ODD_VALUES])},
        {"zstd": rng.choice([True, True, False, 1, None])},
        {"shape": [*(shape if isinstance(shape, list) else []), rng.choice([0, 1, 2, 3, 1000, 2**40])]},
        {"shape": shape[::-1] if isinstance(shape, list) else 3},
    ]
    entry.update(copy.deepcopy(rng.choice(lies)))
    if rng.random() < 0.2:
        entry.clear()
        entry.update({"name": "tied", "encoding": "alias", "target": other.get("name")})


def tensors_of(parts: Parts) -> list[str]:
    return [key for key, value in parts.header.items() if isinstance(value, dict)]


def swap_tensors(rng: random.Random, parts: Parts) -> None:
    """Give two stored tensors each other's place in the data, or each other's whole record."""
    if not (keys := tensors_of(parts)):
        return
    a, b = parts.header[rng.choice(keys)], parts.header[rng.choice(keys)]
    for field in rng.choice([["data_offsets"], ["shape"], ["dtype"], ["data_offsets", "shape", "dtype"]]):
        a[field], b[field] = b.get(field), a.get(field)


def rename_tensor(rng: random.Random, parts: Parts) -> None:
    if keys := tensors_of(parts):
        key = rng.choice(keys)
        record = parts.header.pop(key)
        parts.header[
            rng.choice([key + "x", key.replace("mask", "values"), "", "__metadata__", rng.choice(keys)])
        ] = record


def agree_on_a_lie(rng: random.Random, parts: Parts) -> None:
    """Change the shape of an entry in the header and the description alike."""
    entry = rng.choice(entries_of(parts))
    if not isinstance(entry, dict):
        return
    shape = rng.choice(
        [[2**50], [2**30, 2**30, 2**30], [0, 2**50], [1], [], [2**63, 0], [143], [144], [60_001]]
    )
    entry["shape"] = list(shape)
    record = parts.header.get(f"dense:{entry.get('name')}")
    if isinstance(record, dict):
        record["shape"] = list(shape)
    mask = parts.header.get(f"mask:{entry.get('name')}")
    if isinstance(mask, dict) and rng.random() < 0.5:
        mask["shape"] = [-(-int(np.prod(shape, dtype=object)) // 8)]


def flip_stored_bits(rng: random.Random, parts: Parts) -> None:
    """Damage one stored tensor only: masks that no longer fit their values, padding bits, odd booleans."""
    spans = [r.get("data_offsets") for r in parts.header.values() if isinstance(r, dict)]
    spans = [s for s in spans if isinstance(s, list) and len(s) == 2 and all(type(o) is int for o in s)]
    spans = [s for s in spans if 0 <= s[0] < s[1] <= len(parts.data)]
    if spans:
        start, end = rng.choice(spans)
        parts.data = parts.data[:start] + flip_bits(rng, parts.data[start:end]) + parts.data[end:]


DAMAGE = [flip_bits, flip_header_bits, truncate, insert, delete, repeat, splice, header_length, noise]
LIES = [
    *(describe_oddly, describe_oddly, describe_in_odd_text, head_oddly, shuffle_entries, lie_about_an_entry),
    *(lie_about_an_entry, swap_tensors, rename_tensor, agree_on_a_lie, flip_stored_bits),
]


def case(seed: int, index: int) -> tuple[list[str], bytes]:
    """The damaged file of one mutation, and the names of what was done to an honest one."""
    rng = random.Random(f"{seed}-{index}")
    content = rng.choice(corpus())
    done: list[str] = []
    if rng.random() < 0.8:
        parts = Parts.of(content)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            lie = rng.choice(LIES)
            lie(rng, parts)
            done.append(lie.__name__)
        content = parts.build()
    if not done or rng.random() < 0.1:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            damage = rng.choice(DAMAGE)
            content = damage(rng, content) if content else content
            done.append(damage.__name__)
    return done, content


# ---- the watch ----


@dataclass(frozen=True)
class Result:
    """What the loader did with one damaged file."""

    index: int
    damage: list[str]
    outcome: str
    message: str = ""
    seconds: float = 0.0
    size: int = 0
    allocated: int = 0


def attempt(load: Load, path: Path, seed: int, index: int) -> Result:
    """Load one damaged file in this process and judge what happens."""
    damage, content = case(seed, index)
    path.write_bytes(content)
    message = ""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.perf_counter()
    try:
        load(path)
        outcome = "loaded"
    except SparseFileError as error:
        message = str(error).removeprefix(f"{path}: ")
        outcome = "refused" if len(message) < 1000 and "\n" not in message else "unclear message"
    except BaseException as error:  # any other exception at all is the finding
        outcome, message = f"foreign {type(error).__name__}", str(error)[:200]
    seconds = time.perf_counter() - start
    allocated = tracemalloc.get_traced_memory()[1] - before
    if outcome in GOOD and allocated > BYTES_PER_BYTE * len(content) + ALLOWANCE:
        outcome = "oversized allocation"
    return Result(index, damage, outcome, message, seconds, len(content), allocated)


def child(load: Load, path: Path, seed: int, indices: list[int], results: Connection) -> None:
    """Attempt several mutations under a limit on memory and send each result as it comes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tracemalloc.start()
    for index in indices:
        results.send(attempt(load, path, seed, index))


def watch(load: Load, path: Path, seed: int, indices: list[int], patience: float) -> Iterator[Result]:
    """Results of a batch in a child of its own, up to the one that crashed or hung, which ends the batch."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=child, args=(load, path, seed, indices, theirs))
    process.start()
    theirs.close()
    for index in indices:
        if not ours.poll(patience):
            process.kill()
            yield Result(index, case(seed, index)[0], "hang", seconds=patience)
            break
        try:
            yield ours.recv()
        except EOFError:
            process.join()
            yield Result(index, case(seed, index)[0], "crash", f"exit code {process.exitcode}")
            break
    process.join()
    ours.close()


def fuzz(mutations: int, seed: int, load: Load = load_sparse, patience: float = 10.0) -> list[Result]:
    """The results of mutations 0 to `mutations` - 1 of a seed."""
    corpus()  # made before the children start, so that none spends its patience on it
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        while len(results) < mutations:
            indices = list(range(len(results), min(len(results) + BATCH, mutations)))
            results.extend(watch(load, Path(folder) / "file", seed, indices, patience))
    return results


# ---- the record ----


def environment() -> dict[str, str]:
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.machine(),
    }


def record(results: list[Result], seed: int) -> dict[str, Any]:
    """Counts, extremes, and each load that did what no load may do."""
    slowest = max(results, key=lambda r: r.seconds)
    largest = max(results, key=lambda r: r.allocated)
    outcomes = Counter(r.outcome for r in results)
    by_damage: dict[str, Counter[str]] = {}
    for result in results:
        for name in set(result.damage):
            by_damage.setdefault(name, Counter())[result.outcome] += 1
    # names and numbers left out, to show how far into the loader's checks the mutations reach
    reasons = Counter(
        re.sub(r"'.*'|\".*\"|\d+|\[.*|\{.*", "_", r.message) for r in results if r.outcome == "refused"
    )
    return {
        "mutations": len(results),
        "seed": seed,
        "outcomes": dict(outcomes.most_common()),
        "slowest_load": {
            "seconds": round(slowest.seconds, 4),
            "index": slowest.index,
            "file_bytes": slowest.size,
        },
        "largest_allocation": {
            "bytes": largest.allocated,
            "index": largest.index,
            "file_bytes": largest.size,
        },
        "allowed_allocation": f"{BYTES_PER_BYTE} x the file's size + {ALLOWANCE} bytes",
        "failures": [vars(r) for r in results if r.outcome not in GOOD],
        "by_damage": {name: dict(counts.most_common()) for name, counts in sorted(by_damage.items())},
        "refusals": dict(reasons.most_common()),
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Load damaged sparse files and count what happens.")
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fuzz_sparse_file.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked child must find no pool of threads that it does not have
    report = record(fuzz(options.mutations, options.seed), options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, report)
    print(
        json.dumps({key: report[key] for key in ("outcomes", "slowest_load", "largest_allocation")}, indent=2)
    )
    return 0 if set(report["outcomes"]) == GOOD else 1  # all refused or all loaded would be no fuzzing


if __name__ == "__main__":
    sys.exit(main())
