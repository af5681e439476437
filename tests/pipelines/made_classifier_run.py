"""A classifier's run as `train` leaves it, but for the training: real files around a network with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from local_mi.checkpoints import keep, read_record
from monai.bundle import ConfigParser

from pipelines.bundle import CLASSIFIER, bundle_folder, run_configuration

LABELS = ["Edema", "Pneumothorax", "Edema | mild\nor more"]
TINY = {
    "_target_": "monai.networks.nets.ResNet",
    "block": "basic",
    "layers": [1, 1, 1, 1],
    "block_inplanes": [8, 8, 8, 16],
    "spatial_dims": 2,
    "n_input_channels": 1,
    "conv1_t_stride": 2,
    "num_classes": "$len(@label_names)",
}
PREPARED_AS = {
    "preset": "voi",
    "size": 128,
    "bit_depth": 8,
    "interpolation": "area",
    "crop": False,
    "reduced_resolution": False,
    "range": [0, 255],
}
COUNTS = {
    "training": {"images": 120, "studies": 100, "patients": 80},
    "test": {"images": 1, "studies": 1, "patients": 1},
}
SIZE = 64


def write_classifier_run(folder: Path, network: dict[str, Any] | None = None, **record: Any) -> Path:
    """Write a run whose network has the components of a configuration, by default a tiny ResNet."""
    (folder / "models").mkdir(parents=True)
    parser = ConfigParser(ConfigParser.load_config_file(bundle_folder() / "configs" / "train.yaml"))
    parser.update(
        {
            "network_def": network or TINY,
            "label_names": LABELS,
            "image_size": SIZE,
            "pretrained": "/home/me/e.safetensors",
        }
    )
    configuration = json.loads(json.dumps(parser.config))
    torch.manual_seed(0)
    made = as_after_training(parser.get_parsed_content("network_def"))
    kept = {
        "metric": "mean_auroc",
        "value": 0.75,
        "epoch": 3,
        "configuration": configuration,
        "prepared_as": PREPARED_AS,
        "counts": COUNTS,
        "datalist_sha256": "d" * 64,
    }
    keep(made, str(folder / "models" / CLASSIFIER), kept | record)
    return folder


def as_after_training(network: Any) -> Any:
    """With batch norms that do something."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def trained_classifier(run: Path) -> torch.nn.Module:
    """The network of such a run, by PyTorch and MONAI's parser alone."""
    network: Any = ConfigParser(run_configuration(run, "train")).get_parsed_content("network_def")
    network.load_state_dict(torch.load(run / "models" / CLASSIFIER, weights_only=True))
    return network.eval()  # type: ignore[no-any-return]


def write_metrics(run: Path, weights_sha256: str | None = None) -> Path:
    """`metrics.json` as `evaluate` writes it, of these weights unless told otherwise, with figures by label."""
    record = read_record(str(run / "models" / CLASSIFIER))
    assert record is not None
    figures = {"auroc": (0.8, 0.7, 0.9), "auprc": (0.5, 0.4, 0.6), "temperature": (1.5, None, None)}
    figures |= {"threshold": (0.25, None, None), "sensitivity_at_specificity": (None, None, None)}
    metrics = [
        {"blanks": blanks, "label": label, "metric": name, "value": value, "low": low, "high": high}
        | {"degenerate": 0, "rows": 40, "positives": 10, "reason": ""}
        for blanks in ("masked", "negative")
        for label in (*LABELS, "macro")
        for name, (value, low, high) in figures.items()
        if not (label == "Pneumothorax" and name == "threshold")
        and not (label == "macro" and name in ("temperature", "threshold"))
    ]
    facts = {"weights_sha256": weights_sha256 or record["sha256"], "studies": 40, "patients": 30, "resamples": 1000}
    path = run / "metrics.json"
    path.write_text(json.dumps(facts | {"metrics": metrics, "summary": {}, "differences": []}))
    return path
