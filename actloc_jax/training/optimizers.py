"""Optimizers, learning-rate schedules, parameter groups and gradient accumulation, as optax transformations.

The published systems were trained with PyTorch, so the defaults here are PyTorch's: weight decay is added to the
gradient before the moments (L2 regularisation, "coupled"), and Adam divides by `sqrt(v_hat) + eps`.
A schedule is a function of the OPTIMIZER step, which with gradient accumulation is not the number of batches seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[Any], Any]
FROZEN = "frozen"


def adam(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam as `torch.optim.Adam` computes it: `weight_decay * parameter` joins the gradient before the moments."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`: the parameter shrinks by `rate * weight_decay`."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def sgd(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> optax.GradientTransformation:
    """Gradient descent with heavy-ball momentum as `torch.optim.SGD`: coupled weight decay, no dampening."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.trace(decay=momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": adam, "adamw": adamw, "sgd": sgd}


def make_optimizer(name: str, learning_rate: float | Schedule, **options: Any) -> optax.GradientTransformation:
    """`OPTIMIZERS[name](learning_rate, **options)`. Raises ValueError for a name that the table does not hold."""
    return _look_up(OPTIMIZERS, name, "optimizer")(learning_rate, **options)


def constant(lr: float) -> Schedule:
    """The rate `lr` at every step."""
    return lambda step: _numpy_of(step).full(np.shape(step), lr)


def cosine_to(lr: float, minimum: float, total_steps: int, warmup_steps: int = 0) -> Schedule:
    """Half a cosine from `lr` down to `minimum`, after an optional linear warm-up (TST, `tst/train.py`).

    The warm-up goes from 1% of `lr` at step 0 to 100% at step `warmup_steps`, where the cosine over the remaining
    `total_steps - warmup_steps` steps starts. From `total_steps` on the rate stays at `minimum`.
    Computed in float64 for a Python or NumPy step, in float32 for a traced one.

    Raises:
        ValueError: if the warm-up leaves no step for the cosine.
    """
    decay_steps = total_steps - warmup_steps
    if decay_steps <= 0:
        raise ValueError(
            f"warmup_steps={warmup_steps} leaves no step of total_steps={total_steps} for the cosine; "
            "shorten the warm-up or train longer."
        )

    def schedule(step: Any) -> Any:
        xp = _numpy_of(step)
        progress = xp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
        cosine = minimum + (lr - minimum) * (1.0 + xp.cos(math.pi * progress)) / 2.0
        warmup = lr * (0.01 + 0.99 * step / max(warmup_steps, 1))
        return xp.where(step < warmup_steps, warmup, cosine)

    return schedule


def warmup_cosine(
    lr: float, minimum: float, warmup_steps: int, total_steps: float, *, from_zero: bool = True
) -> Schedule:
    """A linear warm-up from 0 to `lr`, then half a cosine down to `minimum` (`LinearWarmupCosineAnnealingLR`).

    Used by ActionFormer, TriDet and FuSTAL. The warm-up reaches `lr` at its last step, `warmup_steps - 1`, and the
    cosine starts there again, at `warmup_steps`. Beyond `total_steps` the cosine swings back. A huge number of steps
    gives a constant rate. With `from_zero` the first step has rate 0, as published; else the warm-up starts above it.
    Computed in float64 for a Python or NumPy step, in float32 for a traced one.
    """

    def schedule(step: Any) -> Any:
        xp = _numpy_of(step)
        progress = (step - warmup_steps) * (1 / (total_steps - warmup_steps))  # no overflow of float32
        cosine = minimum + (lr - minimum) * (1.0 + xp.cos(math.pi * progress)) / 2.0
        return xp.where(step < warmup_steps, _linear_warmup(lr, warmup_steps, step, from_zero), cosine)

    return schedule


def warmup_multistep(
    lr: float, warmup_steps: int, milestones: Sequence[int], factor: float = 0.1, *, from_zero: bool = True
) -> Schedule:
    """The same warm-up, then `lr` times `factor` for every milestone reached (`LinearWarmupMultiStepLR`).

    Args:
        lr: the rate after the warm-up.
        warmup_steps: its steps.
        milestones: steps, counted from the end of the warm-up.
        factor: of each.
        from_zero: as in `warmup_cosine`.
    """

    def schedule(step: Any) -> Any:
        xp = _numpy_of(step)
        reached = sum(xp.where(step - warmup_steps >= milestone, 1, 0) for milestone in milestones)
        return xp.where(step < warmup_steps, _linear_warmup(lr, warmup_steps, step, from_zero), lr * factor**reached)

    return schedule


