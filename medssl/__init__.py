"""Self-supervised pretraining for medical images, fine-tuning on few labels, and inference without torch."""

import os

# ONNX Runtime from 1.32 on keeps a number of this machine in the home folder and reports its use to its maker, from the
# moment it is imported. Nothing leaves a hospital unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
