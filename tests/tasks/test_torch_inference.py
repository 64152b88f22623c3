from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import network, network_spec

from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess
from medssl.tasks.inference import Ensemble, classify_image, segment_image, window_function
from medssl.tasks.model_file import ModelSpec


def _spec(kind: str, dims: int) -> ModelSpec:
    labels = (Label(1, "a"), Label(2, "b"))
    return ModelSpec(
        network_spec(kind, dims), Preprocess(dims), (8,) * dims, 0.5, (), labels, ("x", "y", "z"), None, ("T1",)
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet", "vit"])
def test_an_image_of_the_window_s_size_is_the_network_s_own_answer(kind: str, dims: int) -> None:
    made = network(kind, dims, seed=4)
    image = np.random.default_rng(0).standard_normal((1, *[8] * dims)).astype(np.float32)
    expected = made(torch.from_numpy(image)[None]).argmax(1)[0].numpy()
    assert len(np.unique(expected)) > 1
    assert np.array_equal(segment_image([made], _spec(kind, dims), image), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_images_smaller_and_larger_than_the_window_keep_their_shape(dims: int) -> None:
    made = network("unet", dims)
    for shape in ((5, 6, 3)[:dims], (5, 17, 9)[:dims]):
        image = np.zeros((1, *shape), np.float32)
        assert segment_image([made], _spec("unet", dims), image).shape == shape


def test_folds_are_averaged_as_probabilities() -> None:
    folds = [network("unet", 2, seed) for seed in (0, 1, 2)]
    windows = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    shares = [fold(torch.from_numpy(windows)) for fold in folds]
    found = torch.from_numpy(window_function(Ensemble(folds))(windows)).softmax(1)
    torch.testing.assert_close(found, sum(logits.softmax(1) for logits in shares) / 3)
    found = torch.from_numpy(window_function(Ensemble(folds, "sigmoid"))(windows)).sigmoid()
    torch.testing.assert_close(found, sum(logits.sigmoid() for logits in shares) / 3)


def test_mirroring_makes_the_answer_symmetric() -> None:
    made, spec = network("unet", 2), replace(_spec("unet", 2), mirror_axes=(0,))
    image = np.random.default_rng(1).standard_normal((1, 8, 8)).astype(np.float32)
    there = segment_image([made], spec, image)
    back = segment_image([made], spec, np.ascontiguousarray(image[:, ::-1]))
    assert np.array_equal(there, back[::-1])
    plain = replace(spec, mirror_axes=())
    assert not np.array_equal(
        segment_image([made], plain, image), segment_image([made], plain, np.ascontiguousarray(image[:, ::-1]))[::-1]
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_classification_gives_the_network_s_probabilities(dims: int) -> None:
    made = network("classifier", dims)
    image = np.random.default_rng(0).standard_normal((1, *[8] * dims)).astype(np.float32)
    expected = made(torch.from_numpy(image)[None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(classify_image([made], _spec("classifier", dims), image), expected, rtol=1e-5)
    each = replace(_spec("classifier", dims), activation="sigmoid")
    expected = made(torch.from_numpy(image)[None]).sigmoid()[0].numpy()
    np.testing.assert_allclose(classify_image([made], each, image), expected, rtol=1e-5)
