"""The state of a training run: one plain pytree, and the gradient step that most stages share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from actloc_jax.training import ema as ema_lib

Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that a run carries from step to step.

    Attributes:
        params: nested dict of arrays.
        batch_stats: nested dict of running statistics; empty where the network has none.
        opt_state: the optimizer's state.
        ema: averaged parameters, or an empty dict.
        step: int32 scalar, number of train steps taken in this stage.
        extra: belongs to the system (a memory bank, a teacher, prototypes); the loop never looks inside.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    step: jax.Array
    extra: Any

    @property
    def model(self) -> dict[str, Any]:
        """What prediction needs: averaged parameters where the stage keeps them, and running statistics."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


class LossOutput(NamedTuple):
    """A loss and what the step keeps of it: scalar `loss`, scalars to log, new statistics and new `extra`."""

    loss: jax.Array
    metrics: Metrics
    batch_stats: Any
    extra: Any


LossFn = Callable[[Any, TrainState, Batch, jax.Array], LossOutput]


def create(
    params: Any, tx: optax.GradientTransformation, *, batch_stats: Any = None, extra: Any = None, ema: bool = False
) -> TrainState:
    """A fresh state at step 0 around `params`."""
    return TrainState(
        params=params,
        batch_stats={} if batch_stats is None else batch_stats,
        opt_state=tx.init(params),
        ema=ema_lib.init(params) if ema else {},
        step=jnp.zeros((), jnp.int32),
        extra={} if extra is None else extra,
    )


class Gradients(NamedTuple):
    """What the first half of a train step finds: gradients of the parameters, and `LossOutput`'s other fields."""

    params: Any
    batch_stats: Any
    extra: Any
    scalars: Metrics


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A train step in two pure halves, so that a new batch shape compiles only the first of them.

    Attributes:
        gradients: `(extra, state without extra and opt_state, batch, key) -> Gradients`; `extra` may be donated.
        update: `(state without extra and batch_stats, gradients of the parameters, scalars) -> (state, scalars)`; sees
            no batch; the state may be donated.
    """

    gradients: Callable[[Any, TrainState, Batch, jax.Array], Gradients]
    update: Callable[[TrainState, Any, Metrics], tuple[TrainState, Metrics]]

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """Both halves: the state after the step, and scalars to log. `key` is the same in all steps."""
        found = self.gradients(state.extra, without(state, "extra", "opt_state"), batch, key)
        state, scalars = self.update(without(state, "extra", "batch_stats"), found.params, found.scalars)
        return state._replace(batch_stats=found.batch_stats, extra=found.extra), scalars


def without(state: TrainState, *fields: str) -> TrainState:
    """The state with these fields empty."""
    return state._replace(**dict.fromkeys(fields, ()))


def gradient_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    project: Callable[[Any], Any] = lambda params: params,
    skippable: bool = False,
) -> TrainStep:
    """The train step of a stage that follows a gradient.

    Args:
        loss_fn: `(params, state, batch, key) -> LossOutput`; differentiated in its first argument.
        tx: the optimizer; receives the loss as `value` for schedules that look at it.
        ema_decay: where given, `state.ema` follows the parameters with this decay.
        project: puts the parameters back where they belong before every step (clusters onto the sphere).
        skippable: the loss has a metric `skipped`; where it is above zero, parameters, their average and the
            optimizer stay as they are.
    """

    def objective(params: Any, *rest: Any) -> tuple[jax.Array, LossOutput]:
        output = loss_fn(params, *rest)
        return output.loss, output

    tx = optax.with_extra_args_support(tx)

    def gradients(extra: Any, state: TrainState, batch: Batch, key: jax.Array) -> Gradients:
        state = state._replace(extra=extra, params=project(state.params))
        step_key = jax.random.fold_in(key, state.step)
        grads, output = jax.grad(objective, has_aux=True)(state.params, state, batch, step_key)
        return Gradients(grads, output.batch_stats, output.extra, {"loss": output.loss, **output.metrics})

    def update(state: TrainState, grads: Any, scalars: Metrics) -> tuple[TrainState, Metrics]:
        params = project(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, params, value=scalars["loss"])
        params = optax.apply_updates(params, updates)
        ema = state.ema if ema_decay is None else ema_lib.update(state.ema, params, ema_decay)
        new = state._replace(params=params, opt_state=opt_state, ema=ema)
        if skippable:
            new = jax.tree.map(lambda before, after: jnp.where(scalars["skipped"] > 0, before, after), state, new)
        return new._replace(step=state.step + 1), {**scalars, "grad_norm": optax.tree.norm(grads)}

    return TrainStep(gradients, update)
