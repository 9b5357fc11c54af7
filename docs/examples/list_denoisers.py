"""The packaged denoisers, and the model card of one."""

import certidote

for row in certidote.denoiser_list():
    print(row)
print(certidote.denoiser_info("digits")["validation"])
