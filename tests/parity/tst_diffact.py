"""DiffAct: schedule, layers, network and sampling, training losses, training."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from actloc_jax.backbones.diffact import DiffAct, DiffActSizes, MixedLayer
from actloc_jax.data import boundaries
from actloc_jax.layers.functional import Network, flatten
from actloc_jax.ops import diffusion
from actloc_jax.ops.local_attention import Window
from actloc_jax.systems.tst import diffact_losses
from actloc_jax.training import optimizers
from convert import tst_tables
from tests.parity import params
from tests.parity.harness import Case, parity


def sizes_of(config: dict[str, Any], num_classes: int) -> DiffActSizes:
    """Our sizes from the original's three groups of parameters."""
    encoder, decoder, process = (config[f"{name}_params"] for name in ("encoder", "decoder", "diffusion"))
    return DiffActSizes(
        num_classes=num_classes,
        input_dim=encoder["input_dim"],
        encoder_layers=encoder["num_layers"],
        encoder_width=encoder["num_f_maps"],
        encoder_kernel_size=encoder["kernel_size"],
        feature_layers=tuple(encoder["feature_layer_indices"]),
        use_instance_norm=encoder["use_instance_norm"],
        decoder_layers=decoder["num_layers"],
        decoder_width=decoder["num_f_maps"],
        decoder_kernel_size=decoder["kernel_size"],
        time_dim=decoder["time_emb_dim"],
        timesteps=process["timesteps"],
        sampling_steps=process["sampling_timesteps"],
        eta=process["ddim_sampling_eta"],
        scale=process["snr_scale"],
        detach_decoder=process["detach_decoder"],
    )


def network_of(sizes: DiffActSizes) -> Network:
    """A network of these sizes."""
    return Network(lambda rngs: DiffAct(sizes, rngs=rngs))


def last(x: np.ndarray) -> jax.Array:
    """[..., channels, time] to [..., time, channels] float32."""
    return jnp.asarray(np.swapaxes(x, -1, -2), jnp.float32)


def close(ours: Any, expected: np.ndarray, atol: float, name: str, rtol: float = 0.0) -> None:
    """`expected` has channels before time, `ours` behind."""
    np.testing.assert_allclose(np.swapaxes(np.asarray(ours), -1, -2), expected, atol=atol, rtol=rtol, err_msg=name)


@parity("tst", "diffact_schedule")
def check_schedule(case: Case) -> None:
    """Buffers, DDIM times and coefficients, time embeddings."""
    arrays, timesteps, eta = case.arrays, case.config["timesteps"], case.config["eta"]
    for name, values in diffusion.schedule_buffers(timesteps).items():
        np.testing.assert_allclose(values, arrays[f"buf/{name}"], rtol=1e-12, err_msg=name)
    for name in (name for name in arrays if name.startswith("betas_")):
        np.testing.assert_allclose(diffusion.cosine_betas(int(name.split("_")[1])), arrays[name], rtol=1e-12)
    for name in (name for name in arrays if name.startswith("times_")):
        count = int(name.split("_")[1])
        np.testing.assert_array_equal(diffusion.ddim_times(timesteps, count), arrays[name])
        if f"coeff_eta1_{count}" not in arrays:
            continue
        steps, golden = diffusion.ddim_steps(timesteps, count, eta), arrays[f"coeff_eta1_{count}"]
        np.testing.assert_allclose(1 / steps.recip**2, golden[:, 2], rtol=1e-12)
        np.testing.assert_allclose(steps.signal[:-1] ** 2, golden[:-1, 3], rtol=1e-12)
        np.testing.assert_allclose(steps.sigma[:-1], golden[:-1, 4], rtol=1e-10)
        np.testing.assert_allclose(steps.direction[:-1], golden[:-1, 5], rtol=1e-10)
    times = arrays["temb_t"]
    for name in (name for name in arrays if name.startswith("temb_") and name != "temb_t"):
        *_, dim = name.split("_")
        given = [int(name.split("_")[2])] if "one" in name else times
        ours = diffusion.time_embedding(jnp.asarray(given), int(dim))
        small = np.asarray(given) < 999
        np.testing.assert_allclose(ours[small], arrays[name][small], atol=2e-6 if int(dim) <= 16 else 1e-4)
        np.testing.assert_allclose(ours, arrays[name], atol=1e-4)


