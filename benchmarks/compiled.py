"""What an update costs on a TPU v5e and on an H100, read off the programs that XLA compiles for them without either.

The programs are compiled, not run. Of each one: the bytes that its kernels read from and write to device memory, which
is the time of an update that memory limits; the temporary memory of XLA's own analysis; the time to compile; and its
collectives. The ideal of `optax.adam` in float32 is 28 bytes per parameter: gradients, parameters and two moments read,
and all but the gradients written.
"""

import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import langevin_optax as lgv
from benchmarks import contenders, matrices, trees
from benchmarks.contenders import Contender, of_optax
from benchmarks.measures import Row
from benchmarks.timing import Quartiles

PLATFORMS = {"tpu": "TPU v5e", "gpu": "H100"}
H100 = Path(__file__).with_name("h100.txtpb")


class MissingError(Exception):
    """What has to be installed to compile for a platform."""


class Program(NamedTuple):
    """What XLA made of an update."""

    moved: int  # bytes
    temporary: int  # bytes
    seconds: float  # to compile, without lowering
    collectives: int
    products: int  # of matrices


def devices(platform: str) -> Sequence[Any]:
    """Devices to compile for: 4 chips of a TPU v5e, or one H100. Raises MissingError."""
    try:
        if platform == "tpu":
            import libtpu

            # It would look for the machine that it is on.
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
            os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
            os.environ.setdefault("TPU_LIBRARY_PATH", str(Path(libtpu.__file__).with_name("libtpu.so")))
            return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
        jax.devices()  # registers what plugins are installed
        if not (cuda() / "nvvm").exists():
            raise MissingError(
                f"--compiled gpu needs the CUDA toolkit (ptxas and libdevice), and there is none in {cuda()}: "
                "set CUDA_HOME."
            )
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=H100.read_text(), topology="1x1x1"
        )
        return topology.devices
    except (ImportError, RuntimeError, ValueError) as error:  # what JAX raises for a platform that it does not know
        raise MissingError(
            f"--compiled {platform} needs the compiler of its platform: pip install '.[aot]' ({error})"
        ) from error


def cuda() -> Path:
    """The folder of the CUDA toolkit."""
    if "CUDA_HOME" in os.environ:
        return Path(os.environ["CUDA_HOME"])
    ptxas = shutil.which("ptxas")
    found = Path(ptxas).resolve().parents[1] if ptxas else Path("/usr/local/cuda")
    return found if (found / "nvvm").exists() else Path("/usr/local/cuda")


def compiled(
    contender: Contender, params: Any, sharding_of: Callable[[Any], Any], platform: str, count_bytes: bool = True
) -> Program:
    """The step in place, from parameters and state, which are donated, and gradients to new ones."""

    def place(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(leaf))

    carry = jax.tree.map(place, jax.eval_shape(contender.start, params))
    options: Any = {"xla_gpu_cuda_data_dir": str(cuda()), "xla_gpu_autotune_level": 0} if platform == "gpu" else None
    lowered = (
        jax.jit(contender.step, donate_argnums=0)
        .trace(carry, jax.tree.map(place, params))
        .lower(lowering_platforms=("cuda" if platform == "gpu" else platform,))
    )
    jax.clear_caches()
    start = time.perf_counter()
    program = lowered.compile(options)
    seconds = time.perf_counter() - start
    hlo, memory = program.as_text(), program.memory_analysis()
    assert memory is not None
    collectives = r"(?:all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
    products = r"= [^=]* (?:dot|convolution)\(|custom_call_target=\"__cublas"
    return Program(
        moved(hlo) if count_bytes else 0,
        memory.temp_size_in_bytes,
        seconds,
        len(re.findall(collectives, hlo)),
        len(re.findall(products, hlo)),
    )


# How many bytes a program moves.

_ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\](\{[^}]*\})?")
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "partition-id"}
_UNKNOWN = ("while", "call", "async")  # what is within them is not counted
_SLICES = {"dynamic-slice", "slice", "gather"}
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")


class Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    rest: str  # arguments and attributes

    @property
    def arguments(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])


