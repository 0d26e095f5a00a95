"""Breaks the package in many places, one by one, and sees whether the tests that `make test` runs find each.

    python -m tests.mutations            # all; or: python -m tests.mutations root-of-p no-new-key

Each mutation is one replacement in one file of a copy of the tree, and is killed if a test of the files named beside it
fails. These files must pass in a copy that is not mutated. Prints a line per mutation, and exits with 1 if one survives
or no longer applies.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LANGEVIN, ENGINE = "optimizers/test_langevin.py", "optimizers/test_engine.py"
NOISE, KEYS, FAULTS = "noise/test_noise.py", "noise/test_keys.py", "package/test_faults.py"
SHARDING, ERRORS, CONTRACT = "package/test_sharding.py", "package/test_errors.py", "package/test_contract.py"
MATRIX, OPERATORS = "preconditioners/test_matrix.py", "preconditioners/test_operators.py"
FREEZE, USERS = "preconditioners/test_freeze.py", "preconditioners/test_matrix_users.py"
SAMPLE, LLC, LINKS = "sampling/test_sample.py", "sampling/test_llc.py", "sampling/test_links.py"
TOOLS = "sampling/test_gradient_tools.py"
MARKS, INTEGRATORS, MASK = "preconditioners/test_preconditioning.py", "integrators", "layers/test_mask.py"


class Mutation(NamedTuple):
    name: str
    file: str  # in langevin_optax
    old: str
    new: str
    tests: str  # in tests, separated by blanks


MUTATIONS = [
    # roots and scales
    Mutation("root-of-p", "optimizers/_term.py", "scale * jnp.sqrt(jnp.asarray(p, dtype))", "scale * p", LANGEVIN),
    Mutation("root-of-gamma", "optimizers/_term.py", "root = jnp.sqrt(gamma) if", "root = gamma if", ENGINE),
    Mutation("root-before-gamma", "optimizers/_term.py", "jax.lax.rsqrt(safe))", "1 / safe)", LANGEVIN),
    Mutation("bound-in-other-units", "optimizers/_term.py", "(1 if after_learning_rate else safe)", "1", FAULTS),
    Mutation("no-bound", "optimizers/_term.py", "jnp.minimum(size, jnp.asarray(limit, dtype))", "size", FAULTS),
    Mutation(
        "variance-of-normals", "noise/_samplers.py", "np.float32(-2) * jnp.log", "np.float32(-1.9) * jnp.log", NOISE
    ),
    Mutation("log-of-0", "noise/_samplers.py", " + np.float32(2**-33)", "", NOISE),
    Mutation("words-along-another-axis", "noise/_samplers.py", "if size > 16", "if size > 8", NOISE),
    Mutation(
        "variance-of-three-points",
        "noise/_samplers.py",
        "np.array(math.sqrt(65536 / (2 * ones)), dtype)",
        "np.array(1.7, dtype)",
        NOISE,
    ),
    # from optimiser to posterior
    Mutation(
        "llc-without-nbeta", "sampling/_llc_estimator.py", "traces = self.nbeta * np", "traces = self.n * np", LLC
    ),
    Mutation(
        "llc-of-another-sigma", "sampling/_llc_estimator.py", "math.sqrt(2 / nbeta)", "math.sqrt(2.2 / nbeta)", LLC
    ),
    Mutation("llc-of-the-curvature-of-p-and-not-its-root", "sampling/_llc_curvature.py", "jnp.sqrt(p) *", "p *", LLC),
    Mutation("llc-with-the-noise-of-one-step", "sampling/_llc_sampler.py", "u + (a + b) / 2", "u + b", LLC),
    Mutation(
        "llc-one-setting-for-all",
        "sampling/_llc_estimator.py",
        "learning_rate=rates,",
        "learning_rate=rates * 0 + rates[0],",
        LLC,
    ),
    Mutation(
        "one-key-for-all-chains",
        "sampling/_program.py",
        "tx.init(params), *words, chain)",
        "tx.init(params), *words)",
        SAMPLE,
    ),
    Mutation(
        "one-minibatch-for-all-chains", "sampling/_program.py", "_MINIBATCH), state.chain)", "_MINIBATCH), 0)", SAMPLE
    ),
    Mutation("draws-before-burn-in", "sampling/_program.py", "_parts(burn_in, 20)", "_parts(0, 20)", SAMPLE),
    Mutation("prior-without-1/n", "sampling/_posterior_scale.py", " / examples\n", "\n", TOOLS),
    Mutation(
        "sigma-without-2", "sampling/_posterior_scale.py", "math.sqrt(2 * temperature", "math.sqrt(temperature", TOOLS
    ),
    Mutation(
        "control-of-the-wrong-sign",
        "sampling/_control_variate.py",
        "wide) - jnp.asarray(g_0",
        "wide) + jnp.asarray(g_0",
        TOOLS,
    ),
    Mutation(
        "noise-in-the-cycle-from-the-start",
        "sampling/_cyclical.py",
        "position(count) >= start",
        "position(count) >= 0",
        "sampling/test_cyclical.py",
    ),
    Mutation("moments-of-the-params-before", "sampling/_moments.py", "(x - mean) - mean_rest)", "x - mean)", LINKS),
    # matrices
    Mutation("p-in-its-basis", "preconditioners/_matrices.py", "jnp.sqrt(self.p)", "self.p", MATRIX),
    Mutation("shampoo-without-root", "preconditioners/_scalers_shampoo.py", "-1 / (4 *", "-1 / (2 *", MATRIX),
    Mutation(
        "prong-without-root", "preconditioners/_scalers_prong.py", "average, -0.5, eps", "average, -1, eps", MATRIX
    ),
    Mutation(
        "transposed-root",
        "preconditioners/_matrices.py",
        "jnp.swapaxes(matrix, -1, -2).astype(x.dtype)",
        "matrix.astype(x.dtype)",
        OPERATORS,
    ),
    Mutation(
        "soap-starts-at-once",
        "preconditioners/_scalers_soap.py",
        "jnp.where(first, 0, jnp",
        "jnp.where(first, 1, jnp",
        MATRIX,
    ),
    Mutation(
        "order-of-nu", "preconditioners/_scalers_soap.py", "nus[i] = jnp.take_along_axis", "jnp.take_along_axis", MATRIX
    ),
    Mutation("frozen-late", "preconditioners/_freeze.py", "state.count >= last", "state.count > last", FREEZE),
    Mutation(
        "half-of-a-couple",
        "preconditioners/_operators.py",
        "if len(places) < couple",
        "if len(places) > couple",
        OPERATORS,
    ),
    Mutation(
        "product-of-any-two",
        "preconditioners/_operators.py",
        "if all(sizes[axis] == 1",
        "if any(sizes[axis] == 1",
        OPERATORS,
    ),
    Mutation(
        "batched-eigenvectors",
        "preconditioners/_decompositions.py",
        "jax.lax.while_loop(lambda carry: carry[0], turn, alike((due, values)))[1]",
        "jax.lax.cond(due, lambda v: turn((due, v))[1], lambda v: v, values)",
        USERS,
    ),
    Mutation("size-of-complex", "noise/_draw.py", "np.sqrt(0.5)", "np.sqrt(1.0)", NOISE),
    Mutation(
        "schedule-below-0", "_checks.py", "jnp.maximum(jnp.asarray(now, dtype), 0)", "jnp.asarray(now, dtype)", LANGEVIN
    ),
    # keys and counts
    Mutation(
        "half-a-path",
        "noise/_keys.py",
        "_threefry.fold_in(_threefry.fold_in(key, w[0]), w[1])",
        "_threefry.fold_in(key, w[0])",
        KEYS,
    ),
    Mutation(
        "one-noise-for-all-steps",
        "noise/_keys.py",
        "_threefry.fold_in(key, low, high)",
        "_threefry.fold_in(key, high)",
        NOISE,
    ),
    Mutation(
        "upper-word-of-a-step",
        "noise/_keys.py",
        "_threefry.fold_in(key, low, high)",
        "_threefry.fold_in(key, low)",
        KEYS,
    ),
    Mutation(
        "no-new-key", "noise/_keys.py", "jnp.where(following == count, _moved(key), key) if moves else key", "key", KEYS
    ),
    Mutation(
        "key-of-a-chain",
        "noise/_keys.py",
        "_threefry.fold_in(jax.random.key_data(key), last, last)",
        "_threefry.fold_in(jax.random.key_data(key), jnp.uint32(0))",
        KEYS,
    ),
    Mutation(
        "upper-word-of-a-seed",
        "noise/_keys.py",
        "return jax.random.key(np.int64(seed))",
        "return jax.random.key(seed & _WORD)",
        KEYS,
    ),
    Mutation("float-steps", "noise/_keys.py", "not jnp.issubdtype(dtype, jnp.integer) or", "", KEYS),
    Mutation(
        "float-counts", "noise/_keys.py", "not jnp.issubdtype(jnp.result_type(state.count), jnp.integer) or", "", KEYS
    ),
    Mutation("key-shared-with-its-owner", "noise/_keys.py", "jnp.copy(as_key(key))", "as_key(key)", LANGEVIN),
    Mutation(
        "chains-alike",
        "noise/_fold_in.py",
        "jax.tree.map(lambda key: jax.random.fold_in(key, data), node.noise_key)",
        "node.noise_key",
        SHARDING,
    ),
    Mutation(
        "count-stands-still", "noise/_keys.py", "optax.safe_increment(jnp.asarray(count))", "jnp.asarray(count)", ENGINE
    ),
    Mutation(
        "names-of-containers",
        "_trees.py",
        "jax.tree_util.keystr((entry,), simple=True)",
        "jax.tree_util.keystr((entry,))",
        KEYS,
    ),
    Mutation("value-of-nnx", "_trees.py", "path = path[:-1]", "pass", KEYS),
    Mutation("stride-of-2-to-the-32", "noise/_threefry.py", "np.uint32(stride % 2**32)", "np.uint32(stride)", NOISE),
    Mutation("rounds-of-threefry", "noise/_threefry.py", "for i in range(5):", "for i in range(4):", NOISE),
    # shards
    Mutation(
        "shards-repeat-each-other",
        "noise/_draw.py",
        "_at_place(keys[np.array(members)], axes)",
        "keys[np.array(members)]",
        SHARDING,
    ),
    Mutation("thermostat-of-a-shard", "_mesh.py", "jax.lax.psum(x, axes) if axes else x", "x", SHARDING),
    Mutation("entries-of-a-shard", "_mesh.py", "return math.prod(map(jax.lax.axis_size, axes))", "return 1", SHARDING),
    # preconditioners and marks
    Mutation(
        "bias-of-nu",
        "preconditioners/_diagonal.py",
        "inverse_root(debiased(state.nu, b2, state.count), eps, eps_root)",
        "inverse_root(state.nu, eps, eps_root)",
        ENGINE,
    ),
    Mutation(
        "variance-without-mean",
        "preconditioners/_diagonal.py",
        "jnp.maximum(wide(n) - jnp.square(wide(jnp.abs(m))), 0)",
        "wide(n)",
        ENGINE,
    ),
    Mutation(
        "adadelta-after-the-step",
        "optimizers/_rows.py",
        '_diagonal.adadelta(s.before("e_x")',
        '_diagonal.adadelta(s.after("e_x")',
        ENGINE,
    ),
    Mutation(
        "acprop-after-the-step",
        "optimizers/_rows.py",
        'nu = _diagonal.debiased(state.nu, s["b2"]',
        'nu = _diagonal.debiased(s.after("nu").nu, s["b2"]',
        ENGINE,
    ),
    Mutation("adopt-at-the-start", "optimizers/_rows.py", "jnp.where(state.count == 0, 0, p), p)", "p, p)", ENGINE),
    Mutation(
        "no-trust-ratio",
        "optimizers/_scalar_factors.py",
        "jax.tree.map(jnp.multiply, p, _trust_ratio(u, s.params))",
        "p",
        ENGINE,
    ),
    Mutation(
        "next-estimate-of-prodigy",
        "optimizers/_scalar_factors.py",
        "jnp.square(wide(old.estim_lr))",
        "jnp.square(wide(new.estim_lr))",
        ENGINE,
    ),
    Mutation("p-does-not-multiply", "preconditioners/_operators.py", "return own * incoming", "return own", MARKS),
    Mutation(
        "trace-starts-a-mark",
        "preconditioners/_publish.py",
        "u if incoming is None else _marks.mark(u, incoming)",
        "_marks.mark(u, 1.0 if incoming is None else incoming)",
        MARKS,
    ),
    Mutation(
        "mark-of-a-dead-object",
        "preconditioners/_marks.py",
        "preconditioner() if ref() is leaf else None",
        "preconditioner()",
        MARKS,
    ),
    Mutation(
        "forgets-a-successor",
        "preconditioners/_marks.py",
        "if _marks.get(address, (None,))[0] is ref:",
        "if address in _marks:",
        MARKS,
    ),
    Mutation("cache-not-primed", "preconditioners/_marks.py", "        checkpoint_name(leaf, str(name))\n", "", MARKS),
    Mutation("marked-in-place", "preconditioners/_marks.py", "copy = jnp.copy(leaf)", "copy = leaf", MARKS),
    # guards
    Mutation("marked-input-is-taken", "optimizers/_engine.py", "        refuse_mark(updates)\n", "", MARKS),
    Mutation("sigma-of-any-shape", "_checks.py", "if jnp.shape(value) != ():", "if False:", ERRORS),
    Mutation(
        "p-of-any-shape",
        "preconditioners/_check.py",
        "if not _trees.broadcasts(jnp.shape(p), shape):",
        "if False:",
        ERRORS,
    ),
    Mutation("negative-p", "preconditioners/_check.py", "holds(lambda x: x >= 0, x)", "True", ERRORS),
    Mutation("twins-share-their-noise", "noise/_draw.py", "if len(set(names)) < len(leaves):", "if False:", KEYS),
    Mutation("key-of-another-kind", "noise/_keys.py", "if theirs != ours:", "if False:", ERRORS),
    Mutation(
        "noise-in-bfloat16",
        "_trees.py",
        "return np.promote_types(dtype, np.float32)",
        "return np.dtype(dtype)",
        NOISE,
    ),
    # masks and layers
    Mutation(
        "mask-sees-the-updates",
        "optimizers/_term.py",
        "_where.resolve(mask, updates, params)",
        "_where.resolve(mask, updates)",
        LANGEVIN,
    ),
    Mutation(
        "array-masks-ignored",
        "optimizers/_term.py",
        "noisy if w is True else jnp.where(w, noisy, u)",
        "noisy",
        LANGEVIN,
    ),
    Mutation(
        "layers-in-order-of-strings",
        "layers/_names.py",
        'key=lambda name: [int(number) for number in re.findall(r"\\d+", name)]',
        "key=str",
        MASK,
    ),
    Mutation(
        "share-rounds-up",
        "layers/_select.py",
        "math.floor(round(float(layers) * n, 9))",
        "math.ceil(float(layers) * n)",
        MASK,
    ),
    Mutation(
        "last-layers-for-first",
        "layers/_select.py",
        "indices = range(int(layers))",
        "indices = range(n - int(layers), n)",
        MASK,
    ),
    Mutation(
        "hidden-layers-do-not-count",
        "layers/_names.py",
        "names = [*owners, *_hidden_layers(layers, tree, owners)]",
        "names = owners",
        MASK,
    ),
    # integrators
    Mutation(
        "ornstein-uhlenbeck",
        "integrators/_pieces.py",
        "-jnp.expm1(-2 * friction * h)",
        "-jnp.expm1(-friction * h)",
        INTEGRATORS,
    ),
    Mutation("kick-of-one-step", "integrators/_baoab.py", "(state.last_step + h) / 2", "h", INTEGRATORS),
    Mutation("one-draw-for-two", "integrators/_adaptive_langevin.py", "number + 1", "number", INTEGRATORS),
    Mutation(
        "friction-does-not-adapt",
        "integrators/_pieces.py",
        "return xi + h * coupling",
        "return xi + 0 * h * coupling",
        INTEGRATORS,
    ),
    Mutation(
        "norm-for-its-square",
        "integrators/_pieces.py",
        "jnp.sum(jnp.square(leaf))",
        "jnp.sum(jnp.abs(leaf))",
        INTEGRATORS,
    ),
    Mutation("noise-not-shared", "integrators/_overdamped.py", "(now + then) / 2", "now", INTEGRATORS),
    Mutation(
        "parts-swapped",
        "integrators/_partitioned.py",
        '"first" if m else "rest"',
        '"rest" if m else "first"',
        INTEGRATORS,
    ),
    Mutation(
        "kinetic-energy-elsewhere",
        "integrators/_adaptive_langevin.py",
        "return self.kinetic\n",
        "return mean_square(self.momentum)\n",
        INTEGRATORS,
    ),
    Mutation(
        "temperature-of-the-rest",
        "integrators/_methods.py",
        "baoab(step_size, tau_2, friction, key)",
        "baoab(step_size, temperature, friction, key)",
        INTEGRATORS,
    ),
]


def outcome(mutation: Mutation, folder: Path) -> str:
    tree = folder / mutation.name
    kept = shutil.ignore_patterns("__pycache__", ".*", "results", "docs")
    shutil.copytree(ROOT, tree, ignore=kept)
    if mutation.file:
        file = tree / "langevin_optax" / mutation.file
        text = file.read_text()
        if mutation.old not in text:
            return "does not apply"
        file.write_text(text.replace(mutation.old, mutation.new))
    tests = [f"tests/{test}" for test in mutation.tests.split()]
    options = ["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    shutil.rmtree(tree)
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode == 1 and failed:
        return f"killed by {failed[0].removeprefix('FAILED tests/')}"
    return "survives" if done.returncode == 0 else f"ends with {done.returncode}: {done.stdout[-500:]}"


def main(names: list[str]) -> int:
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    tests = sorted({mutation.tests for mutation in chosen})
    controls = [Mutation(f"none ({i})", "", "", "", files) for i, files in enumerate(tests)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        for control, result in zip(controls, pool.map(lambda c: outcome(c, Path(folder)), controls), strict=True):
            if result != "survives":
                print(f"{control.tests} does not pass without a mutation: {result}")
                return 1
        outcomes = pool.map(lambda mutation: outcome(mutation, Path(folder)), chosen)
        killed = 0
        for mutation, result in zip(chosen, outcomes, strict=True):
            killed += result.startswith("killed")
            print(f"{mutation.name:28s} {result}", flush=True)
    print(f"{killed} of {len(chosen)} killed, in {(time.perf_counter() - start) / 60:.0f} minutes")
    return int(killed < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