@parity("tst", "diffact_layers")
def check_layers(case: Case) -> None:
    """One encoder and one decoder layer alone, with gradients."""
    config, arrays = case.config, case.arrays
    for number, options in enumerate(config["layers"]):
        for kind, condition_dim in (("enc", 0), ("dec", config["d_cross"])):
            _check_layer(arrays, number, kind, options, config["d_model"], condition_dim, case.tolerance())


def _check_layer(
    arrays: dict[str, np.ndarray],
    number: int,
    kind: str,
    options: dict[str, int],
    width: int,
    condition_dim: int,
    atol: float,
) -> None:
    network = Network(
        lambda rngs: MixedLayer(
            width, taps=options["kernel_size"], dropout=0.0, condition_dim=condition_dim,
            dtype=jnp.float32, param_dtype=jnp.float32, rngs=rngs,
        )
    )  # fmt: skip
    prefix = f"{number}/{kind}_param/"
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    weights = params.diffact_layer_params(state)
    time_last = lambda x: jnp.transpose(jnp.asarray(x), (1, 0, 2))  # noqa: E731
    x, mask = time_last(arrays[f"{number}/x"]), jnp.ones((arrays[f"{number}/x"].shape[0], options["T"]), bool)
    condition = time_last(arrays[f"{number}/xc"]) if condition_dim else None
    cotangent = time_last(arrays[f"{number}/cot"])

    window = Window.of(options["kernel_size"], options["dilation"])

    def run(x: jax.Array, condition: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        shares = network(weights, condition, mask, window, method="shares")
        return network(weights, x, shares, mask, window), network(weights, x, shares, mask, window, method="branches")[
            1
        ]

    @jax.jit
    def run_with_gradients(x: jax.Array, condition: jax.Array | None) -> tuple[jax.Array, ...]:
        (output, attention), pull_back = jax.vjp(run, x, condition)
        return output, attention, *pull_back((cotangent, jnp.zeros_like(attention)))

    output, attention, dx, dcondition = run_with_gradients(x, condition)
    checked = {"y": output, "attention": attention, "dx": dx} | ({"dxc": dcondition} if condition_dim else {})
    for name, ours in checked.items():
        golden = arrays[f"{number}/{kind}_{name}"]
        np.testing.assert_allclose(time_last(ours), golden, atol=atol, err_msg=f"{number} {kind} {name}")


@parity("tst", "diffact_model")
def check_model(case: Case) -> None:
    """Encoder, decoder and DDIM sampling step by step, with the stored noise."""
    arrays, sizes = case.arrays, sizes_of(case.config, case.config["num_classes"])
    network, weights = network_of(sizes), params.diffact_params(case.weights())
    network_atol, ddim_atol = case.tolerance("network outputs atol"), case.tolerance("ddim outputs atol")
    x = last(arrays["x"])
    mask = jnp.ones(x.shape[:2], bool)
    normalised = network(weights, x, mask, method="normalise_input")
    encoder = Network(lambda rngs: DiffAct(sizes, rngs=rngs).encoder)
    logits, features, layers = jax.jit(encoder)(weights["encoder"], normalised, mask)
    last_to = functools.partial(jnp.einsum, "cbt->btc")
    close(last_to(logits), arrays["encoder_out"], network_atol, "encoder_out")
    close(last_to(features), arrays["features"], network_atol, "features")
    for number, layer in enumerate(layers):
        name = f"encoder_layer_{number}"
        np.testing.assert_allclose(jnp.swapaxes(layer, 0, 1), arrays[name], atol=network_atol, err_msg=name)
    _check_decoder(arrays, sizes, weights["decoder"], mask, network_atol)
    _check_q_sample(arrays, sizes)
    for name in (name for name in arrays if name.startswith("ddim_") and name.endswith("/out")):
        _check_ddim(arrays, name.split("/")[0], sizes, weights, x, mask, ddim_atol)


def _check_decoder(
    arrays: dict[str, np.ndarray], sizes: DiffActSizes, weights: Any, mask: jax.Array, atol: float
) -> None:
    """The decoder at several diffusion times; the layers are stored for time 499."""
    decoder = Network(lambda rngs: DiffAct(sizes, rngs=rngs).decoder)
    width_first = functools.partial(jnp.einsum, "bct->cbt")

    @jax.jit
    def run(weights: Any, event: jax.Array, time: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        time_vector = decoder(weights, time, method="time_vector")
        return decoder(weights, event, time_vector, width_first(arrays["features"]), mask)

    for name in (name for name in arrays if name.startswith("decoder_out_t")):
        time = int(name.removeprefix("decoder_out_t"))
        logits, layers = run(weights, width_first(arrays["event_in"]), jnp.asarray([time]))
        np.testing.assert_allclose(width_first(logits), arrays[name], atol=atol, err_msg=name)
        for number, layer in enumerate(layers if time == 499 else []):
            golden = arrays[f"decoder_layer_{number}"]
            np.testing.assert_allclose(width_first(layer), golden, atol=atol, err_msg=f"decoder layer {number}")
    for name in (name for name in arrays if name.startswith("mp_x_start_t")):
        time = int(name.removeprefix("mp_x_start_t"))
        state = width_first(arrays["mp_x"].astype(np.float32))
        event = diffusion.denormalise(jnp.clip(state, -sizes.scale, sizes.scale), sizes.scale)
        logits, _ = run(weights, event, jnp.asarray([time]))
        x0 = diffusion.normalise(jax.nn.softmax(logits, axis=0), sizes.scale)
        np.testing.assert_allclose(width_first(x0), arrays[name], atol=atol, err_msg=name)


def _check_q_sample(arrays: dict[str, np.ndarray], sizes: DiffActSizes) -> None:
    events = np.eye(sizes.num_classes)[arrays["labels"]][None]
    for name in (name for name in arrays if name.startswith("q_sample_t")):
        time = jnp.asarray([int(name.removeprefix("q_sample_t"))])
        ours = diffusion.diffuse(
            jnp.asarray(events), last(arrays["q_noise"]), time, timesteps=sizes.timesteps, scale=sizes.scale
        )
        golden = np.clip(arrays[name], -sizes.scale, sizes.scale)
        close(diffusion.normalise(ours, sizes.scale), golden, 1e-5, name)


def _check_ddim(
    arrays: dict[str, np.ndarray],
    prefix: str,
    sizes: DiffActSizes,
    weights: Any,
    x: jax.Array,
    mask: jax.Array,
    atol: float,
) -> None:
    noise = last(arrays[f"{prefix}/noise"])
    eta = float(prefix.removeprefix("ddim_eta"))
    network = network_of(dataclasses.replace(sizes, eta=eta, sampling_steps=len(noise)))
    sample = jax.jit(lambda weights: network(weights, x, mask, None, noise=noise, trace=True, method="sample"))
    sampled, trace = sample(weights)
    close(sampled, arrays[f"{prefix}/out"], atol, prefix)
    golden = arrays[f"{prefix}/out"]
    top = np.sort(golden, axis=1)
    clear = top[:, -1] - top[:, -2] > 2e-3
    np.testing.assert_array_equal(np.argmax(sampled, -1)[clear], golden.argmax(1)[clear])
    for name, steps in (("x_time", trace.x), ("pred_noise", trace.noise), ("x_start", trace.x0)):
        scale = max(1.0, np.abs(arrays[f"{prefix}/{name}"]).max())
        close(steps[:, 0], arrays[f"{prefix}/{name}"], atol * scale, f"{prefix} {name}")


@parity("tst", "diffact_losses")
def check_losses(case: Case) -> None:
    """Every condition with hard and soft labels: values of all parts, gradients of the total."""
    sizes = sizes_of(case.config, case.config["num_classes"])
    network, weights = network_of(sizes), params.diffact_params(case.weights())

    def loss(weights: Any, features: jax.Array, batch: Any, draws: diffact_losses.Draws) -> tuple[jax.Array, Any]:
        return diffact_losses.diffact_loss(
            network, weights, {**batch, "features": features}, draws, sizes=sizes,
            weights=_our_names(case.meta["loss_weights"]), class_weights=jnp.asarray(case.arrays["class_weights"]),
        )  # fmt: skip

    graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    for tag, golden in case.meta["losses"].items():
        batch, draws = _loss_inputs(case, tag, golden["t"], sizes)
        (total, parts), gradients = graded(weights, batch["features"], batch, draws)
        for name, part in {**parts, "total": total}.items():
            expected = golden["total" if name == "total" else f"{name}_loss"]
            np.testing.assert_allclose(part, expected, rtol=1e-4, err_msg=f"{tag} {name}")
        _check_gradients(case, tag, *gradients)


def _loss_inputs(case: Case, tag: str, time: int, sizes: DiffActSizes) -> tuple[Any, diffact_losses.Draws]:
    """The batch and the stored draws of a case such as "soft1.4/segment=1"."""
    arrays, (soft, condition) = case.arrays, tag.split("/")
    sigma = None if soft == "softNone" else float(soft.removeprefix("soft"))
    batch = _batch(arrays["x"], arrays["labels"][None], arrays["boundary"][:, 0], sizes.num_classes, sigma)
    hidden = (case.meta["masked_events"].get(condition, [0]) * 2)[:2]
    visible = diffact_losses.condition_mask(condition, batch, jnp.asarray([hidden]))
    return batch, diffact_losses.Draws(jnp.asarray([time]), last(arrays["noise"]), visible)


def _check_gradients(case: Case, tag: str, gradients: Any, input_gradient: jax.Array) -> None:
    """Gradients stored for some parameters; an empty array means that none reaches the parameter."""
    arrays, prefix, ours = case.arrays, f"{tag}/grad/", flatten(gradients)
    close(input_gradient, arrays[f"{tag}/dx"], 1e-4 * np.abs(arrays[f"{tag}/dx"]).max(), f"{tag} dx")
    golden = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    zeros = {name: np.zeros_like(case.weights()[name]) for name, array in golden.items() if not array.size}
    for path, expected in tst_tables.DIFFACT.convert_all(golden | zeros).items():
        np.testing.assert_allclose(ours[path], expected, atol=1e-4 * np.abs(expected).max(), err_msg=f"{tag} {path}")


def _our_names(weights: dict[str, float]) -> dict[str, float]:
    return {name.removesuffix("_loss"): weight for name, weight in weights.items()}


def _batch(
    x: np.ndarray, labels: np.ndarray, boundary: np.ndarray, num_classes: int, sigma: float | None
) -> dict[str, jax.Array]:
    batch = {
        "features": last(x),
        "labels": jnp.asarray(labels, jnp.int32),
        "boundary": jnp.asarray(boundary, jnp.float32),
        "mask": jnp.ones(labels.shape, bool),
    }
    if sigma is not None:
        batch["soft_labels"] = jnp.stack([boundaries.soft_labels(line, num_classes, sigma) for line in labels])
    return batch


@parity("tst", "diffact_train")
def check_train(case: Case) -> None:
    """Adam with accumulation over several videos, losses of every iteration and final parameters."""
    config, arrays = case.config, case.arrays
    sizes = sizes_of(config, config["num_classes"])
    network, weights = network_of(sizes), params.diffact_params(case.weights())
    tx = optimizers.accumulate(
        optimizers.adam(config["learning_rate"], weight_decay=config["weight_decay"]), config["batch_size"]
    )
    opt_state = tx.init(weights)

    @jax.jit
    def step(weights: Any, opt_state: Any, batch: Any, draws: diffact_losses.Draws) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(
            lambda weights: diffact_losses.diffact_loss(
                network, weights, batch, draws, sizes=sizes, weights=_our_names(config["loss_weights"])
            )[0]
        )(weights)
        updates, opt_state = tx.update(gradients, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, loss

    losses = []
    for number, condition in enumerate(config["cond_per_iter"]):
        one = slice(number, number + 1)
        sigma = config["soft_label_per_iter"][number]
        batch = _batch(arrays["x"][one], arrays["labels"][one], arrays["boundary"][one], sizes.num_classes, sigma)
        visible = diffact_losses.condition_mask(condition, batch, jnp.asarray(arrays["events"][one]))
        draws = diffact_losses.Draws(jnp.asarray(arrays["t"][one]), last(arrays["noise"][one]), visible)
        weights, opt_state, loss = step(weights, opt_state, batch, draws)
        losses.append(float(loss) / config["batch_size"])
    np.testing.assert_allclose(losses, arrays["loss_per_iter"], rtol=case.tolerance("losses rtol"))
    atol, ours = case.tolerance("final params atol"), flatten(weights)
    final = {name.removeprefix("final/"): array for name, array in arrays.items() if name.startswith("final/")}
    for path, expected in tst_tables.DIFFACT.convert_all(final).items():
        np.testing.assert_allclose(ours[path], expected, atol=atol, err_msg=path)
    _check_sums(case, ours, atol)


def _check_sums(case: Case, ours: dict[str, jax.Array], atol: float) -> None:
    """Sum and sum of squares of every final parameter, as far apart as parameters that differ by `atol` can be."""
    weights = case.weights()
    for name, (total, squares) in case.meta["checksums_final_params_[sum,sum_sq]"].items():
        (path,) = tst_tables.DIFFACT.convert_all({name: weights[name]})
        values = np.asarray(ours[path], np.float64)
        assert abs(values.sum() - total) <= atol * values.size, name
        assert abs(np.square(values).sum() - squares) <= 2.1 * atol * np.abs(values).sum(), name
