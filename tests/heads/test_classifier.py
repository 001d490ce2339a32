"""The attribute classifier with a tiny random network: the order of its logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsd.heads.attributes import ATTRIBUTES
from rsd.heads.classifier import LABELS, SIZES, HeadsClassifier


def pictures(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def network():
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)), label2id={label: k for k, label in enumerate(LABELS)},
    )  # fmt: skip
    return ResNetForImageClassification(config)


def test_the_classifier_is_one_softmax_for_each_attribute(network, tmp_path):
    assert LABELS[:3] == ["person=man", "person=woman", "skin=pale"] and len(LABELS) == sum(SIZES) == 49
    network.save_pretrained(tmp_path)
    judge, x = HeadsClassifier.load(tmp_path), pictures(3, 64)
    found = judge.probabilities(x)
    assert [found[a].shape for a in ATTRIBUTES] == [(3, len(options)) for options in ATTRIBUTES.values()]
    with torch.no_grad():
        logits = network.eval()(nn.functional.interpolate(x, size=(128, 128), mode="bilinear")).logits
    at = LABELS.index("glasses=none")
    assert torch.allclose(found["glasses"], logits[:, at : at + 3].softmax(1), atol=1e-6)
    assert torch.allclose(found["mouth"].sum(1), torch.ones(3))
    assert torch.equal(
        judge.probabilities(x * 5)["hair"], judge.probabilities(x.sign() * (x * 5).abs().clamp(max=1))["hair"]
    )


def test_the_classifier_s_features_are_those_its_last_layer_reads(network, tmp_path):
    network.save_pretrained(tmp_path)
    judge, x = HeadsClassifier.load(tmp_path), pictures(2, 64)
    phi = judge.features(x)
    assert phi.shape == (2, 12) and not phi.requires_grad
    person = judge.network.classifier(phi)[:, :2].softmax(1)
    assert torch.allclose(person, judge.probabilities(x)["person"], atol=1e-6)


def test_a_missing_classifier_and_one_of_other_attributes(network, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*scripts.heads"):
        HeadsClassifier.load(tmp_path / "nowhere")
    network.config.id2label = dict(enumerate(reversed(LABELS)))
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="other attributes"):
        HeadsClassifier.load(tmp_path)
