"""DiffAct: an encoder that classifies frames, and a decoder that denoises event maps on the encoder's features.

Liu et al., "Diffusion Action Segmentation" (arXiv 2303.17959, section 3), in the form of `Finspire13/DiffAct:model.py`.
The public methods take and give [batch, time, channels]; inside, arrays are [channels, batch, time] (see
`ops/channels_first.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers import temporal
from actloc_jax.layers.dropout import drop, stacked_keep_masks
from actloc_jax.layers.temporal import Dense, DilatedConv
from actloc_jax.ops import diffusion
from actloc_jax.ops.channels_first import add_bias, dense, instance_norm
from actloc_jax.ops.local_attention import Shares, Window, convolve_and_attend

RAW_INPUT, PREDICTIONS = -1, -2  # in `feature_layers`: the input features, the encoder's class probabilities


@dataclasses.dataclass(frozen=True)
class DiffActSizes:
    """Hyper-parameters of DiffAct; the defaults are those of GTEA.

    Attributes:
        num_classes: classes.
        input_dim: channels of the input features.
        encoder_layers, encoder_width, encoder_kernel_size: of the encoder; layer i has dilation 2^i.
        encoder_dropout, channel_dropout, temporal_dropout: rates inside its layers, of input channels, of frames.
        feature_layers: encoder layers whose outputs are the frame features, with RAW_INPUT and PREDICTIONS.
        use_instance_norm: normalise the input over time in the training loss and in sampling.
        decoder_layers, decoder_width, decoder_kernel_size, decoder_dropout: of the decoder.
        time_dim: width of the embedding of the diffusion time.
        timesteps, sampling_steps, eta, scale: of the diffusion; `scale` is the signal's.
        detach_decoder: no gradient flows from the decoder into the encoder.
    """

    num_classes: int
    input_dim: int = 2048
    encoder_layers: int = 10
    encoder_width: int = 64
    encoder_kernel_size: int = 5
    encoder_dropout: float = 0.5
    channel_dropout: float = 0.5
    temporal_dropout: float = 0.5
    feature_layers: tuple[int, ...] = (5, 7, 9)
    use_instance_norm: bool = False
    decoder_layers: int = 8
    decoder_width: int = 24
    decoder_kernel_size: int = 5
    decoder_dropout: float = 0.1
    time_dim: int = 512
    timesteps: int = 1000
    sampling_steps: int = 25
    eta: float = 1.0
    scale: float = 0.5
    detach_decoder: bool = False

    @property
    def feature_dim(self) -> int:
        """Channels of the frame features, which condition the decoder."""
        widths = {RAW_INPUT: self.input_dim, PREDICTIONS: self.num_classes}
        return sum(widths.get(layer, self.encoder_width) for layer in self.feature_layers)


class MixedLayer(nnx.Module):
    """Dilated convolution and local attention side by side, instance norm, feed-forward, residual.

    With a condition, queries and keys are made from input and condition together, values from the input alone.
    """

    def __init__(
        self,
        width: int,
        *,
        taps: int,
        dropout: float,
        condition_dim: int = 0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv = DilatedConv(width, width, kernel_size=taps, **options)
        self.att_q = Dense(width + condition_dim, width, **options)
        self.att_k = Dense(width + condition_dim, width, **options)
        self.att_v = Dense(width, width, **options)
        self.ffn_in = Dense(width, width, **options)
        self.ffn_out = Dense(width, width, **options)
        self.width, self.taps, self.dropout, self.dtype = width, taps, dropout, dtype

    def shares(
        self, condition: jax.Array | None, mask: jax.Array, window: Window, *, keep: jax.Array | None = None
    ) -> Shares:
        """What the biases and `condition` [condition_dim, batch, time] (None for none) add to queries and keys.

        With `keep`, of the condition's shape, dropout is active.
        """
        if condition is None:
            return Shares(self.att_q.bias[...].astype(jnp.float32), self.att_k.bias[...].astype(jnp.float32))
        kernel = jnp.concatenate([self.att_q.kernel[self.width :], self.att_k.kernel[self.width :]], axis=1)
        bias = jnp.concatenate([self.att_q.bias[...], self.att_k.bias[...]])
        both = add_bias(dense(kernel, drop(condition, keep, self.dropout), self.dtype), bias)
        query, key = jnp.split(both, 2)
        return Shares(query, window.pad(jnp.where(mask, key, 0)))

    def branches(self, x: jax.Array, shares: Shares, mask: jax.Array, window: Window) -> tuple[jax.Array, jax.Array]:
        """Convolution and attention of `x` [width, batch, time]: two arrays of that shape, float32."""
        width = self.width
        kernels = [*self.conv.kernel[...], self.att_q.kernel[:width], self.att_k.kernel[:width], self.att_v.kernel[...]]
        x = jnp.where(mask, x, 0)
        sums = convolve_and_attend(jnp.concatenate(kernels, axis=1), x, shares, mask, window, self.dtype)
        convolved = add_bias(sums.convolved, self.conv.bias[...])
        return convolved, add_bias(sums.attended, self.att_v.bias[...], sums.mass)

    def __call__(
        self, x: jax.Array, shares: Shares, mask: jax.Array, window: Window, *, keep: jax.Array | None = None
    ) -> jax.Array:
        """[width, batch, time] to the same; `mask` [batch, time]. What is outside the mask has no meaning.

        With `keep`, of the shape of `x`, dropout is active.
        """
        convolved, context = self.branches(drop(x, keep, self.dropout), shares, mask, window)
        # Masked one by one: the XLA CPU compiler computes a masked sum anew in each of its consumers, a sum only once.
        y = instance_norm(jnp.where(mask, convolved, 0) + jnp.where(mask, context, 0), mask)
        y = nnx.relu(_apply(self.ffn_in, y))
        return x + _apply(self.ffn_out, y)


def _run_layers(layers: nnx.List[MixedLayer], x: jax.Array, shares: list[Shares], mask: jax.Array) -> list[jax.Array]:
    """The outputs [width, batch, time] of layers whose dilations double, without dropout.

    Each is compiled for its own dilation: fixed slices are faster (measured: sampling by a fifth).
    """
    outputs = [x]
    for layer, window, share in zip(layers, _windows(layers), shares, strict=True):
        outputs.append(layer(outputs[-1], share, mask, window))
    return outputs[1:]


def _scan_layers(
    layers: nnx.List[MixedLayer], x: jax.Array, condition: jax.Array | None, mask: jax.Array, rngs: nnx.Rngs
) -> list[jax.Array]:
    """The outputs of `_run_layers` with dropout, compiled as one layer, so that a training step compiles in seconds."""
    count, dropout = len(layers), layers[0].dropout
    graph = nnx.graphdef(layers[0])
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(layer) for layer in layers))
    windows = _windows(layers)
    dilations = jnp.asarray([window.dilation for window in windows])
    keep_inputs = stacked_keep_masks(rngs, dropout, count, x.shape)
    keep_conditions = None if condition is None else stacked_keep_masks(rngs, dropout, count, condition.shape)

    def run(x: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        state, dilation, keep_input, keep_condition = inputs
        layer, window = nnx.merge(graph, state), dataclasses.replace(windows[-1], dilation=dilation)
        shares = layer.shares(condition, mask, window, keep=keep_condition)
        x = layer(x, shares, mask, window, keep=keep_input)
        return x, x

    return list(jax.lax.scan(run, x, (states, dilations, keep_inputs, keep_conditions))[1])


def _shares(layers: nnx.List[MixedLayer], condition: jax.Array | None, mask: jax.Array) -> list[Shares]:
    return [layer.shares(condition, mask, window) for layer, window in zip(layers, _windows(layers), strict=True)]


def _windows(layers: nnx.List[MixedLayer]) -> list[Window]:
    return [Window.of(layer.taps, 2**i) for i, layer in enumerate(layers)]


class Encoder(nnx.Module):
    """Frame classifier: dropout of channels and frames, projection, mixed layers, logits."""

    def __init__(self, sizes: DiffActSizes, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width, taps = sizes.encoder_width, sizes.encoder_kernel_size
        self.conv_in = Dense(sizes.input_dim, width, **options)
        self.layers = nnx.List(
            MixedLayer(width, taps=taps, dropout=sizes.encoder_dropout, **options) for _ in range(sizes.encoder_layers)
        )
        self.conv_out = Dense(width, sizes.num_classes, **options)
        self.drop_channels = nnx.Dropout(sizes.channel_dropout, broadcast_dims=(1,))
        self.drop_frames = nnx.Dropout(sizes.temporal_dropout, broadcast_dims=(2,))
        self.feature_layers = sizes.feature_layers

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        """Runs the encoder.

        Args:
            x: [batch, time, input_dim].
            mask: [batch, time] bool.
            rngs: makes dropout active.

        Returns:
            logits [classes, batch, time], frame features [feature_dim, batch, time], and the output
            [width, batch, time] of every layer.
        """
        dropped = self.drop_channels(x, deterministic=rngs is None, rngs=rngs)
        dropped = self.drop_frames(dropped, deterministic=rngs is None, rngs=rngs)
        h = _time_last(self.conv_in(dropped)).astype(jnp.float32)
        if rngs is None:
            outputs = _run_layers(self.layers, h, _shares(self.layers, None, mask), mask)
        else:
            outputs = _scan_layers(self.layers, h, None, mask, rngs)
        logits = _apply(self.conv_out, outputs[-1])
        chosen = [outputs[i] for i in sorted(set(self.feature_layers) - {RAW_INPUT, PREDICTIONS})]
        before = [_time_last(x).astype(jnp.float32)] if RAW_INPUT in self.feature_layers else []
        after = [jax.nn.softmax(logits, axis=0)] if PREDICTIONS in self.feature_layers else []
        return logits, jnp.concatenate([*before, *chosen, *after]), outputs


class Decoder(nnx.Module):
    """Denoiser of event maps, conditioned on frame features through the attention weights alone.

    Event maps are [classes, batch, time] in 0..1, time vectors (see `time_vector`) [batch, width] or [1, width].
    """

    def __init__(self, sizes: DiffActSizes, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        layer_options = {"taps": sizes.decoder_kernel_size, "dropout": sizes.decoder_dropout, **options}
        width = sizes.decoder_width
        self.time_in = nnx.List(Dense(sizes.time_dim, sizes.time_dim, **options) for _ in range(2))
        self.conv_in = Dense(sizes.num_classes, width, **options)
        self.time_proj = Dense(sizes.time_dim, width, **options)
        self.layers = nnx.List(
            MixedLayer(width, condition_dim=sizes.feature_dim, **layer_options) for _ in range(sizes.decoder_layers)
        )
        self.conv_out = Dense(width, sizes.num_classes, **options)
        self.time_dim = sizes.time_dim

    def time_vector(self, time: jax.Array) -> jax.Array:
        """[batch] diffusion times to [batch, width] float32, added to every frame."""
        vector = self.time_in[1](nnx.swish(self.time_in[0](diffusion.time_embedding(time, self.time_dim))))
        return self.time_proj(nnx.swish(vector)).astype(jnp.float32)

    def __call__(
        self,
        event: jax.Array,
        time_vector: jax.Array,
        condition: jax.Array,
        mask: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Runs the decoder.

        Args:
            event: the diffused event map.
            time_vector: of its diffusion time.
            condition: [feature_dim, batch, time].
            mask: [batch, time] bool.
            rngs: makes dropout active.

        Returns:
            logits [classes, batch, time], and the output [width, batch, time] of every layer.
        """
        if rngs is None:
            return self.step(event, time_vector, self.shares(condition, mask), mask)
        outputs = _scan_layers(self.layers, self._enter(event, time_vector), condition, mask, rngs)
        return _apply(self.conv_out, outputs[-1]), outputs

    def shares(self, condition: jax.Array, mask: jax.Array) -> list[Shares]:
        """Every layer's share of the condition [feature_dim, batch, time]; the same in all sampling steps."""
        return _shares(self.layers, condition, mask)

    def step(
        self, event: jax.Array, time_vector: jax.Array, shares: list[Shares], mask: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        """What `__call__` gives without dropout, logits [classes, batch, time] first, from its condition's shares."""
        outputs = _run_layers(self.layers, self._enter(event, time_vector), shares, mask)
        return _apply(self.conv_out, outputs[-1]), outputs

    def _enter(self, event: jax.Array, time_vector: jax.Array) -> jax.Array:
        return _apply(self.conv_in, event) + time_vector.T[:, :, None]


class Trace(NamedTuple):
    """Every step of a sampling, each [steps, batch, time, classes]: state before it, noise and x_0 predicted."""

    x: jax.Array
    noise: jax.Array
    x0: jax.Array


class DiffAct(nnx.Module):
    """Encoder and decoder, and how they are used together."""

    def __init__(
        self,
        sizes: DiffActSizes,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.sizes = sizes
        self.encoder = Encoder(sizes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.decoder = Decoder(sizes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def normalise_input(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[batch, time, input_dim] normalised over time where the sizes say so: before training and sampling, but not
        before the encoder alone, as published."""
        return temporal.instance_norm(x, mask) if self.sizes.use_instance_norm else x

    def encode(self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        """Logits [batch, time, classes] and features [batch, time, feature_dim] of `x` [batch, time, input_dim]."""
        logits, features, _ = self.encoder(x, mask, rngs=rngs)
        return _channels_last(logits), _channels_last(features)

    def denoise(
        self,
        condition: jax.Array,
        time: jax.Array,
        event: jax.Array,
        mask: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Logits [batch, time, classes] of the decoder.

        Args:
            condition: [batch, time, feature_dim].
            time: [batch] int, diffusion times.
            event: [batch, time, classes] in 0..1, the diffused event map.
            mask: [batch, time] bool.
            rngs: makes dropout active.
        """
        if self.sizes.detach_decoder:
            condition = jax.lax.stop_gradient(condition)
        time_vector = self.decoder.time_vector(time)
        logits, _ = self.decoder(_time_last(event), time_vector, _time_last(condition), mask, rngs=rngs)
        return _channels_last(logits)

    def sample(
        self,
        x: jax.Array,
        mask: jax.Array,
        keys: jax.Array | None,
        *,
        condition: jax.Array | None = None,
        noise: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
        trace: bool = False,
    ) -> jax.Array | tuple[jax.Array, Trace]:
        """Class probabilities by DDIM, one `lax.scan` over the steps.

        The noise of a video depends on its key alone, not on its place in the batch or on padding.

        Args:
            x: [batch, time, input_dim].
            mask: [batch, time] bool.
            keys: [batch] typed PRNG keys; may be None with `noise`.
            condition: frame features [batch, time, feature_dim] of `x`, if the encoder has run on it already.
            noise: [steps, batch, time, classes] standard normal, the start and one for every step but the last.
            rngs: makes dropout active, with fresh masks in every step.
            trace: also return every step.

        Returns:
            [batch, time, classes] float32, and the `Trace` if asked for.
        """
        sizes = self.sizes
        if condition is None or sizes.use_instance_norm:
            _, condition, _ = self.encoder(self.normalise_input(x, mask), mask, rngs=rngs)
        else:
            condition = _time_last(condition)
        steps = diffusion.ddim_steps(sizes.timesteps, sizes.sampling_steps, sizes.eta)
        time_vectors = self.decoder.time_vector(jnp.asarray(steps.time))
        dropout_key = None if rngs is None else rngs.dropout()
        shares = None if rngs is not None else self.decoder.shares(condition, mask)
        draw = functools.partial(_noise, noise, keys, (mask.shape[1], sizes.num_classes))

        def step(state: jax.Array, inputs: tuple) -> tuple[jax.Array, Trace | None]:
            index, coefficients, time_vector = inputs
            event = diffusion.denormalise(jnp.clip(state, -sizes.scale, sizes.scale), sizes.scale)
            if dropout_key is None:
                logits, _ = self.decoder.step(event, time_vector[None], shares, mask)
            else:
                dropout = nnx.Rngs(dropout=jax.random.fold_in(dropout_key, index))
                logits, _ = self.decoder(event, time_vector[None], condition, mask, rngs=dropout)
            probabilities = jax.nn.softmax(logits, axis=0)
            x0 = jnp.clip(diffusion.normalise(probabilities, sizes.scale), -sizes.scale, sizes.scale)
            predicted = (coefficients.recip * state - x0) / coefficients.recipm1
            following = (
                coefficients.signal * x0 + coefficients.direction * predicted + coefficients.sigma * draw(index + 1)
            )
            return following, Trace(*map(_channels_last, (state, predicted, x0))) if trace else None

        coefficients = jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), steps)
        inputs = (jnp.arange(sizes.sampling_steps), coefficients, time_vectors)
        final, traced = jax.lax.scan(step, draw(jnp.zeros((), jnp.int32)), inputs)
        probabilities = _channels_last(diffusion.denormalise(final, sizes.scale))
        return (probabilities, traced) if trace else probabilities


def _noise(given: jax.Array | None, keys: jax.Array, shape: tuple[int, int], index: jax.Array) -> jax.Array:
    """Noise number `index` as [classes, batch, time]; of given noise the last is repeated, where nothing reads it."""
    if given is not None:
        return _time_last(given[jnp.minimum(index, given.shape[0] - 1)])
    # Drawn flat, which gives the same numbers but no short axis to vectorise along.
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, index), (math.prod(shape),)).reshape(shape)  # noqa: E731
    return _time_last(jax.vmap(draw)(keys))


def _apply(layer: Dense, x: jax.Array) -> jax.Array:
    """`layer` on every frame of [in, batch, time], to [out, batch, time] float32."""
    return add_bias(dense(layer.kernel[...], x, layer.dtype), layer.bias[...])


def _time_last(x: jax.Array) -> jax.Array:
    return jnp.transpose(x, (2, 0, 1))


def _channels_last(x: jax.Array) -> jax.Array:
    return jnp.transpose(x, (1, 2, 0))
