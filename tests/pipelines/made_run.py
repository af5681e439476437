"""A pretraining run as `pretrain` leaves it, but for the training: real files around a network with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from local_mi.checkpoints import keep
from local_mi.text_models import prepare_text_model
from local_mi.weights import save_encoder
from monai.bundle import ConfigParser

from pipelines.bundle import ENCODER, PRETRAINED, bundle_folder

SENTENCES = ["There is a left pleural effusion.", "The heart is enlarged.", "No pneumothorax.", "Clear lungs."]
SETTINGS = {
    "image_size": 64,
    "image_encoder#widen_factor": 0.125,
    "image_encoder#conv1_t_stride": 1,
    "small_bert": {"vocabulary_size": 200, "hidden_size": 16, "layers": 1, "heads": 2, "max_tokens": 64},
}


def write_run(folder: Path, **settings: Any) -> Path:
    """Write a run with keys of the bundle's configuration set, for instance `objective="global"`."""
    models = folder / "models"
    models.mkdir(parents=True)
    datalist = folder / "datalist.json"
    np.save(folder / "i.npy", np.zeros((64, 64), np.uint8))
    items = [{"image": "i.npy", "study": s, "patient": "p", "view": "PA", "sentences": SENTENCES} for s in ("s", "t")]
    datalist.write_text(json.dumps({"training": items}))
    small_bert = SETTINGS["small_bert"]
    text_model = prepare_text_model(str(models / "text_model"), None, str(datalist), small_bert)  # type: ignore[arg-type]
    configuration = ConfigParser.load_config_file(bundle_folder() / "configs" / "pretrain.yaml")
    parser = ConfigParser(configuration)
    parser.update(SETTINGS | settings)
    configuration = json.loads(json.dumps(parser.config))
    parser.update({"text_model_dir": text_model, "device": "cpu"})
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    keep(network, str(models / PRETRAINED), {"value": 0.0, "configuration": configuration})
    save_encoder(network.image_encoder, str(models / ENCODER), {"preprocessing": {"preset": "voi"}})
    return folder
