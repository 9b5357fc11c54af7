import dataclasses
import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion import denoiser as denoisers
from certidote.diffusion.denoiser import CATALOGUE, image_hashes, load, save
from certidote.diffusion.fit import DenoiserRecipe, mean_squared_errors, train_network
from certidote.diffusion.network import Architecture
from certidote.streams import Key
from certidote.types import Untrusted

RECIPE = DenoiserRecipe(steps=3, batch=16, architecture=Architecture(1, 2, (16,), (1,)))


@pytest.fixture(scope="module")
def trained():
    return train_network(tiny(10, 2, (1, 8, 8), Key(0)), None, RECIPE, Key(1), name="mine")


@pytest.fixture
def saved(trained, tmp_path):
    save(trained, tmp_path / "mine")
    return tmp_path / "mine"


def some_noise(n=6):
    return torch.from_numpy(Key(4).numpy().standard_normal((n, 1, 8, 8), dtype=np.float32)), torch.full((n,), 0.25)


def test_a_run_does_not_remember_where_a_denoiser_lay(tmp_path):
    trained = train_network(tiny(10, 2, (1, 8, 8), Key(0)), None, RECIPE, Key(1))
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        save(trained, tmp_path / folder / "mine")
        denoiser = load(tmp_path / folder / "mine")
        found.append(DenoisedSmoothing(denoiser, 0.25, n0=2, n=10).describe())
        assert denoiser.card.name == str(tmp_path / folder / "mine")
    assert found[0] == found[1]
    assert found[0]["denoiser"]["name"] == "mine"


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_saved_and_loaded_it_is_the_same(storage, tmp_path):
    trained = train_network(tiny(10, 2, (1, 8, 8), Key(0)), None, dataclasses.replace(RECIPE, storage=storage), Key(1))
    save(trained, tmp_path / "it")
    before = torch.random.get_rng_state()
    loaded = load(tmp_path / "it")
    assert torch.equal(torch.random.get_rng_state(), before)
    noisy, sigma = some_noise()
    assert torch.equal(loaded(noisy, sigma), trained(noisy, sigma))
    assert (loaded.sigma_min, loaded.sigma_max) == (trained.sigma_min, trained.sigma_max)
    assert loaded.card == dataclasses.replace(trained.card, name=str(tmp_path / "it"))
    assert loaded.card.details == {**trained.card.details, "dtype": "float32"}
    assert {file.name for file in (tmp_path / "it").iterdir()} == {"config.json", "model.safetensors", "card.md"}


def test_number_formats_share_the_digest_but_not_the_details(saved):
    exact, fast = load(saved), load(saved, "bfloat16")
    assert exact.card.digest == fast.card.digest
    assert (exact.card.details["dtype"], fast.card.details["dtype"]) == ("float32", "bfloat16")
    assert exact.conditioning(0.5) != fast.conditioning(0.5)


def test_saving_never_overwrites_by_accident(saved, trained, tmp_path):
    before = (saved / "config.json").read_bytes()
    with pytest.raises(ValueError, match="it is not empty; choose another folder or force the replacement"):
        save(trained, saved)
    assert (saved / "config.json").read_bytes() == before
    save(copy_of(trained), saved, force=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"it holds 'cat.png', which no denoiser has"):
        save(trained, tmp_path / "photos", force=True)
    (tmp_path / "empty").mkdir()
    save(trained, tmp_path / "empty")
    assert load(tmp_path / "empty").card.digest == trained.card.digest
    with pytest.raises(ValueError, match=r"folder .*nowhere' does not exist; create it first"):
        save(trained, tmp_path / "nowhere" / "it")
    with pytest.raises(ValueError, match="it is a file; choose another folder"):
        save(trained, tmp_path / "photos" / "cat.png")


def copy_of(denoiser):
    return pickle.loads(pickle.dumps(denoiser))


