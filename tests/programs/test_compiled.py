"""The programs that XLA makes for a TPU and a GPU: compiled, not run. Skipped where their compilers are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import langevin_optax as lgv
from benchmarks import compiled, contenders
from benchmarks.__main__ import main
from benchmarks.contenders import of_optax

HLO = """
HloModule step

%sliced (p0: f32[4,100], p1: s32[]) -> f32[1,100] {
  %p0 = f32[4,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,100}
}

%added (p0: f32[100], p1: f32[100]) -> (f32[100], bf16[100]) {
  %p0 = f32[100]{0} parameter(0)
  %p1 = f32[100]{0} parameter(1)
  %sum = f32[100]{0} add(%p0, %p1)
  %half = bf16[100]{0} convert(%sum)
  ROOT %both = (f32[100]{0}, bf16[100]{0}) tuple(%sum, %half)
}

ENTRY %main (x: f32[100], y: f32[4,100], i: s32[]) -> (f32[100], bf16[100]) {
  %x = f32[100]{0} parameter(0)
  %y = f32[4,100]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %row = f32[1,100]{1,0} fusion(%y, %i), kind=kLoop, calls=%sliced
  %flat = f32[100]{0} bitcast(%row)
  %start = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[100]{0:S(1)} copy-done(%start)
  ROOT %sum = (f32[100]{0}, bf16[100]{0}) fusion(%near, %flat), kind=kLoop, calls=%added
}
"""


def test_bytes_are_those_counted_by_hand():
    row = 400 + 4 + 400  # the slice, its number, and what is written
    prefetch = 400  # x is read; its copy lies on the chip
    total = 400 + 400 + 200  # the row, and two results
    assert compiled.moved(HLO) == row + prefetch + total
    whole = HLO.replace("dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,100}", "reduce(%p0, %zero)")
    assert compiled.moved(whole) == row + 1200 - 4 + prefetch + total  # now all of y is read, and no number


def test_of_branches_the_dearest_is_counted():
    branch = """
%small (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p)
}

%large (p: f32[100]) -> f32[8] {
  %p = f32[100]{0} parameter(0)
  ROOT %r = f32[8]{0} reduce(%p), to_apply=%x
}

