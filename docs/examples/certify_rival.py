"""Certify by a rival of denoised smoothing: Finite Aggregation with a run-off election, counted in training images altered in any way."""

import sys
from pathlib import Path

import certidote
from certidote import engine
from certidote.certification.finite_aggregation import published_shifts
from certidote.defenses.finite_aggregation import FiniteAggregation
from certidote.defenses.parts import PUBLIC_ROOT
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.training.pooled import trainer_for
from certidote.training.recipe import load_recipe
from certidote.types import CountCertificate, Untrusted

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example") / "rival"
folder.mkdir(parents=True, exist_ok=True)
scheme, trainer = FiniteAggregation(10, published_shifts(10, 4), run_off=True), trainer_for(load_recipe("mlp"))
data, test = Untrusted(certidote.load("digits", "train")), certidote.load("digits", "test")
config = engine.configuration(scheme, trainer, data, test, {})
with Ledger(folder / "ledger.sqlite") as ledger, Pool(0) as pool:
    ballots = engine.run(scheme, trainer, data, test, ledger=ledger, pool=pool, config=config, seed=PUBLIC_ROOT)
certificate = scheme.certify(ballots)
assert isinstance(certificate, CountCertificate), certificate
for count in range(4):
    held = (certificate.labels == test.labels.numpy()) & (certificate.radii >= count)
    print(f"right, and certified against {count} {certificate.unit}: {held.mean():.1%} of {len(test)} test images")
