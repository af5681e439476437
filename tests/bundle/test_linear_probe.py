"""A frozen encoder's head is the optimum of a convex problem: scikit-learn, as another solver, must agree."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, RunBundle, write_store
from local_mi.encoders import image_features
from local_mi.errors import ConfigurationError
from local_mi.linear_probe import best_head, classifier_head, fit_head, pooled_features
from monai.networks.nets import DenseNet121, resnet18
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


def made(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of very different scales, one of them constant, and two labels with gaps."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((n, 6)) * [1, 10, 0.1, 1, 3, 0] + [0, 5, 0, -2, 0, 7]
    logits = features[:, :2] @ np.array([[1.0, -0.5], [0.05, 0.1]]) - np.array([0.2, 1.0])
    labels = (random.random((n, 2)) < 1 / (1 + np.exp(-logits))).astype(float)
    labels[random.random((n, 2)) < 0.2] = math.nan
    labels[random.random((n, 2)) < 0.05] = -1
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize("penalty", [0.01, 1.0])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_is_the_one_that_scikit_learn_finds(penalty: float, balanced: bool) -> None:
    features, labels = made(400, 0)
    known = (labels == 0) | (labels == 1)
    ratio = (labels == 0).sum(dim=0) / (labels == 1).sum(dim=0)
    weight, bias = fit_head(features, labels, penalty, ratio if balanced else None)
    scaled = StandardScaler().fit_transform(features.double().numpy())
    for k in range(2):
        rows = known[:, k].numpy()
        target = labels[rows, k].numpy()
        weights = np.where(target == 1, float(ratio[k]), 1.0) if balanced else None
        # Ours is the mean over all known values of all labels plus penalty / 2 |w|^2 / L: theirs C sum + |w|^2 / 2.
        oracle = LogisticRegression(C=2 / (penalty * float(known.sum())), tol=1e-10, max_iter=10_000)
        oracle.fit(scaled[rows], target, sample_weight=weights)
        expected = oracle.decision_function(scaled)
        found = (features.double() @ weight.T + bias)[:, k].numpy()
        assert np.abs(found - expected).max() < 1e-3


def test_a_constant_feature_has_no_weight() -> None:
    features, labels = made(100, 1)
    assert fit_head(features, labels, 0.1)[0][:, 5].tolist() == [0.0, 0.0]


def test_the_penalty_is_the_one_that_does_best_on_validation() -> None:
    training, validation = made(40, 2), made(400, 3)
    penalties = [1e-4, 1e-2, 1.0, 100.0]
    chosen = best_head(training, validation, penalties)
    alone = {penalty: best_head(training, validation, [penalty]).mean_auroc for penalty in penalties}
    assert chosen.mean_auroc == max(alone.values())
    assert alone[chosen.penalty] == chosen.mean_auroc
    assert len(set(alone.values())) > 1


@pytest.mark.parametrize("penalties", [[], [0.0], [-1.0], "0.1"])
def test_penalties_that_are_none_are_refused(penalties: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="write a list of numbers above 0"):
        best_head(made(20, 4), made(20, 5), penalties)


def test_features_that_are_lost_are_refused() -> None:
    features, labels = made(20, 6)
    features[3, 2] = math.nan
    with pytest.raises(ConfigurationError, match="features that are not finite"):
        best_head((features, labels), made(20, 7), [1.0])


def test_a_validation_split_that_cannot_choose_is_refused() -> None:
    features, labels = made(20, 8)
    with pytest.raises(ConfigurationError, match="undefined on the validation split"):
        best_head((features, labels), (features, torch.zeros_like(labels)), [1.0])


@pytest.mark.parametrize("build", [resnet18, DenseNet121])
def test_the_head_reads_the_pooled_features(build: type) -> None:
    classes = {"num_classes": 3} if build is resnet18 else {"out_channels": 3}
    shape = {"spatial_dims": 2, "n_input_channels": 1} if build is resnet18 else {"spatial_dims": 2, "in_channels": 1}
    network = build(**shape, **classes).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(classifier_head(network)(image_features(network, image)[1]), network(image), atol=1e-5)


def test_the_encoder_is_frozen_and_its_batch_norms_too() -> None:
    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=2)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pooled_features(network, [{"image": torch.rand(4, 1, 64, 64), "label": torch.zeros(4, 2)}], torch.device("cpu"))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_frozen_run_changes_the_head_alone_and_evaluates_like_any_other(
    tmp_path: Path, run_bundle: RunBundle
) -> None:
    store = write_store(tmp_path / "store")
    run = tmp_path / "run"
    keys = TINY | {
        "dataset_dir": store,
        "ckpt_dir": run / "models",
        "output_dir": run,
        "label_names": ["Upper", "Lower"],
    }
    done = run_bundle("train", "frozen", **keys)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((run / "models" / "model.json").read_text())
    assert record["encoder"] == "frozen"
    assert record["metric"] == "mean_auroc"
    state = torch.load(run / "models" / "model.pt", weights_only=True)
    assert state["bn1.num_batches_tracked"] == 0  # never trained
    assert state["fc.weight"].abs().max() > 0
    evaluated = run_bundle("train", "frozen", "evaluate", **keys)
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert json.loads((run / "metrics.json").read_text())["mean_auroc"] > 0.5
