"""Pretrained weights: the bundled ones recognise photographs; files and downloads fit or say why not."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from anomalib_lite.backbones import build
from anomalib_lite.backbones.weights import facts, fetch, find_file, load_weights, place_for
from anomalib_lite.errors import UserError

PALACE, DAISY = 698, 985  # ImageNet's classes of scikit-learn's two photographs


@pytest.fixture(scope="module", params=["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def classifier(name: str) -> nn.Module:
    model = timm.create_model(name)
    load_weights(model, "bundled", name)
    return model.eval()


@pytest.mark.parametrize(("photograph", "expected"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
@torch.no_grad()
def test_the_bundled_weights_recognise_photographs(name: str, classifier: nn.Module, photograph: str, expected: int):
    if (name, expected) == ("tf_efficientnet_lite2", DAISY):
        pytest.skip("the flower is a dahlia, which ImageNet lacks: Lite2 takes it for something else")
    image = load_sample_image(photograph)[:, 106:533]  # the square in the middle of 427 x 640 px
    size = {"tf_efficientnet_lite1": 240, "tf_efficientnet_lite2": 260}.get(name, 224)  # that of their training
    square = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    tensor = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    assert classifier((tensor - 0.5) / 0.5).argmax().item() == expected


def test_the_backbone_carries_the_bundled_weights(name: str, classifier: nn.Module):
    """The cut backbone, built by name, gives the features on which those photographs were recognised."""
    backbone = build(name, (1, 2, 3), "bundled").eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, theirs = classifier.forward_intermediates((image - 0.5) / 0.5, indices=[1, 2, 3])
        for own, their in zip(backbone(image), theirs, strict=True):
            assert torch.equal(own, their)


def flat(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([p.flatten() for p in parameters])


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet18(weights=None)


@pytest.mark.parametrize("kind", ["plain.pth", "nested.pt", "plain.safetensors", "other_classes.pth", "no_counts.pth"])
def test_a_state_dict_goes_through_a_file(resnet: nn.Module, tmp_path: Path, kind: str):
    """Also without the counts of batches, as torchvision publishes them, and with a classifier of another task."""
    state, path = dict(resnet.state_dict()), tmp_path / kind
    if kind.startswith("other_classes"):
        state |= {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    if kind.startswith("no_counts"):
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind.startswith("nested") else state, path)
    backbone = build("resnet18", (1, 2, 3), str(path))
    expected = [v for k, v in resnet.named_parameters() if not k.startswith(("fc.", "layer4."))]
    assert torch.equal(flat(backbone.parameters()), flat(expected))


def test_a_file_of_another_network_is_refused(resnet: nn.Module, tmp_path: Path):
    path = tmp_path / "weights.pth"
    larger = torchvision.models.resnet34(weights=None).state_dict()  # has every tensor of resnet18, with its shape
    for name, state, said in (
        ("resnet18", larger, r"it has in addition \d+ tensors, .*layer1\.2\.bn1"),
        ("resnet34", resnet.state_dict(), "it lacks"),
        ("resnet18", resnet.state_dict() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, ".*size mismatch for conv1\\."),
    ):
        torch.save(state, path)
        with pytest.raises(UserError, match=f"(?s)does not fit the backbone: {said}"):
            build(name, weights=str(path))


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "list.pth", "pickled_module.pth"])
def test_a_file_that_is_no_state_dict_is_refused_and_named(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text("hello")
    if name.startswith("list"):
        torch.save([1, 2], path)
    if name.startswith("pickled"):
        torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=f"{name} is not a readable state dict"):
        build("resnet18", weights=str(path))


def test_a_file_as_its_authors_published_it_is_understood(tmp_path: Path):
    """DINOv2's own files name a few tensors otherwise than timm, and hold one more."""
    state = timm.create_model("vit_small_patch14_dinov2").state_dict()
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, tmp_path / "published.pth")
    torch.save(state, tmp_path / "timms.pth")
    files = [str(tmp_path / name) for name in ("published.pth", "timms.pth")]
    one, other = (flat(build("vit_small_patch14_dinov2", (1,), file).parameters()) for file in files)
    assert torch.equal(one, other)
    with pytest.raises(UserError, match="does not fit the backbone"):
        build("vit_tiny_patch16_224", (1,), str(tmp_path / "published.pth"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18.tv_in1k", r"47 MB, licence bsd-3-clause\) of timm/resnet18\.tv_in1k"),
        ("vit_small_patch16_dinov3.lvd1689m", r"86 MB, licence dinov3-license \(not free: read it\)\) of timm/vit"),
    ],
)
def test_without_a_network_the_error_says_which_file_to_fetch(
    name: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=rf"(?s)could not be downloaded.*{file}.*backbone\.weights=/path/to/model"):
        build(name, (1,), "timm")


def test_a_file_that_was_fetched_elsewhere_works_where_the_error_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Offline: the command names the place, and a training reads what is put there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "test_resnet.r160_in1k"
    with pytest.raises(UserError, match=r"fetch model\.safetensors \(2 MB, licence apache-2\.0\) of timm/") as refused:
        fetch(name)
    place = place_for(name)
    assert f"copy it to {place};" in str(refused.value) and find_file(name, "timm") is None
    place.parent.mkdir(parents=True)
    made, loaded = timm.create_model(name), timm.create_model(name)
    save_file(made.state_dict(), place)
    load_weights(loaded, "timm", name)
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in made.state_dict().items() if k[:2] != "fc")
    assert fetch(name) == find_file(name, "timm") == place


def test_names_and_sources_that_are_none_are_refused():
    assert find_file("resnet18.tv_in1k", "none") is None
    with pytest.raises(UserError, match="No weights are bundled for 'resnet18': tf_efficientnet_lite0, tf_efficientne"):
        build("resnet18", (1,), "bundled")
    with pytest.raises(UserError, match=r"no file: imagenet\. Valid are bundled, timm, none, or the path"):
        build("resnet18", (1,), "imagenet")
    with pytest.raises(UserError, match="no model 'resnet81'"):
        facts("resnet81")
