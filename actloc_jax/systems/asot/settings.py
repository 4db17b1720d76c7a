"""From the groups of a config to the settings of the solver."""

from __future__ import annotations

from ml_collections import ConfigDict

from actloc_jax.ops.transport import Settings


def training_settings(config: ConfigDict) -> Settings:
    """The problem whose plans are pseudo-labels. Raises ValueError for values outside their range."""
    return _settings(config, "transport", config.transport, "batch" if config.quirks.step_over_batch else "video")


def decoding_settings(config: ConfigDict) -> Settings:
    """The problem whose plans are segmentations; the original decodes one video at a time, so its step is per video."""
    return _settings(config, "decode", config.decode, "video")


def _settings(config: ConfigDict, name: str, group: ConfigDict, step_scope: str) -> Settings:
    try:
        return Settings(
            epsilon=group.epsilon,
            alpha=group.alpha,
            radius=group.radius,
            relax_frames=group.relax_frames,
            relax_actions=group.relax_actions,
            lambda_frames=group.lambda_frames,
            lambda_actions=group.lambda_actions,
            mode=group.mode,
            iterations=group.iterations,
            inner_iterations=group.inner_iterations,
            step=group.step or None,
            step_scope=step_scope,
            band_weight="radius" if config.quirks.band_weight_by_radius else "window",
        )
    except ValueError as error:
        raise ValueError(f"config.{name}: {error}") from error
