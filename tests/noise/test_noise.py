"""The contract of `noise_like`: what a leaf's noise depends on, and its distribution."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import langevin_optax as lgv
from langevin_optax.noise import _samplers, _threefry
from tests.cases import by_default

KEY = jax.random.key(7)
SAMPLERS = ["normal", "rademacher", "three_point"]


def tree(**shapes):
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("sampler", by_default(["normal"], SAMPLERS))
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_noise_of_a_leaf_depends_on_no_other_leaf(sampler, impl):
    key = jax.random.key(3, impl=impl)
    alone = lgv.noise_like(key, 5, tree(b=(3, 4)), sampler)["b"]
    beside = lgv.noise_like(key, 5, tree(a=(3, 4), b=(3, 4), c=(3, 4), d=(7,)), sampler)["b"]
    masked = lgv.noise_like(key, 5, {"a": optax.MaskedNode(), "b": jnp.zeros((3, 4)), "c": None}, sampler)["b"]
    assert same(alone, beside)
    assert same(alone, masked)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_depends_on_key_step_path_and_sampler(sampler):
    draw = lambda key=0, step=0, name="w": np.asarray(lgv.noise_like(key, step, tree(**{name: (64,)}), sampler)[name])
    assert same(draw(), draw())
    for other in (draw(key=1), draw(step=1), draw(name="v")):
        assert not same(draw(), other)
        assert abs(np.corrcoef(draw(), other)[0, 1]) < 5 / np.sqrt(64)


def test_an_int_key_is_jax_random_key_of_it():
    assert same(lgv.noise_like(7, 0, jnp.zeros(5)), lgv.noise_like(jax.random.key(7), 0, jnp.zeros(5)))


def test_path_and_not_position_makes_the_noise():
    # split(key, n)[i] == fold_in(key, i): keys by position would repeat those of other programs.
    noise = lgv.noise_like(KEY, 0, [jnp.zeros(8), jnp.zeros(8)])
    by_position = [jax.random.normal(k, (8,)) for k in jax.random.split(jax.random.fold_in(KEY, 0))]
    assert not any(same(a, b) for a in noise for b in by_position)
    a, b = jax.tree.leaves(lgv.noise_like(KEY, 0, [{"0": jnp.zeros(8)}, {"1": jnp.zeros(8)}]))
    assert not same(a, b)


@pytest.mark.parametrize("sampler", by_default(["normal"], SAMPLERS))
def test_same_values_under_jit_vmap_and_scan(sampler):
    like = tree(a=(3, 5), b=(3, 5), c=())
    eager = lgv.noise_like(KEY, 4, like, sampler)
    jitted = jax.jit(lambda k, i, t: lgv.noise_like(k, i, t, sampler))(KEY, 4, like)
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda k: lgv.noise_like(k, 4, like, sampler))(keys)
    scanned = jax.lax.scan(lambda c, i: (c, lgv.noise_like(KEY, i, like, sampler)), None, jnp.arange(6))[1]
    for name in like:
        assert same(eager[name], jitted[name])
        assert same(eager[name], scanned[name][4])
        assert same(lgv.noise_like(keys[1], 4, like, sampler)[name], mapped[name][1])


def test_values_are_pinned():
    """A change of these numbers breaks every run that is resumed from a checkpoint."""
    for path, pinned in PINNED.items():
        noise = lgv.noise_like(0, 0, {path: jnp.zeros(3)})[path]
        np.testing.assert_allclose(noise, pinned["normal"], rtol=1e-6)
        signs = lgv.noise_like(0, 0, {path: jnp.zeros(8)}, "rademacher")[path]
        np.testing.assert_array_equal(signs, pinned["rademacher"])


PINNED = {
    "w": {"normal": [-1.56975579, -0.71473455, 0.50202513], "rademacher": [1, 1, -1, -1, -1, -1, 1, -1]},
    "Dense_0/kernel": {"normal": [-0.6146059, -1.22617137, -0.81417954], "rademacher": [-1, 1, 1, 1, 1, -1, 1, -1]},
}


@pytest.mark.parametrize("sampler", by_default(["normal"], SAMPLERS))
def test_same_values_on_many_devices_and_no_collectives(sampler):
    program = f"""
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
import langevin_optax as lgv
mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
specs = {{"a": ("x",), "b": ("x",), "c": (None, "y"), "d": ("x", "y"), "e": ()}}
shapes = {{"a": (128, 64), "b": (128, 64), "c": (64, 256), "d": (192, 64), "e": (33, 5)}}
shardings = {{k: jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)) for k, spec in specs.items()}}
tree = {{k: jax.device_put(jnp.zeros(shapes[k]), shardings[k]) for k in specs}}
f = jax.jit(lambda t: jax.tree.map(jnp.add, t, lgv.noise_like(0, 3, t, {sampler!r})), out_shardings=shardings)
text = f.lower(tree).compile().as_text()
assert not any(op in text for op in ("all-gather", "all-reduce", "all-to-all", "collective-permute")), text
one = lgv.noise_like(0, 3, {{k: jnp.zeros(shape) for k, shape in shapes.items()}}, {sampler!r})
for name, value in f(tree).items():
    np.testing.assert_array_equal(value, one[name])
