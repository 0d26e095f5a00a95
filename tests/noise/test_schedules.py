import jax
import jax.numpy as jnp
import numpy as np
import pytest

import langevin_optax as lgv


@pytest.mark.parametrize(("sigma", "rate"), [(5e-3, 0.01), (1.0, 0.0), (0.0, 1.0)])
def test_inverse_sqrt_log_schedule(sigma, rate):
    schedule = lgv.inverse_sqrt_log_schedule(sigma, rate)
    counts = np.array([0, 1, 10, 1000, 10**6, 2**31 - 1])
    expected = sigma / np.sqrt(np.log(np.e + counts * rate))
    np.testing.assert_allclose([schedule(c) for c in counts], expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.asarray(counts, jnp.int32)), expected, rtol=1e-6)


def test_it_drives_the_noise():
    tx = lgv.sgd(1.0, lgv.inverse_sqrt_log_schedule(2.0, 1e6), 0)
    params = jnp.zeros(4)
    state = tx.init(params)
    for count in range(2):
        updates, state = tx.update(params, state, params)
        size = 2.0 / np.sqrt(np.log(np.e + 1e6 * count))
        np.testing.assert_allclose(updates, size * lgv.noise_like(0, count, params), rtol=1e-5)
