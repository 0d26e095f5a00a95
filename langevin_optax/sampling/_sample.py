"""`sample`: chains of any optimiser, from a gradient to draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from langevin_optax._checks import check_whole
from langevin_optax.noise import _keys
from langevin_optax.sampling import _samples
from langevin_optax.sampling._program import Program, bar, devices_for, start
from langevin_optax.sampling._samples import SamplerState, Samples


def sample(
    gradient: Callable[[Any, jax.Array], tuple[Any, Any]],
    tx: optax.GradientTransformation,
    params: Any,
    key: jax.Array | int,
    *,
    draws: int,
    chains: int = 1,
    burn_in: int = 0,
    thin: int = 1,
    keep: Callable[[Any], Any] | None = None,
    state: SamplerState | None = None,
    progress: bool = True,
) -> Samples:
    r"""Draws of a posterior, from a gradient and any optimiser or integrator.

    .. math::
      \theta^{(c)}_{t+1} = \theta^{(c)}_t + u(\nabla L_t(\theta^{(c)}_t), \xi^{(c)}_t), \qquad
      \text{draw}_i = \text{keep}(\theta_{b + k i}), \quad i = 1, \dots, n

    for the chains c, with b = ``burn_in``, k = ``thin``, n = ``draws``; u is the update of ``tx``. With a mean loss
    over N data (1/N of the prior in it) and :math:`\sigma = \sqrt{2/N}`, or temperature 1/N, that is their posterior.

    Randomness. ``key`` and the number of the chain are folded into every noise key of ``tx``, those of Optax's own
    noises too, and with the number of the step they make the key of a minibatch. So chain c is a function of both keys
    and c, not of how many there are; two halves, the second with ``params`` and ``state`` of the first, are the whole
    bit for bit, also through a checkpoint. A noise of your own whose key is not in its state is one for all chains.

    Memory: chains × (P + S + draws × (K + 4) + G) bytes, with P bytes of parameters, S of the state of ``tx``, K of
    what ``keep`` returns, and G of what one gradient takes; and chains × (P + S) more where a run goes on.
    A large model keeps what is asked of it (predictions, a layer), or has ``snapshots`` in ``tx``.

    Cost: one gradient a step, and one loss a draw (at the draw itself, with the minibatch of the next step). Each call
    compiles its program anew, once for burn-in and draws of any number.

    Devices: where this process has several, the chains are divided among the largest number of them that divides
    ``chains``. Parameters that lie on several devices stay as they are (their draws are whole on each of them), and all
    is on one device under ``jax.default_device``.

    Args:
      gradient: a function ``(params, key) -> (loss, grads)`` of one chain that draws its minibatch with ``key``,
        ``lambda params, key: jax.value_and_grad(loss)(params, data[jax.random.choice(key, n, (32,))])``.
      tx: a transformation of this package or of Optax. Its update gets ``value=loss`` too.
      params: where all chains start, a tree of arrays; with ``state``, each leaf with the chains in front.
      key: an int or a typed ``jax.random.key``. For another run with the same ``tx`` another one.
      draws: how many draws of each chain are kept.
      chains: how many chains; with ``state`` as many as that has.
      burn_in: how many steps come first and are not kept.
      thin: steps from one draw to the next.
      keep: what of the parameters of one chain is kept of a draw: a tree of arrays; by default the parameters.
      state: ``Samples.state`` of an earlier call, to go on from; ``key`` is then that of the earlier call.
      progress: whether to show a bar on stderr, where tqdm is installed (extra ``sampling``).

    Returns:
      ``Samples(draws, losses, params, state)``, draws and losses with the axes (chain, draw, ...). Chains that diverged
      are in it, and ``.diverged`` marks them; ``.to_arviz()`` leads to R-hat, ESS and plots.

    Raises:
      ValueError: for numbers out of range; for a gradient without a scalar loss or with grads unlike ``params``; for a
        ``params`` or ``state`` of another run; if chains share their noise.
      TypeError: for a ``tx`` or ``state`` of another kind, a ``keep`` that does not return arrays, and as :func:`adam`
        for a key.
      FloatingPointError: if all chains are NaN or infinite from the first step on.

    Warns:
      UserWarning: for an optimiser without noise, two noises with one key, chains that diverged or are all the same, a
        ``key`` that is not used, and chains that leave half of the devices idle.

    Example:
      The posterior of the mean of ten data, whose variance is 1/10:

      >>> import jax, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax import sampling
      >>> data = jax.random.normal(jax.random.key(1), (10,))
      >>> gradient = jax.value_and_grad(lambda mean, key: ((data - mean) ** 2).mean() / 2)
      >>> tx = lgv.baoab(0.5, temperature=1 / 10, friction=1.0, key=0)
      >>> samples = sampling.sample(gradient, tx, jnp.zeros(()), key=0, draws=500, chains=4, burn_in=20)
      >>> samples.draws.shape, f"{samples.draws.var():.1f}"
      ((4, 500), '0.1')

    References:
      Welling and Teh, *Bayesian Learning via Stochastic Gradient Langevin Dynamics*, 2011.
    """
    for name, value, least in (("draws", draws, 1), ("chains", chains, 1), ("burn_in", burn_in, 0), ("thin", thin, 1)):
        check_whole(name, value, least)
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"tx must be an optax.GradientTransformation, got {tx!r}.")
    key, tx = _keys.as_key(key), optax.with_extra_args_support(tx)
    fresh = state is None
    if state is None:
        carry = start(tx, params, key, chains, devices_for(params, chains))
    else:
        chains = _samples.check_resumed(params, state, tx.init, key, chains)
        sharding = devices_for((params, state), chains)
        carry = jax.tree.map(jnp.copy, (params, state))  # whose memory the program takes, and not the user's
        carry = carry if sharding is None else jax.device_put(carry, sharding)
    _samples.check_keys(carry[1].tx_state)
    program = Program(gradient, tx, lambda params, state: params if keep is None else keep(params), *carry)
    with bar(burn_in + draws * thin, progress) as shown:
        samples = program(*carry, draws, burn_in, thin, shown, fresh)
    _samples.warn_of_chains(samples)
    return samples
