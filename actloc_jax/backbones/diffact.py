"""DiffAct: an encoder that classifies frames, and a decoder that denoises event maps on the encoder's features.

Liu et al., "Diffusion Action Segmentation" (arXiv 2303.17959, section 3), in the form of `Finspire13/DiffAct:model.py`.
The public methods take and give [batch, time, channels]; inside, arrays are [channels, batch, time] (see
`ops/local_attention.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from actloc_jax.layers.dropout import drop, keep_masks
from actloc_jax.layers.temporal import Dense, DilatedConv, instance_norm
from actloc_jax.ops import diffusion
from actloc_jax.ops.local_attention import local_attention, pad_time, tap

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


class Shares(NamedTuple):
    """The part of a layer's queries and keys that does not come from its input: biases, and the condition's share.

    Attributes:
        query: [width, batch, time] or [width, 1, 1].
        key: [width, batch, margin + time + margin], zero outside the video.
    """

    query: jax.Array
    key: jax.Array


class MixedLayer(nnx.Module):
    """Dilated convolution and local attention side by side, instance norm, feed-forward, residual.

    With a condition, queries and keys are made from input and condition together, values from the input alone.
    """

    def __init__(
        self,
        width: int,
        *,
        kernel_size: int,
        dilation: int,
        dropout: float,
        condition_dim: int = 0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv = DilatedConv(width, width, kernel_size=kernel_size, dilation=dilation, **options)
        self.att_q = Dense(width + condition_dim, width, **options)
        self.att_k = Dense(width + condition_dim, width, **options)
        self.att_v = Dense(width, width, **options)
        self.ffn_in = Dense(width, width, **options)
        self.ffn_out = Dense(width, width, **options)
        self.width, self.taps, self.dilation, self.dropout, self.dtype = width, kernel_size, dilation, dropout, dtype
        self.margin = kernel_size // 2 * dilation

    def shares(self, condition: jax.Array | None, mask: jax.Array, *, keep: jax.Array | None = None) -> Shares:
        """What `condition` [condition_dim, batch, time] (None for none) and the biases add to queries and keys.

        With `keep`, of the condition's shape, dropout is active.
        """
        query, key = _column(self.att_q.bias), _column(self.att_k.bias)
        if condition is not None:
            condition = drop(condition, keep, self.dropout)
            kernel = jnp.concatenate([self.att_q.kernel[self.width :], self.att_k.kernel[self.width :]], axis=1)
            both = _project(kernel, condition, self.dtype)
            query, key = query + both[: self.width], key + both[self.width :]
        key = jnp.where(mask, key, 0)
        return Shares(query, pad_time(key, self.margin))

    def branches(self, x: jax.Array, shares: Shares, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolution and attention of `x` [width, batch, time]: two arrays of that shape, float32."""
        width, time = self.width, x.shape[-1]
        padded = pad_time(jnp.where(mask, x, 0), self.margin)
        kernel = self.conv.kernel[...]
        # One product for all taps, queries, keys and values; the taps are shifted afterwards.
        everything = [*kernel, self.att_q.kernel[:width], self.att_k.kernel[:width], self.att_v.kernel[...]]
        projected = _project(jnp.concatenate(everything, axis=1), padded, self.dtype)
        parts = jnp.split(projected, self.taps + 3)
        convolved = sum(tap(parts[j], j, self.dilation, time) for j in range(self.taps)) + _column(self.conv.bias)
        query, key, value = parts[self.taps :]
        context, mass = local_attention(
            jax.lax.slice_in_dim(query, self.margin, self.margin + time, axis=2) + shares.query,
            key + shares.key,
            value,
            mask,
            taps=self.taps,
            dilation=self.dilation,
        )
        return convolved, context + jnp.einsum("c,bt->cbt", self.att_v.bias[...].astype(jnp.float32), mass)

    def __call__(self, x: jax.Array, shares: Shares, mask: jax.Array, *, keep: jax.Array | None = None) -> jax.Array:
        """[width, batch, time] to the same; `mask` [batch, time]. What is outside the mask has no meaning.

        With `keep`, of the shape of `x`, dropout is active.
        """
        convolved, context = self.branches(drop(x, keep, self.dropout), shares, mask)
        y = _norm_over_time(convolved + context, mask)
        y = nnx.relu(_project(self.ffn_in.kernel[...], y, self.dtype) + _column(self.ffn_in.bias))
        return x + _project(self.ffn_out.kernel[...], y, self.dtype) + _column(self.ffn_out.bias)


