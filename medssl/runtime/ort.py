"""ONNX Runtime without its telemetry; every module of the package imports it from here.

From 1.32 on it keeps a number of the machine in the home folder and reports its use to its maker, from the moment it is
imported. Nothing leaves a hospital unasked, so it is told not to before that.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # it looks at its environment once

__all__ = ["onnxruntime"]