ENTRY %main (c: s32[], a: f32[8], b: f32[100]) -> f32[8] {
  %c = s32[] parameter(0)
  %a = f32[8]{0} parameter(1)
  %b = f32[100]{0} parameter(2)
  ROOT %cond = f32[8]{0} conditional(%c, %a, %b), branch_computations={%small, %large}
}
"""
    pair = "true_computation=%large, false_computation=%small"
    for program in (branch, branch.replace("branch_computations={%small, %large}", pair)):
        assert compiled.moved(program) == 400 + 32


@pytest.mark.parametrize("opcode", ["while", "call", "async-start"])
def test_what_cannot_be_counted_is_refused(opcode):
    with pytest.raises(ValueError, match=f"the bytes of {opcode} are not counted: sum"):
        compiled.moved(
            HLO.replace("fusion(%near, %flat), kind=kLoop, calls=%added", f"{opcode}(%near, %flat), body=%added")
        )


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(compiled.MissingError, match=r"CUDA toolkit .* none in .*: set CUDA_HOME"):
        compiled.devices("gpu")
    with pytest.raises(SystemExit, match=r"error: --compiled gpu needs the CUDA toolkit"):
        main(["--compiled", "gpu", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        main(["--compiled", "gpu", "--seconds", "1"])


def test_the_tables_are_those_of_the_programs(monkeypatch, tmp_path, capsys):
    """Without compilers: each program moves as many bytes as its state has."""

    def program(contender, params, sharding_of, platform, count_bytes=True):
        state = jax.eval_shape(contender.start, params)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf.ndim)
        return compiled.Program(size, 1000, 0.5, 0, 0)

    monkeypatch.setattr(compiled, "compiled", program)
    monkeypatch.setattr(compiled, "devices", lambda name: jax.devices()[:1])
    main(["--compiled", "gpu", "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| H100: 1 leaf, 2560 × 4096 | lgv.adam, normal | 125,829,120 bytes | 1.00 |" in text
    assert "| H100: integrators, 1 leaf | lgv.overdamped_langevin | 41,943,040 bytes | 0.33 |" in text
    for name in ("adafactor", "ademamix", "sm3"):
        assert f"| H100: {name}, 1 leaf | langevin(optax.{name}) |" in text
    assert "| 1,000 bytes | 0.0% of the parameters |" in text
    assert capsys.readouterr().out.endswith("results.csv\n")


@pytest.fixture(scope="module", params=compiled.PLATFORMS)
def platform(request):
    """The name of a platform, and its devices."""
    try:
        return request.param, compiled.devices(request.param)
    except compiled.MissingError as error:
        pytest.skip(str(error))


def program(platform, tx, params):
    name, chips = platform
    jax.clear_caches()
    return compiled.compiled(of_optax("tx", tx), params, lambda leaf: SingleDeviceSharding(chips[0]), name)


def test_bytes_of_programs_that_one_knows(platform):
    """Gradients and parameters read, parameters written; of Adam two moments more, read and written."""
    params = compiled.one_leaf()
    n = params["kernel"].size
    assert program(platform, optax.sgd(1e-3), params).moved == pytest.approx(12 * n, rel=1e-3)
    assert program(platform, optax.adam(1e-3), params).moved == pytest.approx(28 * n, rel=1e-3)
    half = compiled.one_leaf(jnp.bfloat16)
    assert program(platform, optax.adam(1e-3), half).moved == pytest.approx(14 * n, rel=1e-3)


@pytest.mark.parametrize("contender", [contenders.NORMAL, contenders.RADEMACHER], ids=["normal", "rademacher"])
@pytest.mark.parametrize("params", [compiled.one_leaf(), compiled.transformer(2)], ids=["leaf", "transformer"])
def test_the_noise_moves_no_more_than_adam(platform, contender, params):
    name, chips = platform
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    place = lambda leaf: SingleDeviceSharding(chips[0])
    jax.clear_caches()
    adam, noisy = (compiled.compiled(c, params, place, name) for c in (contenders.ADAM, contender))
    assert noisy.moved < 1.02 * adam.moved
    # No copy of the parameters, nor of a large leaf. Words of rademacher are a 32nd, a TPU's prefetches no more.
    assert noisy.temporary - adam.temporary < size / 20


STACKED = {"blocks": jax.ShapeDtypeStruct((6, 1024, 1024), jnp.float32)}
FIRST_BLOCKS = {"blocks": np.arange(6).reshape(6, 1, 1) < 2}
VARIANTS = {
    "bfloat16": ({}, compiled.one_leaf(jnp.bfloat16)),
    "bounded": (dict(max_noise=0.01), compiled.one_leaf()),
    "first blocks of scanned layers": (dict(mask=FIRST_BLOCKS), STACKED),
    "complex": ({}, {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.complex64)}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_move_no_more_than_adam(platform, variant):
    arguments, params = VARIANTS[variant]
    adam = program(platform, optax.adam(1e-3), params)
    noisy = program(platform, lgv.adam(1e-3, 1e-3, 0, **arguments), params)
    assert noisy.moved < 1.02 * adam.moved


def test_a_wrong_engine_is_found(platform, monkeypatch):
    """A GPU that gets its normals through memory, and a TPU whose words are packed along the last axis."""
    name, chips = platform
    if name == "gpu":
        monkeypatch.setattr("langevin_optax.noise._draw._LARGE", 2**40)
        contender = contenders.NORMAL
    else:
        monkeypatch.setattr("langevin_optax.noise._samplers._packed_axis", lambda shape: len(shape) - 1)
        contender = contenders.RADEMACHER
    place = lambda leaf: SingleDeviceSharding(chips[0])
    jax.clear_caches()
    adam, noisy = (compiled.compiled(c, compiled.transformer(2), place, name) for c in (contenders.ADAM, contender))
    jax.clear_caches()
    assert noisy.moved > 1.2 * adam.moved


@pytest.mark.parametrize("contender", [contenders.NORMAL, contenders.RADEMACHER], ids=["normal", "rademacher"])
def test_no_collectives(platform, contender):
    name, chips = platform
    if name == "gpu":
        pytest.skip("one GPU")
    mesh = Mesh(np.array(chips), ("data",))

    def sharded(leaf):
        return NamedSharding(mesh, PartitionSpec("data") if leaf.shape else PartitionSpec())

    assert compiled.compiled(contender, compiled.transformer(1), sharded, name).collectives == 0
    clipped = of_optax("clipped", optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)))
    assert compiled.compiled(clipped, compiled.transformer(1), sharded, name).collectives > 0
