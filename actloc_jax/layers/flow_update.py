"""The recurrent step of RAFT: from correlations and flow to a new state, and from the state to a change of the flow.

Source: `princeton-vl/RAFT:core/update.py`. Axes are [pairs, height, width, channels], an eighth of the images' size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from actloc_jax.layers.image_conv import ImageConv, convolve


class Gates(NamedTuple):
    """What a recurrent unit needs in every iteration and that is the same in all of them.

    Attributes:
        constant: [pairs, height, width, 3 * hidden], what context and biases add to update, reset and candidate.
        from_motion: kernel [rows, columns, motion, 3 * hidden].
        from_state: kernel [rows, columns, hidden, 2 * hidden], to update and reset.
        from_reset: kernel [rows, columns, hidden, hidden], to the candidate.
    """

    constant: jax.Array
    from_motion: jax.Array
    from_state: jax.Array
    from_reset: jax.Array


class ConvGru(nnx.Module):
    """A gated recurrent unit whose maps are convolutions of [state, context, motion].

    Attributes (the names of the original): `convz` (update), `convr` (reset), `convq` (candidate).
    """

    def __init__(self, hidden: int, inputs: int, *, kernel_size: tuple[int, int], **options: Any):
        self.convz = ImageConv(hidden + inputs, hidden, kernel_size=kernel_size, **options)
        self.convr = ImageConv(hidden + inputs, hidden, kernel_size=kernel_size, **options)
        self.convq = ImageConv(hidden + inputs, hidden, kernel_size=kernel_size, **options)
        self.hidden = hidden

    def prepared(self, context: jax.Array) -> Gates:
        """A third of the work does not change over the iterations; [pairs, height, width, context]."""
        dtype = self.convz.dtype
        update, reset, candidate = (
            jnp.split(conv.kernel[...].astype(dtype), [self.hidden, self.hidden + context.shape[-1]], axis=2)
            for conv in (self.convz, self.convr, self.convq)
        )
        of_state, of_context, of_motion = (
            jnp.concatenate(parts, axis=-1) for parts in zip(update, reset, candidate, strict=True)
        )
        bias = jnp.concatenate([conv.bias[...] for conv in (self.convz, self.convr, self.convq)]).astype(dtype)
        constant = convolve(context.astype(dtype), of_context) + bias
        return Gates(constant, of_motion, of_state[..., : 2 * self.hidden], of_state[..., 2 * self.hidden :])

    def __call__(self, state: jax.Array, motion: jax.Array, gates: Gates) -> jax.Array:
        """The next state, [pairs, height, width, hidden], from the last one and [pairs, height, width, motion]."""
        given = gates.constant + convolve(motion, gates.from_motion)
        update, reset = jnp.split(
            nnx.sigmoid(given[..., : 2 * self.hidden] + convolve(state, gates.from_state)), 2, axis=-1
        )
        candidate = jnp.tanh(given[..., 2 * self.hidden :] + convolve(reset * state, gates.from_reset))
        return (1 - update) * state + update * candidate


class MotionEncoder(nnx.Module):
    """Correlations and flow to what the recurrent unit sees of them; the last two channels are the flow itself.

    Attributes (the names of the original): `convc1` (`convc2`), `convf1`, `convf2`, `conv`.
    """

    def __init__(
        self, window: int, *, correlations: tuple[int, ...], motions: tuple[int, int], motion: int, **options: Any
    ):
        """Makes the encoder.

        Args:
            window: channels of the correlations.
            correlations: channels of the one or two convolutions after them.
            motions: channels of the two convolutions after the flow.
            motion: channels of what both become.
            options: of `ImageConv`.
        """
        self.convc1 = ImageConv(window, correlations[0], kernel_size=1, **options)
        self.is_deep = len(correlations) > 1
        if self.is_deep:
            self.convc2 = ImageConv(*correlations, kernel_size=3, **options)
        self.convf1 = ImageConv(2, motions[0], kernel_size=7, **options)
        self.convf2 = ImageConv(*motions, kernel_size=3, **options)
        self.conv = ImageConv(correlations[-1] + motions[-1], motion, kernel_size=3, **options)

    def __call__(self, correlations: jax.Array, flow: jax.Array) -> jax.Array:
        """[pairs, height, width, window] and [pairs, height, width, 2] to [pairs, height, width, motion + 2]."""
        seen = nnx.relu(self.convc1(correlations))
        seen = nnx.relu(self.convc2(seen)) if self.is_deep else seen
        moved = nnx.relu(self.convf2(nnx.relu(self.convf1(flow))))
        both = nnx.relu(self.conv(jnp.concatenate([seen, moved], axis=-1)))
        return jnp.concatenate([both, flow.astype(both.dtype)], axis=-1)


class Head(nnx.Module):
    """Two convolutions with a ReLU between them.

    Attributes: `conv1`, `conv2`.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int, *, last_kernel: int, **options: Any):
        self.conv1 = ImageConv(in_features, hidden, kernel_size=3, **options)
        self.conv2 = ImageConv(hidden, out_features, kernel_size=last_kernel, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[pairs, height, width, in_features] to [pairs, height, width, out_features]."""
        return self.conv2(nnx.relu(self.conv1(x)))
