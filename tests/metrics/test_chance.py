"""Chance levels: what is known without looking at the video."""

from __future__ import annotations

from actloc_jax.metrics.chance import chance_levels


def test_majority_class_gets_its_share_of_frames():
    train = {"a": ["cut"] * 9 + ["pour"] * 3}
    levels = chance_levels(train, {"b": ["cut"] * 4 + ["pour"] * 6})
    assert levels["majority class"]["Acc"] == 40
    assert levels["majority class"]["Edit"] == 50


def test_random_training_video_is_stretched_to_the_test_video():
    train = {"a": ["cut"] * 5 + ["pour"] * 5}
    levels = chance_levels(train, {"b": ["cut"] * 10 + ["pour"] * 10})
    assert levels["random training video"]["Acc"] == 100
    assert levels["random training video"]["F1@50"] == 100


def test_same_seed_same_levels():
    train = {str(number): ["cut"] * number + ["pour"] * 5 for number in range(1, 9)}
    test = {"b": ["cut"] * 10 + ["pour"] * 10}
    assert chance_levels(train, test, seed=3) == chance_levels(train, test, seed=3)