def warmup_cosine_restarts(
    lr: float,
    *,
    period_epochs: int,
    steps_per_epoch: int,
    warmup_steps: int,
    warmup_ratio: float = 0.1,
    minimum_ratio: float = 0.01,
) -> Schedule:
    """Half a cosine from `lr` to `minimum_ratio * lr` that starts again every `period_epochs` (TALLFormer, THUMOS14).

    The cosine changes from epoch to epoch only. During the first `warmup_steps` the rate is a growing part of it, from
    `warmup_ratio` on. Computed in float64 for a Python or NumPy step, in float32 for a traced one.
    """

    def schedule(step: Any) -> Any:
        xp = _numpy_of(step)
        progress = step // steps_per_epoch % period_epochs / period_epochs
        regular = lr * (minimum_ratio + (1 - minimum_ratio) * (1.0 + xp.cos(math.pi * progress)) / 2.0)
        part = 1 - (1 - step / max(warmup_steps, 1)) * (1 - warmup_ratio)
        return regular * xp.where(step < warmup_steps, part, 1.0)

    return schedule


def _linear_warmup(lr: float, steps: int, step: Any, from_zero: bool) -> Any:
    """From 0 (or one part of `steps`) at step 0 to `lr` at step `steps - 1`."""
    return lr * step / max(steps - 1, 1) if from_zero else lr * (step + 1) / steps


def halve_every(lr: float, steps: int) -> Schedule:
    """`lr`, halved after every `steps` optimizer steps (TST's "step" scheduler, there with 30)."""

    def schedule(step: Any) -> Any:
        xp = _numpy_of(step)
        return lr * xp.power(0.5, step // steps)

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine_to,
    "halving": halve_every,
    "warmup_cosine": warmup_cosine,
    "warmup_cosine_restarts": warmup_cosine_restarts,
    "warmup_multistep": warmup_multistep,
}


def make_schedule(name: str, lr: float, **options: Any) -> Schedule:
    """`SCHEDULES[name](lr, **options)`. Raises ValueError for a name that the table does not hold."""
    return _look_up(SCHEDULES, name, "schedule")(lr, **options)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Scales all gradients together so that their norm is at most `limit`, as `torch.nn.utils.clip_grad_norm_`."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * factor.astype(gradient.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_kernels(
    learning_rate: float | Schedule, weight_decay: float, make: Callable[..., optax.GradientTransformation] = adamw
) -> optax.GradientTransformation:
    """An optimizer that shrinks the kernels of linear maps and convolutions and no other parameter.

    Biases, scales and embeddings are not decayed, as in ActionFormer and TriDet (`libs/utils/train_utils.py`).
    """
    return grouped(
        {"kernels": make(learning_rate, weight_decay=weight_decay), "others": make(learning_rate)},
        lambda path: "kernels" if path.rsplit("/", 1)[-1] == "kernel" else "others",
    )


def learning_rates(schedules: Mapping[str, float | Schedule], step: int) -> dict[str, float]:
    """The learning rate of each parameter group at optimizer step `step`, in float64, for the log."""
    return {group: float(rate(step)) if callable(rate) else float(rate) for group, rate in schedules.items()}


def grouped(
    groups: Mapping[str, optax.GradientTransformation], label_of_path: Callable[[str], str]
) -> optax.GradientTransformationExtraArgs:
    """One transformation per group of parameters.

    Args:
        groups: group name -> transformation.
        label_of_path: a parameter's "/"-joined path, such as `refiner/pd_proj2/kernel`, -> its group's name. The
            label "frozen" needs no transformation: its parameters are never changed (no decay either) and the
            optimizer keeps no memory for them.

    Raises:
        ValueError: from `init`, if a label names no group or a group has no parameter.
    """
    transforms = {**groups, FROZEN: optax.set_to_zero()}

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: label_of_path(_joined(path)), params)

    inner = optax.multi_transform(transforms, labels)

    def init(params: Any) -> Any:
        leaves = jax.tree_util.tree_leaves_with_path(params)
        found = {_joined(path): label_of_path(_joined(path)) for path, _ in leaves}
        unknown = {path: label for path, label in found.items() if label not in transforms}
        if unknown:
            path, label = next(iter(unknown.items()))
            raise ValueError(
                f"{len(unknown)} parameters belong to no known group; the first is {path!r} in group {label!r}. "
                f"Known groups: {sorted(transforms)}."
            )
        empty = sorted(set(groups) - set(found.values()))
        if empty:
            raise ValueError(f"Parameter groups without any parameter: {empty}. Groups in use: {set(found.values())}.")
        return inner.init(params)

    return optax.GradientTransformationExtraArgs(init, inner.update)


class AccumulateState(NamedTuple):
    """State of `accumulate`: micro-steps since the last update and since the epoch began, sum, inner state."""

    in_group: jax.Array
    in_epoch: jax.Array
    gradients: Any
    inner: Any


