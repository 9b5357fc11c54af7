"""Add a defense: every member learns from its own random half of the images, and a plurality answers. It proves nothing, and says so."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import certidote
from certidote import engine
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.streams import Key
from certidote.training.pooled import trainer_for
from certidote.training.recipe import load_recipe
from certidote.types import Ballots, Json, Prediction, Unproved, Untrusted, View


@dataclass(frozen=True)
class RandomHalves:
    members: int = 5

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        images = len(data.labels)
        rows = torch.from_numpy((key / "half").numpy().permutation(images)[: images // 2])
        traced = data.unsealed("a random half, as it is", rows)
        return View(traced.images, data.labels[rows], len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1))

    def certify(self, ballots: Ballots) -> Unproved:
        return Unproved(("nobody has proved anything about random halves",))

    def describe(self) -> Json:
        return {"scheme": "random halves", "members": self.members}


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example") / "halves"
folder.mkdir(parents=True, exist_ok=True)
scheme, trainer = RandomHalves(), trainer_for(load_recipe("mlp"))
data, test = Untrusted(certidote.load("digits", "train")), certidote.load("digits", "test")
config = engine.configuration(scheme, trainer, data, test, {})
with Ledger(folder / "ledger.sqlite") as ledger, Pool(0) as pool:
    ballots = engine.run(scheme, trainer, data, test, ledger=ledger, pool=pool, config=config)
right = torch.from_numpy(scheme.aggregate(ballots).labels) == test.labels
print(f"right on {right.float().mean():.1%} of {len(test)} test images; proved: {scheme.certify(ballots)}")
