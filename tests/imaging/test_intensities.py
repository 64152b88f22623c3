"""Numbers of a channel's intensities."""

import numpy as np

from medssl.imaging.intensities import robust_ends


def test_robust_ends_are_those_of_evenly_spread_values(rng: np.random.Generator):
    values = rng.normal(size=(40, 30, 20))
    np.testing.assert_allclose(robust_ends(values), np.percentile(values, [0.5, 99.5]), rtol=1e-5)
    many = rng.normal(size=(180, 170, 160)).astype(np.float32)
    np.testing.assert_allclose(robust_ends(many), (-2.576, 2.576), atol=0.03)
