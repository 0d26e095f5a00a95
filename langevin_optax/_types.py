"""The types that public signatures share."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

ArrayLike: TypeAlias = jax.typing.ArrayLike

# Optax has no py.typed, so its own Schedule is Any for users.
ScalarOrSchedule: TypeAlias = float | jax.Array | Callable[[ArrayLike], ArrayLike]
Mask: TypeAlias = Any | Callable[[optax.Params], Any]
