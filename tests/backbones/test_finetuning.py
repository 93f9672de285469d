"""Fine-tuning changes what it may change, repeats, respects weights, and gets better at its task."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from anomalib_lite.backbones import Backbone, build
from anomalib_lite.backbones.finetuning import (
    CutPaste,
    Examples,
    FineTuning,
    OKAgainstGenerated,
    Outcome,
    Settings,
    block_of,
    blocks,
    classification_loss,
    finetune,
    keep_statistics,
    unfreeze_last,
)
from anomalib_lite.data.images import ImageSet
from anomalib_lite.data.sample import OK, Sample
from anomalib_lite.errors import UserError
from tests.made import write_image

SIZE = (48, 48)
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
QUICK = Settings(task=CutPaste(), epochs=1, batch_size=5, batches=2, optimizer=SGD, hidden=(16,))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("ok")
    return [Sample(write_image(folder / f"{i}.png", seed=i, size=SIZE), OK) for i in range(30)]


def network() -> Backbone:
    torch.manual_seed(0)
    return build("resnet18", (1, 2))


def tune(
    samples: list[Sample], settings: Settings, backbone: Backbone | None = None, *callbacks: Callback
) -> tuple[dict[str, Tensor], Outcome]:
    backbone, quiet = backbone or network(), {"logger": False, "enable_progress_bar": False}
    sets = [ImageSet(s, SIZE) for s in (samples[8:], samples[:8])]
    outcome = finetune(backbone, *sets, settings, accelerator="cpu", devices=1, callbacks=list(callbacks), **quiet)
    return dict(backbone.net.state_dict()), outcome


def changes(after: dict[str, Tensor]) -> set[str]:
    return {k for k, v in network().net.state_dict().items() if not torch.equal(v, after[k])}


def test_only_the_last_blocks_change_and_frozen_statistics_stay(samples: list[Sample]):
    backbone = network()
    after, outcome = tune(samples, replace(QUICK, unfreeze=2), backbone)
    assert not backbone.training and all(p.requires_grad for p in backbone.parameters()), "it is ready to be used"
    assert outcome.blocks == ["layer2.0", "layer2.1"]
    changed = changes(after)
    assert {block_of(k) for k in changed} == {"layer2.0", "layer2.1"}
    assert {"layer2.0.conv1.weight", "layer2.1.bn2.running_mean", "layer2.1.bn2.weight"} <= changed


class Watch(Callback):
    """The backbone's weights and statistics, after each epoch."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def on_train_epoch_end(self, trainer, module) -> None:
        self.states.append(torch.cat([v.flatten() for v in module.backbone.state_dict().values()]))


class Recorder(CutPaste):
    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def examples(self, batch, seed):
        self.seen.append(batch.index.tolist())
        return super().examples(batch, seed)


def test_the_head_may_learn_alone_first_and_a_shortened_epoch_goes_on_to_other_images(samples: list[Sample]):
    watch, task = Watch(), Recorder()
    tune(samples, replace(QUICK, task=task, epochs=3, head_epochs=2, batch_size=4, batches=2), None, watch)
    untouched = torch.cat([v.flatten() for v in network().state_dict().values()])
    assert [torch.equal(state, untouched) for state in watch.states] == [True, True, False]
    held = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [task.seen[i : i + 2] for i in (0, 4, 8, 12)] == [held] * 4  # before, and after each epoch
    epochs = [{n for batch in task.seen[i : i + 2] for n in batch} for i in (2, 6, 10)]
    assert all(len(epoch) == 8 for epoch in epochs) and len(set().union(*epochs)) > 12


def test_the_whole_network_changes_as_the_seed_says(samples: list[Sample]):
    first, outcome = tune(samples, QUICK)
    assert {block_of(k) for k in changes(first)} == {block_of(k) for k in first} and outcome.blocks[0] == "conv1"
    torch.rand(7)
    second, _ = tune(samples, QUICK)
    other, _ = tune(samples, replace(QUICK, seed=1))
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_it_gets_better_at_its_task(samples: list[Sample]):
    """Against the head alone on the untouched features, on images that it never saw."""
    backbone = build("tf_efficientnet_lite0", (1, 2), "bundled")
    rate = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.02)
    settings = replace(QUICK, epochs=8, head_epochs=2, hidden=(64,), batches=None, scheduler=rate)
    _, outcome = tune(samples, settings, backbone)
    assert outcome.accuracy_by_chance == pytest.approx(1 / 3)
    assert outcome.accuracy_after > outcome.accuracy_before + 0.1


