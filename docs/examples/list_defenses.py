"""The defenses of the catalogue, with what they are against and what they can prove."""

import certidote

for row in certidote.defense_list():
    print(f"{row['name']}: {row['threat_model']}; certificate: {row['certificate']}; {row['measured_cost']}")