"""
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


def test_normal_is_standard_normal():
    noise = np.asarray(lgv.noise_like(KEY, 0, jnp.zeros(200_000)))
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert stats.kstest(noise * 1.02, "norm").pvalue < 1e-3


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (31,), (32,), (33,), (64, 10), (3, 3, 16, 32), (7, 1, 5), (2, 70)])
def test_rademacher_is_plus_or_minus_one_in_every_shape(shape):
    noise = lgv.noise_like(KEY, 0, jnp.zeros(shape), "rademacher")
    assert noise.shape == shape
    assert noise.dtype == jnp.float32
    assert np.all(np.abs(noise) == 1)


@pytest.mark.parametrize("shape", [(256, 40), (40, 256), (5, 2048), (10_240,)])
def test_rademacher_entries_are_fair_and_independent(shape):
    draws = np.asarray(jax.vmap(lambda i: lgv.noise_like(KEY, i, jnp.zeros(shape), "rademacher"))(jnp.arange(64)))
    draws = draws.reshape(64, -1)
    n = draws.size
    assert abs(draws.mean()) < 5 / np.sqrt(n)
    # Every entry is fair by itself (64 draws: a stuck bit would sum to ±64), and lags up to two words are independent.
    assert np.abs(draws.sum(0)).max() < 6 * np.sqrt(64)
    for lag in [*range(1, 70), 256, 40, 2048]:
        assert abs((draws[:, lag:] * draws[:, :-lag]).mean()) < 5.5 / np.sqrt(n - 64 * lag)


def jaxpr_of_noise(shapes, sampler="normal"):
    like = tree(**shapes)
    return str(jax.make_jaxpr(lambda key: lgv.noise_like(key, 0, like, sampler))(KEY))


@pytest.mark.parametrize(
    ("shape", "axis"), [((), 0), ((5,), 0), ((70,), 0), ((64, 10), 0), ((10, 64), 1), ((3, 3, 17, 40), 2), ((9, 16), 1)]
)
def test_rademacher_is_the_bits_of_its_words(shape, axis):
    """Packed along the first axis of more than 16 entries, else the longest; bit b of word w is entry 32 w + b."""
    signs = _samplers.rademacher(KEY, shape, jnp.float32)
    sizes = list(shape or (1,))
    sizes[axis] = -(-sizes[axis] // 32)
    words = np.asarray(jax.random.bits(KEY, sizes, jnp.uint32))
    bits = np.unpackbits(words.astype("<u4")[..., None].view(np.uint8), axis=-1, bitorder="little")
    bits = np.moveaxis(bits, -1, axis + 1)  # behind its word
    expected = bits.reshape(*sizes[:axis], 32 * sizes[axis], *sizes[axis + 1 :]).take(
        range((shape or (1,))[axis]), axis=axis
    )
    np.testing.assert_array_equal(signs, 1 - 2.0 * expected.reshape(shape))


@pytest.mark.parametrize(
    ("shape", "axis"), [((), 0), ((5,), 0), ((70,), 0), ((64, 10), 0), ((10, 64), 1), ((9, 16), 1)]
)
def test_three_points_are_the_halves_of_their_words(shape, axis):
    """Both words of a block, each with two entries, the lower half first."""
    values = _samplers.three_point(KEY, shape, jnp.float32)
    sizes = list(shape or (1,))
    sizes[axis] = -(-sizes[axis] // 4)
    pairs = np.stack(_threefry.random_pairs(jax.random.key_data(KEY), tuple(sizes)), -1)
    halves = np.moveaxis(np.stack([pairs & 0xFFFF, pairs >> 16], -1).reshape(*sizes, 4), -1, axis + 1)
    halves = halves.reshape(*sizes[:axis], 4 * sizes[axis], *sizes[axis + 1 :])
    halves = halves.take(range((shape or (1,))[axis]), axis=axis).reshape(shape)
    ones = 10923  # of 65536: nearly a sixth
    expected = np.sqrt(65536 / (2 * ones)) * ((halves < ones) * 1.0 - (halves >= 65536 - ones))
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("wrong", [False, True], ids=["three_point", "normals rounded to three points"])
def test_three_points_have_five_moments_of_normals(wrong):
    n = 2**21
    noise = np.asarray(
        lgv.noise_like(KEY, 0, jnp.zeros((2048, 1024)), "normal" if wrong else "three_point"), np.float64
    )
    noise = (np.sqrt(3) * np.clip(np.round(noise / np.sqrt(3)), -1, 1) if wrong else noise).reshape(-1)
    assert len(np.unique(noise)) == 3
    # Of ξᵏ the variance is 3ᵏ⁻¹ − (its mean)², for values of ±√3.
    z = [
        (np.mean(noise**k) - expected) / np.sqrt((3 ** (k - 1) - expected**2) / n)
        for k, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (5, 0))
    ]
    assert bool(np.abs(z).max() < 5) is not wrong, z
    if not wrong:  # the four entries of a block, and its neighbours
        for lag in range(1, 9):
            assert abs(np.mean(noise[1024 * lag :] * noise[: -1024 * lag])) < 5 / np.sqrt(n - 1024 * lag)


def test_rademacher_takes_one_word_for_32_entries():
    drawn = set(re.findall(r"u32\[([0-9,]+)\] = xor", jaxpr_of_noise({"w": (64, 64)}, "rademacher")))
    assert drawn - {"1"} == {"1,2,64"}  # 1: of keys
    assert set(re.findall(r"u32\[([0-9,]+)\] = xor", jaxpr_of_noise({"w": (64, 64)}))) - {"1"} == {"64,64"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_leaves_of_one_shape_are_one_draw(sampler):
    def draws(n):
        shapes = {f"kernel_{i}": (8, 8) for i in range(n)} | {f"bias_{i}": (8,) for i in range(n)}
        return jaxpr_of_noise(shapes, sampler).count("xor")

    assert draws(1) > 0
    assert draws(2) == draws(50)  # two branches, one of which is compiled
    assert draws(2) < 3 * draws(1)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", by_default(["normal"], SAMPLERS))
@pytest.mark.parametrize("size", [pytest.param(8, marks=pytest.mark.slow), 512])
def test_compiled_draws_grow_with_shapes_and_not_with_leaves(sampler, size, optimized):
    """As users compile: every draw of words is exclusive ors; those of the keys do not grow either."""

    def draws(leaves, shapes=1):
        params = {f"Dense_{i}": {j: jnp.zeros((size, size + j)) for j in range(shapes)} for i in range(leaves)}
        tx = lgv.adam(1e-3, 1e-3, 0, sampler=sampler)
        return jax.jit(tx.update).lower(params, tx.init(params)).compile().as_text().count(" xor(")

    assert 0 < draws(6) == draws(12)
    assert draws(6, shapes=3) > draws(6)


def test_a_threefry_key_stays_one_where_another_kind_is_the_default():
    like = tree(a=(3, 4), b=(3, 4), c=(5,))
    expected = lgv.noise_like(KEY, 0, like)
    with jax.default_prng_impl("rbg"):
        actual = lgv.noise_like(KEY, 0, like)
    for name in like:
        assert same(actual[name], expected[name])


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (0, 3), (1, 1), (100_000,)])
def test_the_words_are_those_of_jax_random(shape):
    """Threefry written out is Threefry."""
    key = jax.random.key(11)
    data = jax.random.key_data(key)
    with jax.threefry_partitionable(True):
        assert same(_threefry.random_bits(data, shape), jax.random.bits(key, shape))
        assert same(_threefry.fold_in(data, jnp.uint32(7)), jax.random.key_data(jax.random.fold_in(key, 7)))


def box_muller(radius, angle):
    """The definition, in float64."""
    u, v = (radius >> 1) / 2.0**31 + 2.0**-33, angle / 2.0**32
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


def test_normals_are_box_muller_of_their_words():
    rng = np.random.default_rng(0)
    radius, angle = rng.integers(0, 2**32, (2, 1_000_000), dtype=np.uint32)
    expected = box_muller(radius, angle)
    error = np.abs(np.asarray(_samplers.box_muller(radius, angle)) - expected)
    # Where the radius is nearly 0, u is 1 or the nearest float32 below it, and the density that of N(0, 1) to 2⁻²⁴.
    assert np.quantile(error, 0.999) < 2e-6
    assert error.max() < 4e-4
    assert np.quantile(np.abs(box_muller(radius ^ 2**20, angle) - expected), 0.999) > 2e-6


@pytest.mark.parametrize("radius", [0, 1, 2**31, 2**32 - 1])
def test_normals_at_the_ends_of_their_words(radius):
    angles = np.array([0, 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 3 * 2**30, 2**32 - 1], np.uint32)
    radii = np.full_like(angles, radius)
    xi = np.asarray(_samplers.box_muller(radii, angles))
    np.testing.assert_allclose(xi, box_muller(radii, angles), atol=1e-4)
    assert np.all(np.abs(xi) <= np.sqrt(2 * 33 * np.log(2)) + 1e-6)  # 6.8, for u = 2⁻³³


@pytest.mark.parametrize(("n", "z_max"), [(2**21, 4), pytest.param(2**24, 5, marks=pytest.mark.slow)])
def test_moments_and_tails_of_the_normals(n, z_max):
    """To order 8, and to 4 or 5 standard deviations; five standard errors each."""
    xi = np.asarray(lgv.noise_like(KEY, 0, jnp.zeros(n)), np.float64)

    def check(xi):
        double_factorial = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395, 0, 135135, 0, 2027025]
        power = np.ones_like(xi)
        for k in range(1, 9):
            power = power * xi
            error = np.sqrt((double_factorial[2 * k] - double_factorial[k] ** 2) / n)
            assert abs(power.mean() - double_factorial[k]) < 5 * error, k
        for z in range(1, z_max + 1):
            for tail in (xi > z, xi < -z):
                assert abs(tail.sum() - n * stats.norm.sf(z)) < 5 * np.sqrt(n * stats.norm.sf(z)), z

    check(xi)
    least = 8 / np.sqrt(n)
    for wrong in (xi * (1 + least), xi + least, np.clip(xi, 1 - z_max, z_max - 1), np.round(xi, 1)):
        with pytest.raises(AssertionError):
            check(wrong)


def test_a_leaf_beyond_32_bits_of_positions_repeats_nothing():
    """Axes that do not fit into one word of the counter are counted in the other one."""
    shape = (4, 2**31)
    text = str(jax.make_jaxpr(lambda: _threefry.random_bits(jnp.zeros(2, jnp.uint32), shape))())
    assert re.search(r"iota\[\s*dimension=0\b", text) and re.search(r"iota\[\s*dimension=1\b", text)
    assert "2147483648:u32" not in text  # no stride of the first axis within the word of the second


@pytest.mark.parametrize("shape", [(1, 2**16, 2**16), (2, 1, 2**16, 2**16), (1, 2**33), (2**16, 2**16, 1)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_axes_of_one_entry_before_2_to_the_32_others(shape, sampler):
    """Traced only: 16 GB. The words are those of the leaf without the axis."""
    like = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert jax.eval_shape(lambda: lgv.noise_like(KEY, 0, like, sampler)).shape == shape


def test_an_axis_of_one_entry_changes_no_word():
    data = jax.random.key_data(KEY)
    words = np.asarray(_threefry.random_bits(data, (6, 35)))
    for shape in ((1, 6, 35), (6, 1, 35), (6, 35, 1)):
        assert same(np.asarray(_threefry.random_bits(data, shape)).reshape(6, 35), words)


def test_symbolic_shapes_export():
    """`jax.export` of an update whose sizes are not known has the noise of every size."""
    n, m = jax.export.symbolic_shape("n, 3*m")
    tx = lgv.adam(1e-2, 1e-1, 0)

    def update(g):
        updates, state = tx.update(g, tx.init(g), g)
        return updates, jax.random.key_data(state[-1].key)

    args = {"w": jax.ShapeDtypeStruct((n, m), jnp.float32), "b": jax.ShapeDtypeStruct((n,), jnp.float32)}
    exported = jax.export.export(jax.jit(update))(args)
    for rows, columns in ((4, 6), (7, 3)):
        g = {"w": jnp.ones((rows, columns)), "b": jnp.ones(rows)}
        for a, b in zip(jax.tree.leaves(exported.call(g)), jax.tree.leaves(jax.jit(update)(g)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    for sampler in ("rademacher", "three_point"):
        packed = lgv.adam(1e-2, 1e-1, 0, sampler=sampler)
        with pytest.raises(ValueError, match=r"pack their bits .* must be known, got (\(n, 3\*m\)|\(n,\))"):
            jax.export.export(jax.jit(lambda g, tx=packed: tx.update(g, tx.init(g), g)[0]))(args)


@pytest.mark.parametrize("sampler", by_default(["rademacher"], SAMPLERS))
def test_accelerators_draw_the_same(sampler, monkeypatch):
    """What XLA compiles for all but CPU, run here: small leaves and large ones, few and many."""
    like = tree(**{f"s{i}": (40, 40) for i in range(3)}, **{f"l{i}": (512, 512) for i in range(5)}, c=(600, 600))
    here = lgv.noise_like(KEY, 3, like, sampler)
    branch = jax.lax.platform_dependent
    taken = []

    def default(*args, default, **others):
        taken.append(others)
        return branch(*args, default=default)

    monkeypatch.setattr(jax.lax, "platform_dependent", default)
    jax.clear_caches()
    there = lgv.noise_like(KEY, 3, like, sampler)
    jax.clear_caches()
    assert taken
    for name in like:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-5, atol=1e-6)
        assert sampler == "normal" or same(there[name], here[name])


@pytest.mark.parametrize("sampler", by_default(["normal"], SAMPLERS))
def test_one_exported_program_for_all_platforms(sampler):
    like = tree(**{f"l{i}": (512, 512) for i in range(5)}, b=(33,))
    draw = jax.jit(lambda tree: lgv.noise_like(KEY, 3, tree, sampler))
    exported = jax.export.export(draw, platforms=["cpu", "cuda", "tpu"])(like)
    for name, value in exported.call(like).items():
        assert same(value, draw(like)[name])


@pytest.mark.parametrize("sampler", by_default(["normal", "rademacher"], SAMPLERS))
@pytest.mark.parametrize("shape", [pytest.param((2**18,), marks=pytest.mark.slow), (512, 512)])
@pytest.mark.parametrize("leaves", by_default(["abcdef"], ["ab", "abcdef"]))
def test_large_leaves_have_the_values_of_small_programs(sampler, shape, leaves):
    """A few large leaves are drawn one by one; the values do not know."""
    like = tree(**dict.fromkeys(leaves, shape))
    together = jax.jit(lambda: lgv.noise_like(KEY, 1, like, sampler))()
    alone = lgv.noise_like(KEY, 1, tree(b=shape), sampler)
    assert same(together["b"], alone["b"])
    assert not same(together["a"], together["b"])


def test_noise_within_shard_map():
    """Each device its own noise by its own key: what the branches of the draw return varies alike."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def per_device(x):
        key = jax.random.fold_in(KEY, jax.lax.axis_index("x"))
        noise = lgv.noise_like(key, 0, {"a": x, "b": x})
        return noise["a"] + noise["b"]

    spec = jax.sharding.PartitionSpec("x")
    mapped = jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.zeros(8))
    noise = lgv.noise_like(jax.random.fold_in(KEY, 0), 0, {"a": jnp.zeros(8), "b": jnp.zeros(8)})
    np.testing.assert_allclose(mapped, noise["a"] + noise["b"], rtol=1e-6)