def moved(hlo: str) -> int:
    """Bytes that the instructions of the entry computation read from and write to device memory.

    What lies in the memory of the chip (a TPU's memory spaces S(1) and up) is not counted, and its prefetch once. Of an
    array of which a fusion reads slices only, the slices are; of the branches of a conditional the dearest one.
    """
    return round(_moved("ENTRY", _computations(hlo)))


def _moved(computation: str, computations: dict[str, list[Instruction]]) -> float:
    sizes: dict[str, float] = {}
    total = 0.0
    for instruction in computations[computation]:
        sizes[instruction.name] = _device_bytes(instruction.shape)
        if instruction.opcode.startswith(_UNKNOWN):
            raise ValueError(f"the bytes of {instruction.opcode} are not counted: {instruction.name}")
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        if instruction.opcode == "conditional":
            branches = re.findall(
                r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=([^,\s]+)", instruction.rest
            )
            names = [name.strip(" %") for pair in branches for name in "".join(pair).split(",")]
            total += max(_moved(name, computations) for name in names)
            continue
        if instruction.opcode in ("copy-start", "slice-start"):  # of both ends the smaller one moves
            ends = [match.group(0) for match in list(_ARRAY.finditer(instruction.shape))[:2]]
            size = min(_device_bytes(re.sub(r"S\(\d+\)", "", end)) for end in ends)
            total += sum(size for end in ends if "S(" not in end)
            continue
        total += sizes[instruction.name]
        if instruction.opcode in _SLICES:
            total += sizes[instruction.name]
            continue
        called = re.search(r"calls=%?([\w.\-]+)", instruction.rest)
        body = computations[called.group(1)] if called and instruction.opcode == "fusion" else []
        for number, argument in enumerate(instruction.arguments):
            total += min(sizes.get(argument, 0), _sliced(body, number))
    return total


def _computations(hlo: str) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {}
    for head, body in re.findall(r"^(ENTRY |%?[\w.\-]+ )[^\n]*\{\n(.*?)^\}", hlo, re.DOTALL | re.MULTILINE):
        lines = (_LINE.match(line) for line in body.splitlines())
        found[head.strip().lstrip("%")] = [Instruction(*line.groups()) for line in lines if line]
    return found


def _sliced(body: Sequence[Instruction], number: int) -> float:
    """Bytes of the slices in which a fusion reads its operand of this number; infinite if it reads all of it."""
    names = {i.name for i in body if i.opcode == "parameter" and i.rest.startswith(f"{number})")}
    total = 0.0
    for instruction in body:
        if not names.intersection(instruction.arguments):
            continue
        if instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif instruction.opcode in _SLICES and instruction.arguments[0] in names:
            total += _device_bytes(instruction.shape)
        else:
            return math.inf
    return total if names else math.inf


def _device_bytes(shape: str) -> float:
    total = 0.0
    for dtype, dims, layout in _ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)
        size = int(bits.group(0)) / 8 if bits else 1  # a pred is a byte
        if "S(" not in layout:
            total += size * math.prod(int(n) for n in dims.split(",") if n)
    return total


# The cases.


def transformer(blocks: int = 6, width: int = 1024) -> Any:
    """42 leaves, 75 million parameters: attention, and a dense part of four times the width."""

    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    block = {name: leaf(width, width) for name in ("query", "key", "value", "out")}
    block |= {"up": leaf(width, 4 * width), "down": leaf(4 * width, width), "scale": leaf(width)}
    return {f"block_{i}": block for i in range(blocks)}


def one_leaf(dtype: Any = jnp.float32) -> Any:
    return {"kernel": jax.ShapeDtypeStruct((2560, 4096), dtype)}


def highway(layers: int) -> Any:
    return jax.eval_shape(lambda: trees.highway(layers))


ADAMS = [contenders.ADAM, contenders.NORMAL, contenders.RADEMACHER, contenders.THREE_POINT]
FIRST = contenders.layer_langevin(lgv.layer_mask(0.3))
CASES: dict[str, tuple[Callable[[], Any], list[Contender]]] = {
    "1 leaf, 2560 × 4096": (one_leaf, [*ADAMS, contenders.NOISY_SGD]),
    "the same in bfloat16": (lambda: one_leaf(jnp.bfloat16), ADAMS),
    "transformer, 42 leaves": (transformer, [*ADAMS, FIRST, contenders.NOISY_SGD]),
    "highway 8, 32 leaves": (lambda: highway(8), [*ADAMS, FIRST, contenders.NOISY_SGD]),
    "highway 80, 320 leaves": (lambda: highway(80), ADAMS),
}
SLOW = {"tpu": ["highway 80, 320 leaves"], "gpu": []}  # minutes to compile


