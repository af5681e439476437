"""Every parameter is optimised once, as the paper's three optimisers do it, and the text encoder has its schedule."""

import copy
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from local_mi.critics import ConcatenationCritic, SeparableCritic
from local_mi.optimization import linear_warmup_decay, parameter_groups
from local_mi.paper_resnet import PaperResNet
from monai.bundle import ConfigParser
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertConfig, BertModel, get_linear_schedule_with_warmup

SCHEDULE = {
    "_target_": "torch.optim.lr_scheduler.LambdaLR",
    "optimizer": "@optimizer",
    "lr_lambda": [
        "$lambda step: 1.0",
        "$lambda step: 1.0",
        {"_target_": "local_mi.optimization.linear_warmup_decay", "_mode_": "callable", "warmup_steps": 2, "steps": 8},
        {"_target_": "local_mi.optimization.linear_warmup_decay", "_mode_": "callable", "warmup_steps": 2, "steps": 8},
    ],
}


class JointNetwork(nn.Module):
    """The parts of the joint network by their names: the paper's encoder, a BERT, both critics, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = PaperResNet(None)
        config = BertConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
        )
        self.text_encoder = nn.Module()
        self.text_encoder.model = BertModel(config)
        self.local_critic = ConcatenationCritic(128, 8, [16, 12])
        self.global_critic = SeparableCritic(768, 8, 4, 0.1)
        self.head = nn.Linear(768, 3)


def groups_of(network: nn.Module) -> list[dict[str, Any]]:
    return parameter_groups(network, 5e-4, 2e-5, 0.01, 0.1)


def names(network: nn.Module, group: dict[str, Any]) -> set[str]:
    chosen = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in chosen}


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    network = JointNetwork()
    frozen = [*network.image_encoder.conv1.parameters(), *network.text_encoder.model.embeddings.parameters()]
    for parameter in frozen:
        parameter.requires_grad_(False)
    grouped = [id(parameter) for group in groups_of(network) for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in network.parameters()} - {id(p) for p in frozen}


def test_each_part_has_its_learning_rate_and_weight_decay() -> None:
    network = JointNetwork()
    groups = groups_of(network)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (5e-4, 0.01),
        (5e-4, 0.0),
        (2e-5, 0.1),
        (2e-5, 0.0),
    ]
    image, image_constant, text, text_constant = (names(network, group) for group in groups)
    assert {name.split(".")[0] for name in text | text_constant} == {"text_encoder"}
    assert {"image_encoder.layer6.1.conv2.weight", "local_critic.second.weight", "head.weight"} <= image
    assert {"image_encoder.layer1.0.bn1.weight", "global_critic.log_inverse_temperature", "head.bias"} <= image_constant
    assert "text_encoder.model.embeddings.word_embeddings.weight" in text


def test_nothing_decays_that_is_a_bias_or_belongs_to_a_norm() -> None:
    """By the kind of module that owns it, not by its dimensions."""
    network = JointNetwork()
    decaying = set().union(*(names(network, group) for group in groups_of(network) if group["weight_decay"]))
    for prefix, module in network.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            constant = isinstance(module, nn.LayerNorm | nn.BatchNorm2d) or "bias" in name or "temperature" in name
            assert (f"{prefix}.{name}" in decaying) is not constant


def test_an_empty_group_keeps_its_place() -> None:
    network = JointNetwork()
    network.text_encoder.requires_grad_(False)
    optimizer = AdamW(groups_of(network))
    assert [len(group["params"]) > 0 for group in optimizer.param_groups] == [True, True, False, False]
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-4, 2e-5, 2e-5]


def test_one_optimiser_does_what_the_papers_three_do() -> None:
    """Adam for the images and for the critics, AdamW with names that do not decay and its schedule for the text."""
    network = JointNetwork()
    papers = copy.deepcopy(network)
    optimizer = AdamW(parameter_groups(network, 5e-4, 2e-5, 0.0, 0.1))
    scheduler = ConfigParser({"optimizer": optimizer, "scheduler": SCHEDULE}).get_parsed_content("scheduler")
    image = Adam([*papers.image_encoder.parameters(), *papers.head.parameters()], lr=5e-4)
    critic = Adam([*papers.local_critic.parameters(), *papers.global_critic.parameters()], lr=5e-4)
    spared = ("bias", "LayerNorm.bias", "LayerNorm.weight")
    text_parameters = list(papers.text_encoder.named_parameters())
    text = AdamW(
        [
            {"params": [p for n, p in text_parameters if not any(s in n for s in spared)], "weight_decay": 0.1},
            {"params": [p for n, p in text_parameters if any(s in n for s in spared)], "weight_decay": 0.0},
        ],
        lr=2e-5,
    )
    text_scheduler = get_linear_schedule_with_warmup(text, 2, 8)
    generator = torch.Generator().manual_seed(0)
    start = copy.deepcopy(network.state_dict())
    for _ in range(6):
        for ours, theirs in zip(network.parameters(), papers.parameters(), strict=True):
            ours.grad = torch.randn(ours.shape, generator=generator)
            theirs.grad = ours.grad.clone()
        for step in (optimizer, scheduler, image, critic, text, text_scheduler):
            step.step()
    for (name, ours), theirs in zip(network.named_parameters(), papers.parameters(), strict=True):
        assert not torch.equal(ours, start[name]), name
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


@given(st.integers(0, 50), st.integers(1, 200))
def test_the_schedule_is_that_of_transformers(warmup_steps: int, more_steps: int) -> None:
    steps = warmup_steps + more_steps
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, warmup_steps, steps)
    for step in range(steps + 3):
        assert linear_warmup_decay(step, warmup_steps, steps) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_the_schedule_rises_to_one_and_falls_to_nothing() -> None:
    found = [linear_warmup_decay(step, warmup_steps=2, steps=6) for step in range(8)]
    assert found == [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert linear_warmup_decay(0, warmup_steps=0, steps=0) == 0.0


def test_the_schedule_of_a_configuration_moves_only_the_text_and_is_resumed_from_plain_data(tmp_path: Path) -> None:
    def fresh() -> tuple[AdamW, LambdaLR]:
        optimizer = AdamW(groups_of(JointNetwork()))
        parser = ConfigParser({"optimizer": optimizer, "scheduler": SCHEDULE})
        return optimizer, parser.get_parsed_content("scheduler")

    optimizer, scheduler = fresh()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    expected = [5e-4, 5e-4, 2e-5 * 4 / 6, 2e-5 * 4 / 6]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    resumed_optimizer, resumed = fresh()
    resumed.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    for one in (scheduler, resumed):
        one.optimizer.step()
        one.step()
    assert resumed.get_last_lr() == scheduler.get_last_lr() == pytest.approx([5e-4, 5e-4, 1e-5, 1e-5])
    assert not any(isinstance(function, types.FunctionType) for function in resumed.lr_lambdas[2:])
