"""Data sets: from a name or a path to images, labels and class names."""

from certidote.data.checks import check_same_classes
from certidote.data.load import load

__all__ = ["check_same_classes", "load"]
