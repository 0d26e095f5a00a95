"""Langevin training for JAX: optimisers with noise σ√(γP)ξ shaped by their preconditioner P, and integrators."""

from langevin_optax.noise._draw import noise_like as noise_like
from langevin_optax.noise._fold_in import fold_in as fold_in
from langevin_optax.noise._schedules import inverse_sqrt_log_schedule as inverse_sqrt_log_schedule
from langevin_optax.noise._state import LangevinState as LangevinState

from langevin_optax.preconditioners._freeze import freeze_preconditioner as freeze_preconditioner
from langevin_optax.preconditioners._kfac import kfac_preconditioner as kfac_preconditioner
from langevin_optax.preconditioners._localization import add_localization as add_localization
from langevin_optax.preconditioners._matrices import Kronecker as Kronecker
from langevin_optax.preconditioners._matrices import Rotated as Rotated
from langevin_optax.preconditioners._publish import with_preconditioner as with_preconditioner
from langevin_optax.preconditioners._scalers_adam import scale_by_adam as scale_by_adam
from langevin_optax.preconditioners._scalers_adam import scale_by_adamax as scale_by_adamax
from langevin_optax.preconditioners._scalers_adam import scale_by_amsgrad as scale_by_amsgrad
from langevin_optax.preconditioners._scalers_adam import scale_by_belief as scale_by_belief
from langevin_optax.preconditioners._scalers_adam import scale_by_radam as scale_by_radam
from langevin_optax.preconditioners._scalers_adam import scale_by_yogi as scale_by_yogi
from langevin_optax.preconditioners._scalers_prong import scale_by_prong as scale_by_prong
from langevin_optax.preconditioners._scalers_rms import identity as identity
from langevin_optax.preconditioners._scalers_rms import scale_by_adadelta as scale_by_adadelta
from langevin_optax.preconditioners._scalers_rms import scale_by_rms as scale_by_rms
from langevin_optax.preconditioners._scalers_rms import scale_by_rss as scale_by_rss
from langevin_optax.preconditioners._scalers_rms import scale_by_stddev as scale_by_stddev
from langevin_optax.preconditioners._scalers_rms import trace as trace
from langevin_optax.preconditioners._scalers_shampoo import scale_by_shampoo as scale_by_shampoo
from langevin_optax.preconditioners._scalers_soap import scale_by_soap as scale_by_soap

from langevin_optax.optimizers._adam import adam as adam
from langevin_optax.optimizers._adam import adamw as adamw
from langevin_optax.optimizers._adam import amsgrad as amsgrad
from langevin_optax.optimizers._adam import nadam as nadam
from langevin_optax.optimizers._engine import langevin as langevin
from langevin_optax.optimizers._matrix import prong as prong
from langevin_optax.optimizers._matrix import shampoo as shampoo
from langevin_optax.optimizers._matrix import soap as soap
from langevin_optax.optimizers._noise_links import add_langevin_noise as add_langevin_noise
from langevin_optax.optimizers._noise_links import add_preconditioned_noise as add_preconditioned_noise
from langevin_optax.optimizers._rms import adadelta as adadelta
from langevin_optax.optimizers._rms import adagrad as adagrad
from langevin_optax.optimizers._rms import rmsprop as rmsprop
from langevin_optax.optimizers._rms import sgd as sgd
from langevin_optax.optimizers._variants import adabelief as adabelief
from langevin_optax.optimizers._variants import adamax as adamax
from langevin_optax.optimizers._variants import radam as radam
from langevin_optax.optimizers._variants import yogi as yogi

from langevin_optax.layers._mask import layer_mask as layer_mask
from langevin_optax.layers._order import layer_order as layer_order
from langevin_optax.layers._inputs import input_covariances as input_covariances

from langevin_optax.integrators._adaptive_langevin import AdaptiveLangevinState as AdaptiveLangevinState
from langevin_optax.integrators._adaptive_langevin import adaptive_langevin as adaptive_langevin
from langevin_optax.integrators._baoab import BaoabState as BaoabState
from langevin_optax.integrators._baoab import baoab as baoab
from langevin_optax.integrators._kinetic_temperature import kinetic_temperature as kinetic_temperature
from langevin_optax.integrators._methods import adlala as adlala
from langevin_optax.integrators._methods import lala as lala
from langevin_optax.integrators._methods import lol as lol
from langevin_optax.integrators._overdamped import overdamped_langevin as overdamped_langevin
from langevin_optax.integrators._partitioned import partitioned as partitioned

from langevin_optax import sampling as sampling

__version__ = "0.1.0"
