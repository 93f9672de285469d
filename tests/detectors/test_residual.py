from __future__ import annotations

import numpy as np
import torch

from anomalib_lite.detectors.residual import ResidualModel


def levels(count: int, seed: int = 0, shift: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 8, 8), (4, 4, 4), (5, 2, 2)]
    return [torch.randn(count, *shape, generator=generator) + shift for shape in shapes]


def test_a_group_is_stacked_on_its_coarsest_grid_and_measured_by_mahalanobis() -> None:
    """Oracle: numpy, position by position."""
    model = ResidualModel([[1, 2]], shrinkage=0.0, ridge=0.0)
    training = levels(60)
    model.fit([[f[:25] for f in training], [f[25:] for f in training]])
    new = levels(3, seed=1)
    found = model(new)
    assert found.shape == (3, 1, 2, 2)

    def stacked(features: list[torch.Tensor]) -> np.ndarray:
        fine = features[1].numpy().reshape(-1, 4, 2, 2, 2, 2).mean(axis=(3, 5))
        return np.concatenate([fine, features[2].numpy()], axis=1).astype(np.float64)

    known, asked = stacked(training), stacked(new)
    for y in range(2):
        for x in range(2):
            rows = known[:, :, y, x]
            precision = np.linalg.inv(np.cov(rows.T, bias=True))
            difference = asked[:, :, y, x] - rows.mean(0)
            expected = np.einsum("bi,ij,bj->b", difference, precision, difference) / rows.shape[1]
            np.testing.assert_allclose(found[:, 0, y, x].numpy(), expected, rtol=1e-4)


def test_groups_are_fused_at_the_finest_grid() -> None:
    model = ResidualModel([[0], [1], [2]])
    model.fit([levels(40)])
    near, far = model(levels(4, seed=2)), model(levels(4, seed=2, shift=8.0))
    assert near.shape == (4, 1, 8, 8)
    assert (near >= 0).all() and far.min() > near.max()


def test_a_saved_model_gives_the_same_map() -> None:
    model, fresh = ResidualModel([[0], [1, 2]]), ResidualModel([[0], [1, 2]])
    model.fit([levels(30)])
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(levels(2, seed=3)), fresh(levels(2, seed=3)))