def test_dtypes():
    like = {"bf16": jnp.zeros(4, jnp.bfloat16), "f16": jnp.zeros(4, jnp.float16), "c64": jnp.zeros(4, jnp.complex64)}
    noise = lgv.noise_like(KEY, 0, like)
    assert {k: v.dtype.name for k, v in noise.items()} == {"bf16": "float32", "f16": "float32", "c64": "complex64"}
    with jax.enable_x64(True):
        noise = lgv.noise_like(KEY, 0, {"f64": jnp.zeros(4, jnp.float64), "c128": jnp.zeros(4, jnp.complex128)})
    assert {k: v.dtype.name for k, v in noise.items()} == {"f64": "float64", "c128": "complex128"}


@pytest.mark.parametrize("sampler", ["rademacher", "three_point"])
def test_complex_leaves_of_one_word_compile(sampler):
    """Fused with the two parts of such a leaf Threefry takes XLA for CPU for ever: words apart are not fused."""
    leaf = jax.ShapeDtypeStruct((3, 17), jnp.complex64)
    noise = np.asarray(jax.jit(lambda: lgv.noise_like(KEY, 0, {"w": leaf}, sampler))()["w"])
    points = {-1.0, 1.0} if sampler == "rademacher" else {-np.sqrt(3), 0.0, np.sqrt(3)}
    for part in (noise.real, noise.imag):
        assert {min(points, key=lambda p, x=x: abs(p - x)) for x in np.sqrt(2) * part.ravel()} == points
        assert all(min(abs(p - x) for p in points) < 1e-4 for x in np.sqrt(2) * part.ravel())
    assert not np.array_equal(noise.real, noise.imag)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_complex_noise_is_circular_with_unit_variance(sampler):
    n = 100_000
    xi = np.asarray(lgv.noise_like(KEY, 0, jnp.zeros(n, jnp.complex64), sampler))
    assert abs((np.abs(xi) ** 2).mean() - 1) < 5 * np.sqrt(1 / n)
    assert abs((xi**2).mean()) < 5 * np.sqrt(2 / n)
    assert abs(xi.mean()) < 5 * np.sqrt(1 / n)
    assert np.corrcoef(xi.real, xi.imag)[0, 1] < 5 / np.sqrt(n)


def test_shapes_alone_suffice():
    like = {"w": jax.ShapeDtypeStruct((4,), jnp.float32), "none": None}
    noise = lgv.noise_like(KEY, 2, like)
    assert noise["none"] is None
    assert same(noise["w"], lgv.noise_like(KEY, 2, {"w": jnp.zeros(4)})["w"])


def test_a_sampler_of_ones_own():
    uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -np.sqrt(3), np.sqrt(3))
    noise = np.asarray(lgv.noise_like(KEY, 0, jnp.zeros(10_000), uniform))
    assert stats.kstest(noise, stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)).cdf).pvalue > 1e-3
