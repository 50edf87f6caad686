"""What nvcc makes of the CUDA kernels: registers, spills, instructions per value of main loops.

    python benchmarks/ptxas.py [--arch 80 90] [--check] [--cuobjdump PATH]

Needs nvcc, no GPU. `--check` fails where a kernel spills registers. With cuobjdump (of the CUDA
toolkit, or of the triton wheel: triton/backends/nvidia/bin) the machine code is read as well: the
loop over rows, one way through it in which every row counts and every access is a vector, divided
by the values that a thread handles in one turn.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "csrc"
FILES = (
    "attention_received",
    "layer_norm",
    "magnitude_counts",
    "moments",
    "moments_columns",
    "rank_histogram",
    "segment_sums",
    "token_shape",
)

# Rows of more than 4096 columns fill the registers: there a few bytes are allowed to spill.
WIDE = re.compile(r"normalise_rows<\w+, 1024, ")
WIDE_SPILL_BYTES = 32

# Operations that the way through the loop must take as often as it can: vector accesses (.EF is
# evict first, as only those are), exchanges between lanes, and |h| - |pivot|.
WANTED = re.compile(r"LDG\S*\.EF|STG\S*\.128|SHFL|[FD]ADD \S+, [-|]*\|")
BRANCH = re.compile(r"^(@\S+ )?BRA\S*\s+(?:\S+, )?`?\(?0x([0-9a-f]+)")
LEAVES = re.compile(r"^(@\S+ )?(EXIT|RET|BRX|KILL)")


def compile_object(name, arch, folder):
    """Compile one source; returns the object and what ptxas said."""
    output = Path(folder) / f"{name}.{arch}.o"
    command = [
        "nvcc", f"-arch=sm_{arch}", "-std=c++17", "--expt-relaxed-constexpr", f"-I{SOURCES}",
        "-Xptxas", "-v", "-Xcompiler", "-Wno-unknown-pragmas", "-c",
        str(SOURCES / "cuda" / f"{name}.cu"), "-o", str(output),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(run.stderr)
    return output, run.stdout + run.stderr


@cache
def kernel_name(mangled):
    """Demangle to the name and template arguments, without namespaces."""
    full = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    full = full.strip().replace("(anonymous namespace)::", "").replace("outdim::cuda::", "")
    full = re.sub(r"\(Norms\)(\d)", lambda m: ("nothing", "input", "output")[int(m[1])], full)
    full = full.replace("__nv_bfloat16", "bfloat16").replace("__half", "float16")
    return re.sub(r"^void ", "", full).split("(")[0]


def resources(report):
    """Registers, bytes of spill stores and of static shared memory by kernel."""
    found, name, spilled = {}, "", 0
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            name = kernel_name(match[1])
        elif match := re.search(r"(\d+) bytes spill stores", line):
            spilled = int(match[1])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = (int(match[1]), spilled, int(shared[1]) if shared else 0)
    return found


def functions(cuobjdump, path):
    """Instructions [(address, text)] by kernel."""
    text = subprocess.run(
        [cuobjdump, "-sass", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found, code = {}, []
    for line in text.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            code = found.setdefault(kernel_name(match[1]), [])
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            code.append((int(match[1], 16), match[2]))
    return found


def blocks_of(code):
    """Basic blocks: {start: (instructions, wanted operations, successors)}."""
    addresses = [address for address, _ in code]
    ends = {a: addresses[i + 1] if i + 1 < len(code) else None for i, a in enumerate(addresses)}
    starts = {addresses[0]}
    for address, text in code:
        if match := BRANCH.match(text):
            starts |= {int(match[2], 16), ends[address]}
        elif LEAVES.match(text):
            starts.add(ends[address])
    blocks, start, size, wanted = {}, addresses[0], 0, 0
    for address, text in code:
        size += 1
        wanted += bool(WANTED.search(text))
        after = ends[address]
        branch, leaves = BRANCH.match(text), LEAVES.match(text)
        if branch or leaves or after in starts or after is None:
            successors = [int(branch[2], 16)] if branch else []
            ends_here = (branch and not branch[1]) or (leaves and not leaves[1])
            # A branch that is taken on a predicate given as an operand falls through as well.
            if ends_here and branch and re.match(r"BRA\S*\s+\S+, ", text):
                ends_here = False
            if not ends_here and after is not None:
                successors.append(after)
            blocks[start] = (size, wanted, successors)
            start, size, wanted = after, 0, 0
    return blocks


def best_way(blocks, header, latch):
    """Most wanted operations from the header of a loop to its latch, then fewest instructions."""
    way, active = {}, set()

    def visit(block):
        if block in way or block in active or block not in blocks:
            return way.get(block)
        active.add(block)
        size, wanted, successors = blocks[block]
        if block == latch:
            best = (0, 0)
        else:
            rest = [visit(s) for s in successors if s not in active and s != header]
            best = max((r for r in rest if r is not None), default=None)
        active.discard(block)
        way[block] = None if best is None else (best[0] + wanted, best[1] - size)
        if block == latch:
            way[block] = (wanted, -size)
        return way[block]

    return visit(header)


def loop_instructions(code):
    """Instructions of one turn of the innermost loop with vector loads."""
    blocks = blocks_of(code)
    found = []
    for start, (_, _, successors) in blocks.items():
        for target in successors:
            if target <= start and (way := best_way(blocks, target, start)):
                loads = sum(
                    bool(re.search(r"LDG\S*\.EF", text)) for a, text in code if target <= a <= start
                )
                if loads:
                    found.append((start - target, -way[1]))
    return min(found)[1] if found else 0


def values_per_turn(name):
    """Values that a thread handles in one turn of the loop over rows, as the sources lay it out."""
    kind, arguments = name.rstrip(">").split("<", 1)
    arguments = arguments.split(", ")
    float32 = arguments[0] == "float"
    if kind == "normalise_rows":
        if arguments[1] == "1024":
            return 16
        return 8 * (2 if float32 else 4) // (2 if arguments[2] == "true" else 1)
    if kind == "column_sums":
        columns = 2 if arguments[1] == "double" else 4
        words = columns * (4 if float32 else 2) // 4
        return columns * (2 if arguments[3] == "true" else 8 if words <= 2 else 4)
    return None


def write_limits(path, arch):
    """Registers and static shared memory by kernel, its types as the host's compiler names them."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        found = {}
        for _, report in pool.map(lambda name: compile_object(name, arch, folder), FILES):
            for name, (registers, _, shared) in resources(report).items():
                host = name.replace("bfloat16", "__nv_bfloat16")
                host = re.sub(r"\bfloat16", "__half", host)
                host = re.sub(r"(nothing|input|output)>", lambda m: m[0].capitalize(), host)
                found[host] = {"registers": registers, "shared_bytes": shared}
    path.write_text(json.dumps(found, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["80", "90"])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cuobjdump")
    parser.add_argument("--limits", type=Path, help="for tests/emulator: write this JSON and end")
    options = parser.parse_args()
    sys.setrecursionlimit(100_000)
    if options.limits:
        write_limits(options.limits, options.arch[0])
        return
    failed = False
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        for arch in options.arch:
            objects = pool.map(lambda name, a=arch: compile_object(name, a, folder), FILES)
            print(f"\nsm_{arch}\n\n| kernel | registers | spilled bytes | instructions per value |")
            print("| --- | --- | --- | --- |")
            for path, report in objects:
                code = functions(options.cuobjdump, path) if options.cuobjdump else {}
                for name, (registers, spilled, _) in sorted(resources(report).items()):
                    values = values_per_turn(name) if "<" in name and name in code else None
                    per_value = f"{loop_instructions(code[name]) / values:.1f}" if values else ""
                    print(f"| `{name}` | {registers} | {spilled} | {per_value} |")
                    failed |= spilled > (WIDE_SPILL_BYTES if WIDE.match(name) else 0)
    if failed and options.check:
        sys.exit("registers are spilled")


if __name__ == "__main__":
    main()