def every_optimizer() -> Iterator[tuple[str, list[Contender]]]:
    """Aliases of Optax, each beside its Langevin version."""
    rate, sigma = contenders.RATE, contenders.SIGMA
    names = (
        "sgd adam adamw nadam nadamw amsgrad adamax adamaxw adabelief yogi radam rmsprop adagrad adadelta adan lamb "
        "lars novograd adafactor sm3 fromage optimistic_gradient_descent"
    )
    contrib = "acprop ademamix simplified_ademamix adopt prodigy dadapt_adamw"
    aliases = {name: getattr(optax, name) for name in names.split()}
    aliases |= {name: getattr(optax.contrib, name) for name in contrib.split()}
    for name, alias in aliases.items():
        noisy = lgv.langevin(alias, sigma, 0)(rate)
        yield name, [of_optax(f"optax.{name}", alias(rate)), of_optax(f"langevin(optax.{name})", noisy)]


def integrators() -> list[Contender]:
    """Their momenta are read and written: of BAOAB 20 bytes per parameter, of Euler–Maruyama 12."""
    found = {
        "overdamped_langevin": lgv.overdamped_langevin(1e-3, 1e-4, 0),
        "baoab": lgv.baoab(1e-3, 1e-4, 1.0, 0),
        "adaptive_langevin": lgv.adaptive_langevin(1e-3, 1e-3, 1.0, 1e-6, 0),
    }
    return [of_optax(f"lgv.{name}", tx) for name, tx in found.items()]


def rows(platform: str) -> Iterator[Row]:
    """The tables of one platform. Raises MissingError."""
    chips = devices(platform)
    name = PLATFORMS[platform]

    def alone(leaf):
        return SingleDeviceSharding(chips[0])

    for case, (make, entries) in CASES.items():
        if case in SLOW[platform]:
            continue
        yield from _compared(f"{name}: {case}", entries, make(), alone, platform)
    if platform == "tpu":
        mesh = Mesh(np.array(chips), ("data",))

        def sharded(leaf):
            spec = PartitionSpec("data") if leaf.shape and leaf.shape[0] % len(chips) == 0 else PartitionSpec()
            return NamedSharding(mesh, spec)

        yield from _compared(f"{name}: transformer, sharded over 4", ADAMS, transformer(2), sharded, platform)
    for case, entries in [*every_optimizer(), ("integrators", [contenders.ADAM, *integrators()])]:
        compared = _compared(f"{name}: {case}, 1 leaf", entries, one_leaf(), alone, platform)
        yield from (row for row in compared if row.measure == "bytes moved")
    if platform == "gpu":  # to compile the eigenvectors of one matrix for a TPU takes more than eight minutes
        params = matrices.dense_layers(2)
        for contender in matrices.entries(params, 10)[2:]:
            program = compiled(contender, params, alone, platform, count_bytes=False)
            note = f"2 dense layers; temporary memory {program.temporary:,} bytes; compiled in {program.seconds:.1f} s"
            yield Row("matrix products", f"{name}: the whole program", contender.name, program.products, note=note)


def _compared(
    case: str, entries: Sequence[Contender], params: Any, sharding_of: Callable[[Any], Any], platform: str
) -> Iterator[Row]:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    programs = {c.name: compiled(c, params, sharding_of, platform) for c in entries}
    first = programs[entries[0].name]
    for name, program in programs.items():
        ratio = Quartiles(*3 * [program.moved / first.moved])
        note = f"{program.moved / size:.2f} × the parameters; {program.collectives} collectives"
        yield Row("bytes moved", case, name, program.moved, ratio, note)
    for name, program in programs.items():
        note = f"{program.temporary / size:.1%} of the parameters"
        yield Row("temporary memory", case, name, program.temporary, note=note)
    for name, program in programs.items():
        yield Row("compile", case, name, program.seconds, Quartiles(*3 * [program.seconds / first.seconds]))
