"""Explanations: against captum, against finite differences, and by their shapes, errors and side effects."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from mmet.explain import DEFAULT_METHOD, METHODS, Explainer
from mmet.explain.__main__ import main
from mmet.explain.figures import COLUMNS, compare_methods
from mmet.explain.methods import (
    CELLS,
    accumulate,
    attention_gradient,
    grad_cam,
    guided_backward,
    loss_of_pixels,
    pixel_gradient,
    relevance,
    roll_out,
    weigh_channels,
)
from modeling_mmet import MMETForReID

captum = pytest.importorskip("captum.attr")


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 30, 3), dtype=np.uint8))


@pytest.fixture
def explainer(config, processor):
    return Explainer(MMETForReID(config).train(False), processor)


@pytest.fixture
def trace(explainer, picture):
    pixels = explainer.processor(images=[picture], return_tensors="pt")["pixel_values"]
    explainer.model.set_attn_implementation("eager")
    return explainer._trace(pixels, explainer.embed(None, "a man in a red coat"), -1)


def test_grad_cam__channels_weighed_as_captum_does():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
    images = torch.randn(1, 3, 7, 5)
    expected = captum.LayerGradCam(lambda x: network(x)[:, 0], network[0]).attribute(images, relu_attributions=True)
    states = network[0](images)
    (gradients,) = torch.autograd.grad(network[1:](states).sum(), states)
    tokens, slopes = (values[0].flatten(1).T for values in (states, gradients))
    torch.testing.assert_close(weigh_channels(tokens, slopes), expected.flatten())


def test_loss_of_pixels__of_a_picture_about_its_mean_as_captum_does():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
    images = torch.randn(1, 3, 7, 5)
    images = (images - images.mean(dim=(2, 3), keepdim=True)).requires_grad_()
    expected = captum.InputXGradient(lambda x: network(x)[:, 0]).attribute(images)[0].sum(dim=0)
    (gradients,) = torch.autograd.grad(network(images).sum(), images)
    torch.testing.assert_close(loss_of_pixels(images, gradients), expected)
    torch.testing.assert_close(loss_of_pixels(images + 3, gradients), expected)  # brightness is no information


def test_pixel_gradient__is_high_where_a_blank_cell_costs_most(explainer, trace):
    """Against the score itself: cells of the map in which the picture is a little nearer to its mean colour."""
    cells = pixel_gradient(trace)
    assert cells.shape == CELLS
    query = explainer.embed(None, "a man in a red coat")
    pixels = trace.pixels.detach()
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    place = np.unravel_index(int(cells.argmax()), CELLS)
    height, width = pixels.shape[2:]
    rows, columns = (
        slice(index * size // count, -(-(index + 1) * size // count))
        for index, size, count in zip(place, (height, width), CELLS, strict=True)
    )
    step = 1e-2
    nearer = pixels.clone()
    nearer[..., rows, columns] += step * (mean - pixels)[..., rows, columns]
    with torch.no_grad():
        lost = (trace.score.detach() - explainer.model(pixel_values=nearer).embeddings[0] @ query) / step
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert float(lost) == pytest.approx(float(cells.detach().max()) * area, rel=0.1)


def test_guided_backward__as_captum_does():
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    values = torch.randn(4, 5, requires_grad=True)
    expected = captum.GuidedBackprop(network).attribute(values)
    with guided_backward(network):
        (gradients,) = torch.autograd.grad(network(values).sum(), values)
    torch.testing.assert_close(gradients, expected)
    (plain,) = torch.autograd.grad(network(values).sum(), values)
    assert not torch.allclose(plain, expected)  # the hooks are gone


def test_guided_backward__finds_the_activations_of_the_model(explainer, picture):
    pixels = explainer.processor(images=[picture], return_tensors="pt")["pixel_values"].requires_grad_()
    query = explainer.embed(None, "a red coat")
    (plain,) = torch.autograd.grad(explainer.model(pixel_values=pixels).embeddings[0] @ query, pixels)
    with guided_backward(explainer.model):
        (guided,) = torch.autograd.grad(explainer.model(pixel_values=pixels).embeddings[0] @ query, pixels)
    assert not torch.allclose(plain, guided)


def test_grad_cam__gradient_of_the_states_by_finite_differences(explainer, trace):
    (gradient,) = torch.autograd.grad(trace.score, trace.states, retain_graph=True)
    direction = torch.randn_like(trace.states)
    query = explainer.embed(None, "a man in a red coat")
    norm, scores = explainer._image_layers[-1].attention_norm, []
    for step in (1e-2, -1e-2):
        hook = norm.register_forward_hook(lambda *call, step=step: call[2] + step * direction)
        scores.append(explainer.model(pixel_values=trace.pixels).embeddings[0] @ query)
        hook.remove()
    torch.testing.assert_close((scores[0] - scores[1]) / 2e-2, (gradient * direction).sum(), rtol=2e-2, atol=1e-3)


def test_rollout__two_layers_by_hand():
    first, second = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    # halves with the identity: [[1, 0], [.5, .5]] and then [[.5, .5], [0, 1]]
    torch.testing.assert_close(roll_out([first, second]), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))


def test_accumulate__two_layers_by_hand():
    first, second = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]]), torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]])
    # I + first = [[1, 1], [0, 1]]; to its second row comes twice its first
    torch.testing.assert_close(accumulate([first, second]), torch.tensor([[1.0, 1.0], [2.0, 3.0]]))


def test_relevance__from_the_last_reader_back_to_the_patches(trace):
    """Equation 6 of Chefer et al. (2021), written as a product of matrices, for two encoders in a row."""
    maps = {}
    for name in ("image", "multimodal"):
        attentions = getattr(trace, f"{name}_attentions")
        slopes = torch.autograd.grad(trace.score, attentions, retain_graph=True)
        factors = [
            np.eye(weights.shape[-1]) + np.maximum((slope * weights).detach().numpy()[0], 0).mean(axis=0)
            for slope, weights in zip(slopes, attentions, strict=True)
        ]
        maps[name] = np.linalg.multi_dot(factors[::-1])
    expected = maps["multimodal"][0, 1:10] @ maps["image"]
    np.testing.assert_allclose(relevance(trace).detach().numpy().ravel(), expected[1:], rtol=1e-4, atol=1e-8)


def test_trace__attention_of_all_encoders_is_of_the_model(trace):
    assert [tuple(weights.shape) for weights in trace.image_attentions] == [(1, 4, 9, 9)] * 2
    assert [tuple(weights.shape) for weights in trace.multimodal_attentions] == [(1, 4, 10, 10)] * 2
    for method in (grad_cam, attention_gradient, relevance):
        assert method(trace).shape == (4, 2)
        assert method(trace).min() >= 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [0, -1])
def test_explain__map_of_the_size_of_the_picture(explainer, picture, method, layer):
    before = explainer.model.config.image_config._attn_implementation
    for query in ({"image": picture}, {"text": "a red coat"}, {"image": picture, "text": "a red coat"}):
        values = explainer.explain(picture, method=method, layer=layer, **query)
        assert (values.shape, values.dtype) == ((60, 30), np.float32)
        assert (values.min(), values.max()) == (0, 1)
    assert explainer.model.config.image_config._attn_implementation == before
    assert all(parameter.grad is None for parameter in explainer.model.parameters())


def test_explain__by_the_default_method_unless_one_is_named(explainer, picture):
    named = explainer.explain(picture, image=picture, method=DEFAULT_METHOD)
    np.testing.assert_array_equal(explainer.explain(picture, image=picture), named)
    assert not np.array_equal(explainer.explain(picture, image=picture, method="relevance"), named)


def test_explain__depends_on_the_query_but_rollout_does_not(explainer, picture):
    texts = ("a red coat", "a blue bag")
    for method in METHODS:
        first, other = (explainer.explain(picture, text=text, method=method) for text in texts)
        assert np.allclose(first, other) == (method == "rollout"), method


@pytest.mark.parametrize("method", METHODS)
def test_explain__random_weights_give_another_map(config, explainer, picture, method):
    """The sanity check of Adebayo et al. (2018): a map that stays the same does not explain the model."""
    torch.manual_seed(1)
    other = Explainer(MMETForReID(config).train(False), explainer.processor)
    maps = [model.explain(picture, image=picture, method=method).ravel() for model in (explainer, other)]
    assert spearmanr(*maps).statistic < 0.9


def test_explain_words__one_map_a_word(explainer, picture):
    maps = explainer.explain_words(picture, "a man, in red")
    assert [word for word, _ in maps] == ["a", "man,", "in", "red"]
    assert not np.allclose(maps[1][1], maps[3][1])


def test_explain_words__phrases_are_masked_as_a_whole(explainer, picture):
    text = "a man with a red coat, a bag"
    ((words, values),) = explainer.explain_words(picture, text, phrases=["red coat"])
    assert words == "red coat"
    tokens = explainer.processor.tokenizer([text.replace("red coat", "[MASK] [MASK]")], return_tensors="pt")
    without = explainer._embed_inputs(dict(tokens))
    query = explainer.embed(None, text) - without
    np.testing.assert_allclose(values, explainer._map(picture, query, DEFAULT_METHOD, -1), atol=1e-5)
    for phrase in ("blue coat", " "):
        with pytest.raises(ValueError, match="phrases: expected parts of the text"):
            explainer.explain_words(picture, text, phrases=[phrase])


def test_compare_methods__long_strips_go_on_below(picture):
    sizes = []
    for count in (COLUMNS, COLUMNS + 1):
        png = compare_methods([("a.jpg", [("word" * 9, picture)] * count)])
        sizes.append(Image.open(io.BytesIO(png)).size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 1.8 * sizes[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "received neither"),
        ({"text": "  "}, "empty sentence"),
        ({"text": "a", "method": "saliency"}, "method"),
        ({"text": "a", "layer": 2}, "expected -2 to 1"),
        ({"text": "a", "layer": -3}, "received -3"),
    ],
)
def test_explain__bad_arguments(explainer, picture, arguments, message):
    with pytest.raises(ValueError, match=message):
        explainer.explain(picture, **arguments)


def test_image_pooling__images_alone(make_config, processor, picture):
    explainer = Explainer(MMETForReID(make_config(identity_pooling="image")).train(False), processor)
    for method in METHODS:
        assert explainer.explain(picture, image=picture, method=method).shape == (60, 30)
    with pytest.raises(ValueError, match="use a query image"):
        explainer.explain(picture, text="a man")


def test_command__figures(explainer, picture, tmp_path, capsys):
    folder, file = tmp_path / "model", tmp_path / "a.png"
    explainer.model.save_pretrained(folder)
    explainer.processor.save_pretrained(folder)
    picture.save(file)
    options = ["--model", str(folder), "--images", str(file), str(file), "--output", str(tmp_path / "out")]
    assert main([*options, "--text", "a red coat"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"explanations.png", "words.png"}
    assert main([*options, "--layer", "7"]) == 2
    assert "expected -2 to 1" in capsys.readouterr().err


def test_command__missing_picture(tmp_path, capsys):
    options = ["--model", "m", "--images", str(tmp_path / "no.jpg"), "--output", str(tmp_path / "out")]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert "no.jpg" in error
    assert error.count("\n") == 1
