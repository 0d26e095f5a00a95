"""Langevin training for JAX: optimisers with noise σ√(γP)ξ shaped by their preconditioner P, and integrators."""

from langevin_optax._adaptive_langevin import AdaptiveLangevinState as AdaptiveLangevinState
from langevin_optax._adaptive_langevin import adaptive_langevin as adaptive_langevin
from langevin_optax._fold_in import fold_in as fold_in
from langevin_optax._integrators import BaoabState as BaoabState
from langevin_optax._integrators import baoab as baoab
from langevin_optax._integrators import overdamped_langevin as overdamped_langevin
from langevin_optax._kinetic_temperature import kinetic_temperature as kinetic_temperature
from langevin_optax._langevin import LangevinState as LangevinState
from langevin_optax._langevin import add_langevin_noise as add_langevin_noise
from langevin_optax._langevin import add_preconditioned_noise as add_preconditioned_noise
from langevin_optax._layer_mask import layer_mask as layer_mask
from langevin_optax._layer_order import layer_order as layer_order
from langevin_optax._noise import noise_like as noise_like
from langevin_optax._optimizers_variants import adabelief as adabelief
from langevin_optax._optimizers_adam import adam as adam
from langevin_optax._optimizers_variants import adamax as adamax
from langevin_optax._optimizers_adam import adamw as adamw
from langevin_optax._optimizers_adam import amsgrad as amsgrad
from langevin_optax._optimizers_adam import nadam as nadam
from langevin_optax._optimizers_variants import radam as radam
from langevin_optax._optimizers_variants import yogi as yogi
from langevin_optax._optimizers_rms import adadelta as adadelta
from langevin_optax._optimizers_rms import adagrad as adagrad
from langevin_optax._optimizers_rms import rmsprop as rmsprop
from langevin_optax._optimizers_rms import sgd as sgd
from langevin_optax._partitioned import adlala as adlala
from langevin_optax._partitioned import lala as lala
from langevin_optax._partitioned import lol as lol
from langevin_optax._partitioned import partitioned as partitioned
from langevin_optax._preconditioning import with_preconditioner as with_preconditioner
from langevin_optax._scalers_adam import scale_by_adam as scale_by_adam
from langevin_optax._scalers_adam import scale_by_adamax as scale_by_adamax
from langevin_optax._scalers_adam import scale_by_amsgrad as scale_by_amsgrad
from langevin_optax._scalers_adam import scale_by_belief as scale_by_belief
from langevin_optax._scalers_adam import scale_by_radam as scale_by_radam
from langevin_optax._scalers_adam import scale_by_yogi as scale_by_yogi
from langevin_optax._scalers_rms import identity as identity
from langevin_optax._scalers_rms import scale_by_adadelta as scale_by_adadelta
from langevin_optax._scalers_rms import scale_by_rms as scale_by_rms
from langevin_optax._scalers_rms import scale_by_rss as scale_by_rss
from langevin_optax._scalers_rms import scale_by_stddev as scale_by_stddev
from langevin_optax._scalers_rms import trace as trace
from langevin_optax._schedules import inverse_sqrt_log_schedule as inverse_sqrt_log_schedule

__version__ = "0.1.0"