def accumulate(
    tx: optax.GradientTransformation, every: int, steps_per_epoch: int | None = None
) -> optax.GradientTransformation:
    """Sums the gradients of `every` micro-steps, each divided by `every`, and updates once with `tx`.

    In between the updates are zero and the state of `tx`, its step count included, stands still.
    Put it inside `grouped`, around each group's transformation, so that frozen parameters need no sum.

    Args:
        tx: the transformation to run once per group of micro-steps.
        every: number of micro-steps per update.
        steps_per_epoch: micro-steps in an epoch. If given, an epoch's end closes the group even when it is shorter
            (its gradients are still divided by `every`; TST, `tst/train.py`). Without it the groups run on over the
            epochs (DiffAct, `main.py`).
    """
    if every < 1 or (steps_per_epoch is not None and steps_per_epoch < 1):
        raise ValueError(f"every and steps_per_epoch must be at least 1, got {every} and {steps_per_epoch}.")
    if every == 1:
        return tx
    tx = optax.with_extra_args_support(tx)

    def init(params: Any) -> AccumulateState:
        zero = jnp.zeros((), jnp.int32)
        return AccumulateState(zero, zero, jax.tree.map(jnp.zeros_like, params), tx.init(params))

    def update(updates: Any, state: AccumulateState, params: Any = None, **extra: Any) -> tuple[Any, AccumulateState]:
        gradients = jax.tree.map(lambda total, new: total + new / every, state.gradients, updates)
        in_group, in_epoch = state.in_group + 1, state.in_epoch + 1
        complete = in_group == every
        if steps_per_epoch is not None:
            complete |= in_epoch == steps_per_epoch
            in_epoch %= steps_per_epoch
        else:
            in_epoch = state.in_epoch  # not counted, so that it cannot overflow

        def apply() -> tuple[Any, Any, Any]:
            new_updates, inner = tx.update(gradients, state.inner, params, **extra)
            return new_updates, jax.tree.map(jnp.zeros_like, gradients), inner

        def wait() -> tuple[Any, Any, Any]:
            return jax.tree.map(jnp.zeros_like, updates), gradients, state.inner

        new_updates, gradients, inner = jax.lax.cond(complete, apply, wait)
        return new_updates, AccumulateState(jnp.where(complete, 0, in_group), in_epoch, gradients, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def optimizer_steps(micro_steps: int, every: int, steps_per_epoch: int | None = None) -> int:
    """How many updates `accumulate` has made after `micro_steps` batches: the step that schedules are asked for."""
    if steps_per_epoch is None:
        return micro_steps // every
    epochs, rest = divmod(micro_steps, steps_per_epoch)
    return epochs * math.ceil(steps_per_epoch / every) + rest // every


class PlateauState(NamedTuple):
    """State of `halve_on_plateau`."""

    plateau: optax.contrib.ReduceLROnPlateauState


def halve_on_plateau(patience: int, steps_per_epoch: int, rtol: float = 1e-4) -> optax.GradientTransformationExtraArgs:
    """Halves the updates after more than `patience` epochs without a better mean loss (ASFormer, `model.py`).

    Semantics of `torch.optim.lr_scheduler.ReduceLROnPlateau`: an epoch is better if its loss is below
    `(1 - rtol) * best`; the (patience + 1)-th epoch in a row that is not better halves the rate, from the next
    epoch on. Chain it after the optimizer (and after `accumulate`): it must see every batch.
    Its `update` needs the batch loss: `tx.update(gradients, state, params, value=loss)`.
    """
    # optax counts to `patience`, PyTorch beyond it.
    plateau = optax.contrib.reduce_on_plateau(
        factor=0.5, patience=patience + 1, rtol=rtol, accumulation_size=steps_per_epoch
    )

    def init(params: Any) -> PlateauState:
        return PlateauState(plateau.init(params))

    def update(updates: Any, state: PlateauState, params: Any = None, *, value: Any, **_: Any) -> tuple[Any, Any]:
        # The rate of the epoch that is ending must hold for its last batch too, so the old scale is applied.
        scaled = jax.tree.map(lambda update: update * state.plateau.scale.astype(update.dtype), updates)
        return scaled, PlateauState(plateau.update({}, state.plateau, value=value)[1])

    return optax.GradientTransformationExtraArgs(init, update)


def plateau_scale(opt_state: Any) -> jax.Array:
    """Scalar float32: the factor by which a `halve_on_plateau` inside `opt_state` scales the rate; 1 without one."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, PlateauState))
    scales = [node.plateau.scale for node in nodes if isinstance(node, PlateauState)]
    return math.prod(scales, start=jnp.ones(()))


def _joined(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _numpy_of(step: Any) -> Any:
    """NumPy, with its float64, for a concrete step; jax.numpy inside jit."""
    return jnp if isinstance(step, jax.Array) else np


def _look_up(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"Unknown {what} {name!r}; known: {', '.join(sorted(table))}.")
    return table[name]