def test_a_failed_save_leaves_nothing_and_changes_nothing(saved, trained, monkeypatch):
    def full_disk(path, content):
        if path.name == "config.json":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(denoisers, "_write", full_disk)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(OSError, match="No space left"):
        save(trained, saved, force=True)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_while_a_denoiser_is_replaced_keeps_the_earlier_one(saved, trained, monkeypatch, at):
    """Before and after the first of the two renames."""
    before, rename, count = {file.name: file.read_bytes() for file in saved.iterdir()}, os.rename, 0

    def interrupted(source, target):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(trained, saved, force=True)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_truncated_files_are_one_clear_error(saved, file, keep):
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=rf"{file} is damaged \(.*\); train or copy the denoiser again"):
        load(saved)
    (saved / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing"):
        load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "does not describe a denoiser of ours or of diffusers"),
        ({"version": 3}, "has format version 3, this release reads 1 and 2; install the matching release"),
        ({"sigma_max": 5.0}, "was altered: its digest is"),
        ({"scaling": {"mean": 0.5, "std": 0.5}}, "was altered: its digest is"),
        ({"scaling": {}}, r"is no complete denoiser \(KeyError: 'mean'\); train or copy it again"),
        ({"architecture": {"channels": 1}}, r"is no complete denoiser \("),
        ({"architecture": {"channels": 1, "patch": 2, "widths": [32], "blocks": [1]}}, r"is no complete denoiser \(RuntimeError"),
        ({"image_shape": [8, 8]}, r"is no complete denoiser \("),
        ({"details": None}, r"is no complete denoiser \("),
    ],
)
def test_altered_configurations_are_refused(saved, changes, message):
    rewrite(saved / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load(saved)


def test_altered_weights_are_refused(saved):
    tensors = safetensors.torch.load_file(saved / "model.safetensors")
    tensors["weights.head.bias"].view(torch.uint8)[0] ^= 1
    safetensors.torch.save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError, match="was altered: its digest is"):
        load(saved)


def test_unknown_names_are_told_what_there_is():
    message = (
        "unknown denoiser 'digit'; choose one of: cifar10-32, digits, digits-kernel, digits-linear-mmse, none, tiny-imagenet-32, tiny-imagenet-32-large, or give a folder. "
        "To train one on images you trust: certidote denoiser train DATA --out DIR"
    )
    with pytest.raises(ValueError, match=message):
        load("digit")


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config.json is missing; .* is no denoiser's folder"):
        load(tmp_path)


def test_image_hashes_are_of_the_stored_bytes():
    import hashlib

    data = load_digits("train").subset([0, 1, 0])
    expected = {int(hashlib.sha256(bytes(image.flatten().tolist())).hexdigest()[:13], 16) for image in data.images}
    assert image_hashes(data) == expected
    assert len(expected) == 2


# ----------------------------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue(name):
    """Every entry denoises, pickles, keeps its input, and fits the lineage that the certificate reads."""
    denoiser = load(name)
    data = load_digits("train") if denoiser.card.image_shape in (None, (1, 8, 8)) else tiny(25, 2, (3, 32, 32), Key(0))
    assert denoiser.card.name == name
    assert len(denoiser.card.digest) == 64
    traced = Untrusted(data).noised(0.25, Key(1), range(len(data)))
    before = traced.images.clone()
    denoised = traced.denoised(denoiser)
    assert denoised.lineage.denoiser == denoiser.card.digest
    assert torch.equal(traced.images, before)
    sigma = torch.full((3,), 0.25)
    assert torch.equal(pickle.loads(pickle.dumps(denoiser))(traced.images[:3], sigma), denoised.images[:3])
    assert isinstance(denoiser.conditioning(0.25), str)


