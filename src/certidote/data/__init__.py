"""Data sets: from a name or a path to images, labels and class names."""

from certidote.data.checks import check_same_classes
from certidote.data.load import load, load_test, load_with_findings, named_as, splits_of, surveyed

__all__ = ["check_same_classes", "load", "load_test", "load_with_findings", "named_as", "splits_of", "surveyed"]
