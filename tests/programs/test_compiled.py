"""The programs that XLA makes for a TPU and a GPU: compiled, not run. Skipped where their compilers are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from benchmarks import compiled, contenders
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


def test_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(compiled.MissingError, match=r"CUDA toolkit .* none in .*: set CUDA_HOME"):
        compiled.devices("gpu")


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
    # No buffer of the size of the parameters. (The words of rademacher are a 32nd, a TPU's prefetches a tenth at most.)
    assert noisy.temporary - adam.temporary < size / 8


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
