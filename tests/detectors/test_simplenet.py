"""SimpleNet: the loss by hand, what it is not trained on, and which epoch is kept."""

from functools import partial

import numpy as np
import pytest
import torch

from anomalib_lite.data.images import ImageSet, loader
from anomalib_lite.detectors import simplenet
from anomalib_lite.detectors.simplenet import SimpleNet
from anomalib_lite.detectors.statistics import Whitening
from tests.detectors import small


def detector(noise: float = 0.3, whiten: bool = True) -> SimpleNet:
    torch.manual_seed(0)
    options = {"whitening": Whitening if whiten else None, "noise": noise, "hidden": 16, "adaptor_lr": 5e-3}
    return SimpleNet(small.backbone, partial(torch.optim.AdamW, lr=5e-3), levels=None, synthetic=8, **options)


def test_the_loss_is_the_papers(images: ImageSet):
    """In numpy, from the network's weights: adaptor, noise, two layers with batch statistics, truncated L1."""
    model, batch = detector(whiten=False), images[[0, 1, 2]]
    batch.weight = torch.tensor([1.0, 2.0, 0.0])
    features = model.features(batch.image)
    torch.manual_seed(5)
    found = model.loss_of(features, batch, batch.weight).item()
    torch.manual_seed(5)
    state = {k: v.double().numpy() for k, v in model.network.state_dict().items()}
    rows = features[0][:2].flatten(2).transpose(1, 2).double().numpy()
    adapted = rows @ state["adaptor.weight"].T + state["adaptor.bias"]
    both = np.stack([adapted, adapted + 0.3 * torch.randn(adapted.shape).numpy()])
    hidden = both @ state["judge.0.weight"].T + state["judge.0.bias"]
    flat = hidden.reshape(-1, 16)
    hidden = (hidden - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)  # an untrained batch normalisation scales no more
    judged = np.where(hidden > 0, hidden, 0.2 * hidden) @ state["judge.3.weight"].T
    losses = np.maximum(0, 0.5 - judged[0]) + np.maximum(0, judged[1] + 0.5)
    assert found == pytest.approx((losses.mean((1, 2)) * [1, 2]).sum() / 3, rel=1e-5)


def test_training_marks_what_is_new(images: ImageSet):
    model = small.fit(detector(), images, epochs=12)
    assert model.notes["epochs"] == 12 and model.progress[2] > 0
    score = small.predict(model, small.marked(images)).score
    assert score[1] > 2 * score[0]


def test_images_that_are_tried_on_are_not_learned_from(images: ImageSet):
    model = detector()
    small.fit(model, images)
    batch = images[[0, 1, 5, 6]]
    assert model.held_out == [0, 5, 10] and model.weights(batch).tolist() == [0, 1, 0, 1]
    model.train()

    def loss() -> float:
        model.step.zero_()  # so that it draws the same noise
        return model.training_step(batch).item()

    first = loss()
    batch.image[0] = 1 - batch.image[0]
    assert loss() == first
    batch.image[1] = 1 - batch.image[1]
    assert loss() != first


def test_the_best_epoch_is_kept(images: ImageSet, monkeypatch: pytest.MonkeyPatch):
    """By the figures of drawn defects, not by the last one nor by the loss; a checkpoint in between remembers it."""
    figures, seen = iter([0.3, 0.9, 0.5, 0.9]), []
    monkeypatch.setattr(simplenet, "figures", lambda *_: {"mean": next(figures)})
    model = detector()
    batches = loader(images, 4)
    model.prepare(batches)
    for _ in range(4):
        with torch.no_grad():
            model.network.adaptor.weight.add_(1.0)
        seen.append(model.network.adaptor.weight.clone())
        model.epoch_end()
        if len(seen) == 2:
            fresh = detector()
            fresh.load_state_dict(model.state_dict())
            model.load_state_dict(fresh.state_dict())
    assert torch.equal(model.trained_state()["kept.adaptor.weight"], seen[1])
    model.calibrate(batches, [], lambda *_: None)
    assert model.notes == {"epochs": 4, "epoch_kept": 2}
