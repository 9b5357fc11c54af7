"""What a certificate could prove, and what it would cost, before anything is trained."""

import certidote

planned = certidote.plan("digits", sigma=0.5, models=100, n0=20)
print(*planned.lines, sep="\n")