def test_a_list_of_hashes_comes_back_whole_and_takes_few_bytes():
    for hashes in (set(), {0}, {2**52 - 1}, {0, 1, 2**52 - 1}, set(np.random.default_rng(0).integers(0, 2**52, 100_000).tolist())):
        stored = denoisers._gaps(frozenset(hashes))
        assert denoisers._from_gaps(stored) == hashes
    assert stored.shape == (100_000, 5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stored: stored[:-1], "not of the length"),
        (lambda stored: stored[:, :0].contiguous(), "not one of bytes"),
        (lambda stored: stored.flatten()[: len(stored)].contiguous(), "not one of bytes"),
        (lambda stored: stored.to(torch.float32), "not one of bytes"),
        (lambda stored: torch.cat([stored, torch.zeros(len(stored), 4, dtype=torch.uint8)], 1), "not one of bytes"),
        (lambda stored: stored ^ torch.eye(*stored.shape, dtype=torch.uint8), "was altered"),
        (lambda stored: torch.empty(10**14, 0, dtype=torch.uint8), "not of the length"),
        (lambda stored: None, "not of the length"),
    ],
)
def test_a_damaged_list_of_training_images_is_one_clear_error(saved, damage, message):
    """A list that lost an image would hide that the denoiser has seen it."""
    tensors = safetensors.torch.load_file(saved / "model.safetensors")
    stored = damage(tensors.pop("training_images"))
    safetensors.torch.save_file(tensors if stored is None else {**tensors, "training_images": stored}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=rf"is no complete denoiser \(ValueError: the list of its training images .*{message}"):
        load(saved)


def test_a_denoiser_of_the_first_format_still_knows_its_images(saved):
    """Its list held 63 bits of each image's hash."""
    known = load(saved).card.training_images
    tensors = safetensors.torch.load_file(saved / "model.safetensors")
    tensors["training_images"] = torch.tensor(sorted((value << 11) + 77 for value in known), dtype=torch.int64)
    safetensors.torch.save_file(tensors, saved / "model.safetensors")
    rewrite(saved / "config.json", version=1)
    assert load(saved).card.training_images == known


def test_nothing_in_the_catalogue_has_seen_the_digits_under_attack_or_the_test_digits():
    seen = {name: load(name).card.training_images for name in CATALOGUE}
    assert {name: len(images) for name, images in seen.items()} == {
        "digits": 897, "cifar10-32": 50_000, "tiny-imagenet-32": 79_987, "tiny-imagenet-32-large": 99_980, "digits-linear-mmse": 897, "digits-kernel": 897, "none": 0,
    }  # fmt: skip
    for split in ("train", "test"):
        hashes = image_hashes(load_digits(split))
        assert all(not images & hashes for images in seen.values())
    assert seen["digits"] == image_hashes(load_digits("trusted"))


def test_the_packaged_denoiser_beats_linear_mmse_on_held_out_digits():
    """And keeps the errors it was released with: at most 0.0150 at sigma 0.25 and 0.034 at 0.5, per pixel."""
    test, sigmas = load_digits("test"), (0.1, 0.25, 0.5, 1.0)
    ours, linear = (mean_squared_errors(load(name), test, sigmas, Key(3)) for name in ("digits", "digits-linear-mmse"))
    assert all(ours[k] < linear[k] for k in (1, 2, 3))
    assert ours[0] < 0.85 * linear[0]
    assert ours[1] < 0.0150
    assert ours[2] < 0.034


def test_what_is_packaged_is_light():
    sizes = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in denoisers.PACKAGED.iterdir()}
    assert max(sizes.values()) < 4 * 2**20
    assert sum(sizes.values()) < 10 * 2**20
    assert set(sizes) <= set(CATALOGUE)


def test_the_packaged_denoiser_is_small_and_says_how_it_was_made():
    folder = denoisers.PACKAGED / "digits"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    config = json.loads((folder / "config.json").read_text())
    assert config["trained_on"] == load_digits("trusted").digest()
    assert config["training_images"] == 897
    assert config["details"]["validation"]["sigmas"] == [0.1, 0.25, 0.5, 1.0]
    DenoiserRecipe.from_json(config["details"]["recipe"])