class Encoder(nnx.Module):
    """Frame classifier: dropout of channels and frames, projection, mixed layers, logits."""

    def __init__(self, sizes: DiffActSizes, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.conv_in = Dense(sizes.input_dim, sizes.encoder_width, **options)
        self.layers = nnx.List(
            MixedLayer(
                sizes.encoder_width,
                kernel_size=sizes.encoder_kernel_size,
                dilation=2**i,
                dropout=sizes.encoder_dropout,
                **options,
            )
            for i in range(sizes.encoder_layers)
        )
        self.conv_out = Dense(sizes.encoder_width, sizes.num_classes, **options)
        self.drop_channels = nnx.Dropout(sizes.channel_dropout, broadcast_dims=(1,))
        self.drop_frames = nnx.Dropout(sizes.temporal_dropout, broadcast_dims=(2,))
        self.feature_layers, self.dropout = sizes.feature_layers, sizes.encoder_dropout

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        """Runs the encoder.

        Args:
            x: [batch, time, input_dim].
            mask: [batch, time] bool.
            rngs: makes dropout active.

        Returns:
            logits [batch, time, classes], frame features [batch, time, feature_dim], and the output
            [width, batch, time] of every layer.
        """
        dropped = self.drop_channels(x, deterministic=rngs is None, rngs=rngs)
        dropped = self.drop_frames(dropped, deterministic=rngs is None, rngs=rngs)
        h = _time_last(self.conv_in(dropped)).astype(jnp.float32)
        outputs = []
        keeps = keep_masks(rngs, self.dropout, len(self.layers), h.shape)
        for layer, keep in zip(self.layers, keeps, strict=True):
            h = layer(h, layer.shares(None, mask), mask, keep=keep)
            outputs.append(h)
        logits = _project(self.conv_out.kernel[...], h, self.conv_out.dtype) + _column(self.conv_out.bias)
        logits = _channels_last(logits)
        chosen = [_channels_last(outputs[i]) for i in sorted(set(self.feature_layers) - {RAW_INPUT, PREDICTIONS})]
        before = [x.astype(jnp.float32)] if RAW_INPUT in self.feature_layers else []
        after = [jax.nn.softmax(logits, axis=-1)] if PREDICTIONS in self.feature_layers else []
        return logits, jnp.concatenate([*before, *chosen, *after], axis=-1), outputs


class Decoder(nnx.Module):
    """Denoiser of event maps, conditioned on frame features through the attention weights alone."""

    def __init__(self, sizes: DiffActSizes, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        width = sizes.decoder_width
        self.time_in = nnx.List(Dense(sizes.time_dim, sizes.time_dim, **options) for _ in range(2))
        self.conv_in = Dense(sizes.num_classes, width, **options)
        self.time_proj = Dense(sizes.time_dim, width, **options)
        self.layers = nnx.List(
            MixedLayer(
                width,
                kernel_size=sizes.decoder_kernel_size,
                dilation=2**i,
                dropout=sizes.decoder_dropout,
                condition_dim=sizes.feature_dim,
                **options,
            )
            for i in range(sizes.decoder_layers)
        )
        self.conv_out = Dense(width, sizes.num_classes, **options)
        self.time_dim, self.dropout, self.dtype = sizes.time_dim, sizes.decoder_dropout, dtype

    def time_vector(self, time: jax.Array) -> jax.Array:
        """[batch] diffusion times to [batch, width] float32, added to every frame."""
        vector = self.time_in[1](nnx.swish(self.time_in[0](diffusion.time_embedding(time, self.time_dim))))
        return self.time_proj(nnx.swish(vector)).astype(jnp.float32)

    def shares(self, condition: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None) -> list[Shares]:
        """Every layer's share of the condition [feature_dim, batch, time]; the same in all sampling steps."""
        keeps = keep_masks(rngs, self.dropout, len(self.layers), condition.shape)
        return [layer.shares(condition, mask, keep=keep) for layer, keep in zip(self.layers, keeps, strict=True)]

    def __call__(
        self,
        event: jax.Array,
        time_vector: jax.Array,
        shares: list[Shares],
        mask: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Runs the decoder.

        Args:
            event: [classes, batch, time] in 0..1.
            time_vector: [batch, width] or [1, width].
            shares: of every layer.
            mask: [batch, time] bool.
            rngs: makes dropout active.

        Returns:
            logits [classes, batch, time], and the output [width, batch, time] of every layer.
        """
        h = _project(self.conv_in.kernel[...], event, self.dtype) + _column(self.conv_in.bias)
        h = h + time_vector.T[:, :, None]
        outputs = []
        keeps = keep_masks(rngs, self.dropout, len(self.layers), h.shape)
        for layer, share, keep in zip(self.layers, shares, keeps, strict=True):
            h = layer(h, share, mask, keep=keep)
            outputs.append(h)
        return _project(self.conv_out.kernel[...], h, self.dtype) + _column(self.conv_out.bias), outputs


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
        return instance_norm(x, mask) if self.sizes.use_instance_norm else x

    def encode(self, x: jax.Array, mask: jax.Array, *, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        """Logits [batch, time, classes] and features [batch, time, feature_dim] of `x` [batch, time, input_dim]."""
        logits, features, _ = self.encoder(x, mask, rngs=rngs)
        return logits, features

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
        shares = self.decoder.shares(_time_last(condition), mask, rngs=rngs)
        logits, _ = self.decoder(_time_last(event), self.decoder.time_vector(time), shares, mask, rngs=rngs)
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
            _, condition = self.encode(self.normalise_input(x, mask), mask, rngs=rngs)
        condition = _time_last(condition)
        steps = diffusion.ddim_steps(sizes.timesteps, sizes.sampling_steps, sizes.eta)
        time_vectors = self.decoder.time_vector(jnp.asarray(steps.time))
        dropout_key = None if rngs is None else rngs.dropout()
        fixed_shares = None if rngs is not None else self.decoder.shares(condition, mask)
        draw = functools.partial(_noise, noise, keys, (mask.shape[1], sizes.num_classes))

        def step(state: jax.Array, inputs: tuple) -> tuple[jax.Array, Trace | None]:
            index, coefficients, time_vector = inputs
            dropout = None if dropout_key is None else nnx.Rngs(dropout=jax.random.fold_in(dropout_key, index))
            shares = self.decoder.shares(condition, mask, rngs=dropout) if fixed_shares is None else fixed_shares
            event = diffusion.denormalise(jnp.clip(state, -sizes.scale, sizes.scale), sizes.scale)
            logits, _ = self.decoder(event, time_vector[None], shares, mask, rngs=dropout)
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
    return _time_last(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))(keys))


def _project(kernel: jax.Array, x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """[in, out] times [in, batch, time] to [out, batch, time] float32, multiplied in `dtype`."""
    return jnp.einsum("io,ibt->obt", kernel.astype(dtype), x.astype(dtype)).astype(jnp.float32)


def _column(bias: nnx.Param) -> jax.Array:
    return bias[...].astype(jnp.float32)[:, None, None]


def _time_last(x: jax.Array) -> jax.Array:
    return jnp.transpose(x, (2, 0, 1))


def _channels_last(x: jax.Array) -> jax.Array:
    return jnp.transpose(x, (1, 2, 0))


def _norm_over_time(x: jax.Array, mask: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Zero mean and unit variance of each channel over the frames of the video; [channels, batch, time] float32.

    The sums are products with ones, which XLA's CPU backend does faster than reductions.
    """
    ones = jnp.ones(x.shape[-1], jnp.float32)
    total = functools.partial(jnp.einsum, "cbt,t->cb", precision=jax.lax.Precision.HIGHEST)
    frames = jnp.maximum(jnp.sum(mask, axis=1), 1)
    x = jnp.where(mask, x, 0)
    centred = jnp.where(mask, x - (total(x, ones) / frames)[:, :, None], 0)
    variance = total(centred * centred, ones) / frames
    return centred * jax.lax.rsqrt(variance + eps)[:, :, None]
