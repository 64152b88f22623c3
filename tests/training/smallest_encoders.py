"""Arguments of the smallest encoders that fine-tuning runs on."""

UNET = {"features": [4, 8, 8], "blocks": [0, 1, 1]}
VIT = {"width": 24, "depth": 2, "heads": 2, "patch_size": 4}
