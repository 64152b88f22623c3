"""Learning class and transformation together: what is shown, what is learned, what is left."""

import pytest
import torch
from small_networks import network

from medssl.imaging.errors import ConfigError
from medssl.losses.label_augmentation import aggregated, joint_cross_entropy, self_distillation
from medssl.models.decoders import ClassificationHead
from medssl.tasks.label_augmentation import AugmentedLabelsTask, subsets, transformed
from medssl.tasks.options import LabelAugmentOptions


@pytest.mark.parametrize("dims", [2, 3])
def test_turns_and_mirrorings_begin_with_the_image_itself(dims: int):
    image = torch.randn(2, 1, *(4, 4, 3)[:dims], generator=torch.Generator().manual_seed(0))
    for options in (
        LabelAugmentOptions("quarter_turns"),
        LabelAugmentOptions("half_turns"),
        LabelAugmentOptions("mirror", axes=tuple(range(dims))),
    ):
        views = transformed(image, options)
        assert views.shape == (2, options.count, *image.shape[1:])
        torch.testing.assert_close(views[:, 0], image)
        different = {tuple(view.flatten().tolist()) for view in views[0]}
        assert len(different) == options.count, "each is another picture"
    quarter = transformed(image, LabelAugmentOptions("quarter_turns"))
    again = transformed(quarter[:, 1], LabelAugmentOptions("quarter_turns"))
    torch.testing.assert_close(again[:, 3], image)
    torch.testing.assert_close(transformed(image, LabelAugmentOptions("half_turns"))[:, 1], quarter[:, 2])
    assert subsets((2, 3)) == [(), (2,), (3,), (2, 3)]


def test_the_loss_is_that_of_the_paper():
    plain = network("classifier", 2)
    options = LabelAugmentOptions("quarter_turns", temperature=2.0)
    torch.manual_seed(1)
    task = AugmentedLabelsTask(plain, ClassificationHead(plain.encoder, 3 * 4), options)
    image, classes = torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    found = task({"image": image, "class_index": classes})
    rows = [plain.encoder(torch.rot90(image[[b]], j, (2, 3))) for b in range(2) for j in range(4)]
    joint = torch.cat([task.joint(image, row) for row in rows])
    logits = plain(image)
    terms = (
        joint_cross_entropy(joint, classes, 4),
        torch.nn.functional.cross_entropy(logits, classes),
        self_distillation(aggregated(joint, 4), logits, 2.0),
    )
    for name, term in zip(("joint_loss", "class_loss", "distillation_loss"), terms, strict=True):
        torch.testing.assert_close(found[name], term, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], sum(terms), rtol=1e-4, atol=1e-5)


def test_the_plain_network_learns_without_ever_being_shown_a_turned_image_at_the_end():
    """A bright corner tells the class; after some steps the kept network knows it."""
    torch.manual_seed(0)
    plain = network("classifier", 2, classes=2).train().requires_grad_(True)
    task = AugmentedLabelsTask(plain, ClassificationHead(plain.encoder, 4), LabelAugmentOptions("half_turns"))
    classes = torch.arange(16) % 2
    image = 0.1 * torch.randn(16, 1, 8, 8)
    image[:, 0, :3, :3] += 4 * classes.view(-1, 1, 1)
    optimizer = torch.optim.AdamW(task.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        task({"image": image, "class_index": classes})["loss"].backward()
        optimizer.step()
    assert (plain.eval()(image).argmax(1) == classes).all()


def test_options_out_of_range_are_told_together():
    with pytest.raises(ConfigError) as caught:
        LabelAugmentOptions("quarter_turns", axes=(0,), temperature=0)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="each once"):
        LabelAugmentOptions("mirror", axes=(0, 0))
