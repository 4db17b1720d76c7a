"""The diffusion process by its properties; its numbers are compared with the original in tests/parity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actloc_jax.ops import diffusion


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_keeps_the_variance_of_the_process(eta: float) -> None:
    steps = diffusion.ddim_steps(timesteps=1000, steps=25, eta=eta)
    np.testing.assert_allclose(steps.signal**2 + steps.direction**2 + steps.sigma**2, 1, rtol=1e-12)
    np.testing.assert_array_equal([steps.signal[-1], steps.direction[-1], steps.sigma[-1]], [1, 0, 0])


@pytest.mark.parametrize("steps", [1, 2, 25, 1000])
def test_sampling_visits_the_whole_schedule_downwards(steps: int) -> None:
    times = diffusion.ddim_times(timesteps=1000, steps=steps)
    assert (times[0], times[-1], len(times)) == (999, -1, steps + 1)
    assert np.all(np.diff(times) < 0)


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_than_the_schedule_has_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"sampling_steps={steps}"):
        diffusion.ddim_steps(timesteps=1000, steps=steps, eta=1.0)


def test_ddim_with_a_perfect_denoiser_follows_the_forward_process() -> None:
    """Without fresh noise, predicting the truth leads back along the one path that the first noise has drawn."""
    steps, buffers = diffusion.ddim_steps(timesteps=100, steps=10, eta=0.0), diffusion.schedule_buffers(100)
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, 5))
    x = buffers["sqrt_alphas_cumprod"][99] * truth + buffers["sqrt_one_minus_alphas_cumprod"][99] * noise
    for step in range(10):
        predicted = (steps.recip[step] * x - truth) / steps.recipm1[step]
        np.testing.assert_allclose(predicted, noise, atol=1e-6)
        x = steps.signal[step] * truth + steps.direction[step] * predicted
    np.testing.assert_allclose(x, truth)


def test_diffusion_ends_between_the_events_and_pure_noise() -> None:
    events = jax.nn.one_hot(jnp.asarray([[0, 1, 1, 2]] * 2), 3)
    noise = jax.random.normal(jax.random.key(0), events.shape)
    diffused = diffusion.diffuse(events, noise, jnp.asarray([0, 999]), timesteps=1000, scale=0.5)
    assert float(jnp.max(jnp.abs(diffused[0] - events[0]))) < 0.05
    np.testing.assert_allclose(diffused[1], jnp.clip(noise[1], -0.5, 0.5) + 0.5, atol=1e-3)


def test_the_range_of_the_diffusion_maps_back_to_probabilities() -> None:
    values = jnp.linspace(0, 1, 7)
    np.testing.assert_allclose(diffusion.normalise(values, 2.0), jnp.linspace(-2, 2, 7), atol=1e-6)
    np.testing.assert_allclose(diffusion.denormalise(diffusion.normalise(values, 0.5), 0.5), values, atol=1e-6)


@pytest.mark.parametrize("dim", [16, 15])
def test_every_time_has_its_own_embedding(dim: int) -> None:
    embedding = diffusion.time_embedding(jnp.arange(1000), dim)
    assert embedding.shape == (1000, dim)
    half = dim // 2
    np.testing.assert_allclose(embedding[:, :half] ** 2 + embedding[:, half : 2 * half] ** 2, 1, atol=1e-5)
    distances = jnp.linalg.norm(embedding[1:] - embedding[:1], axis=1)
    assert float(jnp.min(distances)) > 0.1
