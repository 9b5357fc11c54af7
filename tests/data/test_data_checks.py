import pytest
import torch

from certidote.data import check_same_classes
from certidote.data.checks import check_class_names, check_image_size
from certidote.types import ImageDataset


def data(names, shape=(1, 8, 8), fill=0):
    images = torch.full((len(names), *shape), fill, dtype=torch.uint8)
    return ImageDataset(images, torch.arange(len(names)), tuple(names))


def test_equal_classes_and_shapes_pass():
    check_same_classes(data(["a", "b"]), data(["a", "b"], fill=1))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (data(["a", "b"]), data(["a", "c"]), "only the training set has 'b', only the test set has 'c'"),
        (data(["a", "b", "c"]), data(["a", "b"]), "3 and 2, only the training set has 'c'"),
        (data(["a", "b"]), data(["b", "a"]), "class 0 is 'a' in training and 'b' in test"),
        (data(list("ab")), data(list("abcdefgh")), "only the test set has 'c', 'd', 'e' and 3 more"),
        (data(["a", "b"]), data(["a", "b"], (3, 8, 9), 1), r"shape \(1, 8, 8\), test images \(3, 8, 9\)"),
        (data(["a", "b"]), data(["a", "b"]), "the same 2 images"),
    ],
)
def test_unfit_pairs_are_refused(train, test, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_same_classes(train, test)
    assert "\n" not in str(caught.value)


def test_a_label_without_training_images_is_refused():
    """As when labels begin at 1. A test set may lack a class."""
    three = data(["a", "b", "c"])
    check_same_classes(three, three.subset([0, 2]))
    with pytest.raises(ValueError, match="no training image has the label of class 'b'; add images, or number only the classes"):
        check_same_classes(three.subset([0, 2]), three.subset([0]))


def test_test_images_of_a_class_without_training_images_are_named():
    three = data(["a", "b", "c"])
    with pytest.raises(
        ValueError, match="of class 'b', but 1 test image has: nothing can be learned .* leave out these test images"
    ):
        check_same_classes(three.subset([0]), three.subset([0, 1]))
    with pytest.raises(ValueError, match="of class 'b', 'c', but 3 test images have"):
        check_same_classes(three.subset([0]), three.subset([0, 1, 1, 2]))


@pytest.mark.parametrize("sides", [(7, 8), (8, 7), (225, 8), (8, 225), (0, 8)])
def test_sizes_out_of_range(sides):
    check_image_size(8, 224, "here")
    with pytest.raises(ValueError, match=f"here: images of {sides[0]}x{sides[1]} pixels.*8 to 224"):
        check_image_size(*sides, "here")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "here: 0 classes; a classifier needs 2 to 1000"),
        (["a"], "here: 1 class; a classifier needs 2"),
        ([str(i) for i in range(1_001)], "1001 classes"),
        (["a", "b", "a"], "'a' is used twice"),
        (["a", ""], "'' is empty or cannot be printed"),
        (["a", "b\nc"], "cannot be printed"),
        (["a", "\x1b[31m"], "cannot be printed"),
        (["a", "\udc80"], "cannot be printed"),
    ],
)
def test_class_names_out_of_range(names, message):
    check_class_names([str(i) for i in range(1_000)], "here")
    with pytest.raises(ValueError, match=message):
        check_class_names(names, "here")
