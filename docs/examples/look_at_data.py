"""What is in a data set, before anything is learned from it; for a folder of your own give its path instead of "digits"."""

import certidote

for part in certidote.data_info("digits")["splits"]:
    print(part["split"], part["images"], "images of shape", part["image_shape"], "in", len(part["classes"]), "classes")
    print(part["duplicates"]["extra"], "exact duplicates, digest", part["digest"][:12])
