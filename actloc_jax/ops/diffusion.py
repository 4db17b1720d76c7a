"""The diffusion of DiffAct: cosine schedule, forward process, DDIM steps, time embedding.

Nichol and Dhariwal (arXiv 2102.09672) for the schedule, Song et al. (arXiv 2010.02502) for DDIM, Liu et al. (DiffAct,
arXiv 2303.17959) for their use on event maps. What does not depend on data is computed in float64 with numpy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

OFFSET = 0.008  # keeps the first steps of the cosine schedule from being too small
MAX_BETA = 0.999


def cosine_betas(timesteps: int) -> np.ndarray:
    """Noise variances of the cosine schedule (equation 17 of arXiv 2102.09672): float64 [timesteps]."""
    grid = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    signal = np.cos((grid + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    signal = signal / signal[0]
    return np.clip(1 - signal[1:] / signal[:-1], 0, MAX_BETA)


def schedule_buffers(timesteps: int) -> dict[str, np.ndarray]:
    """The twelve float64 [timesteps] buffers that published checkpoints store, under their published names."""
    betas = cosine_betas(timesteps)
    alphas = 1 - betas
    products = np.cumprod(alphas)
    previous = np.concatenate([[1.0], products[:-1]])
    variance = betas * (1 - previous) / (1 - products)
    return {
        "betas": betas,
        "alphas_cumprod": products,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(products),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - products),
        "log_one_minus_alphas_cumprod": np.log(1 - products),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / products),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / products - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - products),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(alphas) / (1 - products),
    }


def ddim_times(timesteps: int, steps: int) -> np.ndarray:
    """Times visited by `steps` DDIM steps, from timesteps - 1 down to -1: int [steps + 1]."""
    return np.linspace(-1, timesteps - 1, steps + 1, dtype=np.float32).astype(np.int64)[::-1]


class DdimSteps(NamedTuple):
    """Coefficients of every DDIM step, each [steps].

    With x_0 the prediction and n = (recip * x - x_0) / recipm1 the noise it implies, a step goes to
    `signal * x_0 + direction * n + sigma * fresh noise`; the last one to x_0.
    """

    time: np.ndarray
    recip: np.ndarray
    recipm1: np.ndarray
    signal: np.ndarray
    direction: np.ndarray
    sigma: np.ndarray


def ddim_steps(timesteps: int, steps: int, eta: float) -> DdimSteps:
    """The coefficients of `DdimSteps` (equations 12 and 16 of arXiv 2010.02502), float64.

    Raises:
        ValueError: more steps than the schedule has.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"sampling_steps={steps} must be between 1 and the {timesteps} timesteps of the schedule.")
    products = schedule_buffers(timesteps)["alphas_cumprod"]
    times = ddim_times(timesteps, steps)
    now, following = products[times[:-1]], products[times[1:-1]]
    sigma = eta * np.sqrt((1 - now[:-1] / following) * (1 - following) / (1 - now[:-1]))
    direction = np.sqrt(1 - following - sigma**2)
    return DdimSteps(
        time=times[:-1],
        recip=np.sqrt(1 / now),
        recipm1=np.sqrt(1 / now - 1),
        signal=np.append(np.sqrt(following), 1.0),
        direction=np.append(direction, 0.0),
        sigma=np.append(sigma, 0.0),
    )


def time_embedding(time: jax.Array, dim: int) -> jax.Array:
    """Sines, then cosines of the diffusion time at `dim // 2` frequencies from 1 to 1/10000; an odd `dim` ends in 0.

    Args:
        time: [batch] int.
        dim: width.

    Returns:
        [batch, dim] float32.
    """
    half = dim // 2
    frequencies = jnp.exp(jnp.arange(half) * (-math.log(10000) / (half - 1)))
    angles = time.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def normalise(values: jax.Array, scale: float) -> jax.Array:
    """Event maps in 0..1 to the diffusion's range -scale..scale; any shape."""
    return (2 * values - 1) * scale


def denormalise(values: jax.Array, scale: float) -> jax.Array:
    """The inverse of `normalise`; any shape."""
    return (values / scale + 1) / 2


def diffuse(values: jax.Array, noise: jax.Array, time: jax.Array, *, timesteps: int, scale: float) -> jax.Array:
    """The event map that a decoder sees in training: diffused to `time`, cut to the range, back in 0..1.

    Args:
        values: [batch, time, classes] in 0..1.
        noise: standard normal, same shape.
        time: [batch] int, diffusion time of each video.
        timesteps: length of the schedule.
        scale: signal scale.

    Returns:
        [batch, time, classes] float32.
    """
    buffers = schedule_buffers(timesteps)
    signal = jnp.asarray(buffers["sqrt_alphas_cumprod"], jnp.float32)[time][:, None, None]
    amount = jnp.asarray(buffers["sqrt_one_minus_alphas_cumprod"], jnp.float32)[time][:, None, None]
    diffused = signal * normalise(values, scale) + amount * noise
    return denormalise(jnp.clip(diffused, -scale, scale), scale)
