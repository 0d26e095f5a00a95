"""From optimiser to posterior: chains and their draws, links that record, metrics, the local learning coefficient."""

from langevin_optax.sampling._control_variate import control_variate as control_variate
from langevin_optax.sampling._cyclical import cyclical_schedules as cyclical_schedules
from langevin_optax.sampling._exchange import from_optax as from_optax
from langevin_optax.sampling._exchange import to_optax as to_optax
from langevin_optax.sampling._llc import llc_along_training as llc_along_training
from langevin_optax.sampling._llc import local_learning_coefficient as local_learning_coefficient
from langevin_optax.sampling._llc_result import LLC as LLC
from langevin_optax.sampling._llc_sweep import LLCSweep as LLCSweep
from langevin_optax.sampling._llc_sweep import llc_sweep as llc_sweep
from langevin_optax.sampling._metrics import Metrics as Metrics
from langevin_optax.sampling._metrics import MetricsState as MetricsState
from langevin_optax.sampling._metrics import metrics as metrics
from langevin_optax.sampling._metrics import with_metrics as with_metrics
from langevin_optax.sampling._moments import MomentsState as MomentsState
from langevin_optax.sampling._moments import mean_and_variance as mean_and_variance
from langevin_optax.sampling._moments import moments as moments
from langevin_optax.sampling._posterior_scale import Posterior as Posterior
from langevin_optax.sampling._posterior_scale import tempered_posterior as tempered_posterior
from langevin_optax.sampling._sample import sample as sample
from langevin_optax.sampling._samples import SamplerState as SamplerState
from langevin_optax.sampling._samples import Samples as Samples
from langevin_optax.sampling._snapshots import SnapshotsState as SnapshotsState
from langevin_optax.sampling._snapshots import snapshots as snapshots
from langevin_optax.sampling._snapshots import snapshots_of as snapshots_of
from langevin_optax.sampling._thermometers import configurational_temperature as configurational_temperature