@pytest.mark.parametrize("task", [CutPaste, OKAgainstGenerated])
def test_an_image_of_weight_two_counts_as_two(samples: list[Sample], task, monkeypatch: pytest.MonkeyPatch):
    """The loss of a weighted batch is that of the batch with copies, whatever the scale of the weights."""
    settings = replace(QUICK, task=task())
    settings.task.samples(samples, [])
    torch.manual_seed(0)
    module = FineTuning(network(), settings).eval()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)

    examples = settings.task.examples(ImageSet(samples, SIZE)[[0, 1, 2]], 5)

    def loss(indices: list[int], weights: list[float]) -> float:
        rows = [r + 3 * c for c in range(len(settings.task.classes)) for r in indices]
        weight = torch.tensor(weights * len(settings.task.classes))
        return module.training_step(Examples(examples.image[rows], examples.label[rows], weight), 0).item()

    doubled = loss([0, 1, 2], [3.0, 6.0, 3.0])
    assert doubled == pytest.approx(loss([0, 1, 1, 2], [1.0] * 4), rel=1e-5)
    assert loss([0, 1, 2], [1.0, 0.0, 1.0]) == pytest.approx(loss([0, 2], [1.0] * 2), rel=1e-5)
    assert loss([0, 1, 2], [1.0] * 3) != pytest.approx(doubled, rel=1e-5)


def test_cutpaste_makes_one_example_of_each_class(samples: list[Sample]):
    images = ImageSet([replace(s, weight=float(i + 1)) for i, s in enumerate(samples[:3])], SIZE)
    batch = images[[2, 0, 1]]
    examples = CutPaste().examples(batch, 5)
    assert examples.label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert examples.weight.tolist() == [3, 1, 2] * 3
    assert torch.equal(examples.image[:3], batch.image)
    assert all((examples.image[i] != batch.image[i % 3]).any() for i in range(3, 9))
    assert not torch.equal(CutPaste().examples(batch, 6).image, examples.image)
    alone = CutPaste().examples(images[[0]], 5)
    assert torch.equal(examples.image[[1, 4, 7]], alone.image), "what is pasted does not depend on the batch"


def test_the_classifier_takes_generated_images_as_they_are(samples: list[Sample]):
    task = OKAgainstGenerated()
    chosen = task.samples(samples[:2], [replace(samples[2], origin="generated", weight=0.5)])
    batch = ImageSet(chosen, SIZE)[[0, 1, 2]]
    examples = task.examples(batch, 0)
    assert examples.label.tolist() == [0, 0, 1] and examples.weight.tolist() == [1, 1, 0.5]
    assert torch.equal(examples.image, batch.image)


def test_without_generated_images_the_classifier_has_augmented_ones(samples: list[Sample]):
    task, state = OKAgainstGenerated(), torch.get_rng_state()
    batch = ImageSet(task.samples(samples[:4], []), SIZE)[[0, 1, 2, 3]]
    examples = task.examples(batch, 3)
    assert examples.label.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(examples.image[:4], batch.image)
    assert examples.image.shape == (8, 3, *SIZE) and examples.image.min() >= 0 and examples.image.max() <= 1
    assert (examples.image[4:] - batch.image).abs().flatten(1).amax(1).min() > 0.05
    assert torch.equal(task.examples(batch, 3).image, examples.image)
    assert not torch.equal(task.examples(batch, 4).image, examples.image)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_logit_is_the_cross_entropy_of_two():
    logit, label = torch.tensor([[-2.0], [0.3], [1.5]]), torch.tensor([0, 1, 0])
    two = torch.cat([torch.zeros_like(logit), logit], 1)
    expected = -two.log_softmax(1)[torch.arange(3), label]
    assert torch.allclose(classification_loss(logit, label), expected)
    assert np.allclose(classification_loss(two, label), expected)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer2.0.downsample.0.weight", "layer2.0"),  # a shortcut belongs to its block
        ("blocks.2.1.conv_pw.weight", "blocks.2.1"),
        ("stages_1.blocks.3.norm.bias", "stages_1.blocks.3"),
        ("conv_stem.weight", "conv_stem"),
        ("model.blocks.3.attn.qkv.weight", "blocks.3"),
    ],
)
def test_a_tensor_belongs_to_its_residual_block(name: str, block: str):
    assert block_of(name) == block


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224"])
def test_the_last_blocks_learn_and_the_others_are_frozen(name: str):
    net = build(name, (1, 2)).net
    names = blocks(net)
    learning = unfreeze_last(net, 2)
    assert learning == names[-2:]
    assert all(p.requires_grad == (block_of(n) in names[-2:]) for n, p in net.named_parameters())
    assert unfreeze_last(net, None) == names and all(p.requires_grad for p in net.parameters())


def test_normalisation_learns_with_its_block_alone():
    net = build("resnet18", (1, 2)).net.train()
    assert blocks(net) == ["conv1", "bn1", *(f"layer{level}.{i}" for level in (1, 2) for i in (0, 1))]
    keep_statistics(net, unfreeze_last(net, 1))
    modes = {name: m.training for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, training in modes.items() if training} == {"layer2.1.bn1", "layer2.1.bn2"}


def test_settings_under_which_nothing_is_learned_are_refused():
    with pytest.raises(UserError, match=r"head_epochs \(1\) must be fewer than teacher\.epochs \(1\)"):
        replace(QUICK, head_epochs=1)
    net = build("resnet18", (1,)).net
    for count in (0, 99):
        with pytest.raises(UserError, match=rf"from 1 to 4, but is {count}; .* conv1, bn1, layer1\.0, layer1\.1"):
            unfreeze_last(net, count)
