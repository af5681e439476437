"""Labels of datalist items by name, and what training makes of those that are uncertain, blank or rare.

A label is 1, 0, -1 (uncertain) or None (blank: nothing is known). The grade of a pulmonary edema, 0 none, 1 vascular
congestion, 2 interstitial, 3 alveolar, is learnt as three labels, "Edema Severity >= 1", ">= 2" and ">= 3": an ordinal
scale as its cumulative decisions (Frank and Hall, ECML 2001), which are the dichotomies that it is reported by (Liao et
al., MICCAI 2021).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from local_mi.errors import ConfigurationError

Item = dict[str, Any]
Policy = str | Sequence[float]

KNOWN = (0, 1)  # label values that training and metrics use
UNCERTAIN = -1
SEVERITY = "edema_severity"  # of an item: 0 to 3, or None
SEVERITY_LABELS = {f"Edema Severity >= {grade}": grade for grade in (1, 2, 3)}


def labels_by_name(items: Sequence[Item], datalist_names: Sequence[str], wanted: Sequence[str]) -> list[list[Any]]:
    """The labels of items, a row an item in the order of `wanted`; None where nothing is known.

    Args:
        items: of a datalist, with `label` in the order of `datalist_names`, and `edema_severity` or not.
        datalist_names: the datalist's `label_names`.
        wanted: label names, of the datalist or of `SEVERITY_LABELS`.

    Raises:
        ConfigurationError: a name that the datalist does not have.
    """
    if isinstance(wanted, str):
        raise ConfigurationError(f"`label_names` is the text {wanted!r}; write a list, for instance \"['Edema']\"")
    offered = [*datalist_names, *SEVERITY_LABELS]
    if missing := [name for name in wanted if name not in offered]:
        raise ConfigurationError(
            f"{', '.join(missing)}: not a label of the datalist, which has {', '.join(datalist_names) or 'none'}; "
            "set `label_names`"
        )
    column = {name: k for k, name in enumerate(datalist_names)}
    return [[_value(item, name, column) for name in wanted] for item in items]


def _value(item: Item, name: str, column: Mapping[str, int]) -> int | None:
    if name in column:
        return item["label"][column[name]] if item.get("label") else None
    grade = item.get(SEVERITY)
    return None if grade is None else int(grade >= SEVERITY_LABELS[name])


def apply_policies(
    items: Sequence[Item], label_names: Sequence[str], uncertain: Policy | Mapping[str, Policy], blanks: str, seed: int
) -> list[list[Any]]:
    """Training targets out of labels: what uncertain and blank ones are taken for.

    Args:
        items: with `study` and `label` in the order of `label_names`.
        label_names: L names.
        uncertain: `ignore` (takes no part), `zeros`, `ones` (Irvin et al., AAAI 2019), or [low, high]: a target drawn
            evenly between them (Pham et al., Neurocomputing 2021), the same in every epoch; or a mapping from label
            to policy, where `default` stands for the labels that it does not name (`ignore` without it).
        blanks: `masked` (take no part), or `negative`.
        seed: of the draws.

    Returns:
        A row an item: targets in [0, 1], and -1 or None where a label takes no part.

    Raises:
        ConfigurationError: an unknown policy, or one for a label that is not there.
    """
    if blanks not in ("masked", "negative"):
        raise ConfigurationError(f"`blanks` is {blanks!r}; write masked or negative")
    policies = _policies(uncertain, label_names)
    blank = 0 if blanks == "negative" else None
    return [
        [
            _uncertain_target(policies[name], seed, item["study"], name)
            if value == UNCERTAIN
            else blank
            if value is None
            else value
            for name, value in zip(label_names, item["label"], strict=True)
        ]
        for item in items
    ]


def _policies(uncertain: Policy | Mapping[str, Policy], label_names: Sequence[str]) -> dict[str, Policy]:
    given = dict(uncertain) if isinstance(uncertain, Mapping) else {"default": uncertain}
    if unknown := [name for name in given if name not in (*label_names, "default")]:
        raise ConfigurationError(f"`uncertain` names {', '.join(unknown)}, which is not among `label_names`")
    policies = {name: given.get(name, given.get("default", "ignore")) for name in label_names}
    for name, policy in policies.items():
        if not (policy in ("ignore", "zeros", "ones") or _is_range(policy)):
            raise ConfigurationError(
                f"`uncertain` of {name} is {policy!r}; write ignore, zeros, ones, or two targets such as [0.55, 0.85]"
            )
    return policies


def _is_range(policy: Policy) -> bool:
    try:
        low, high = map(float, () if isinstance(policy, str) else policy)
    except (TypeError, ValueError):
        return False
    return 0 <= low <= high <= 1


def _uncertain_target(policy: Policy, seed: int, study: str, name: str) -> float:
    if isinstance(policy, str):
        return {"ignore": UNCERTAIN, "zeros": 0, "ones": 1}[policy]
    low, high = map(float, policy)
    drawn = int.from_bytes(hashlib.sha256(f"{seed}/{study}/{name}".encode()).digest()[:8]) / 2**64
    return low + (high - low) * drawn


def label_tensor(label: list[Any]) -> Tensor:
    """A label or target row as a float tensor (L,): None becomes NaN, since strict JSON has no NaN."""
    return torch.tensor([float("nan") if value is None else float(value) for value in label])


def positive_weight(items: Sequence[Item], class_weighting: str) -> Tensor:
    """How much a positive counts beside a negative in the loss, label by label.

    Args:
        items: of training, with `label` rows of targets.
        class_weighting: `none`, or `balanced`: negatives over positives, so that both sides of a label count alike; 1
            where one side is missing.

    Returns:
        (L,).

    Raises:
        ConfigurationError: another word.
    """
    if class_weighting not in ("none", "balanced"):
        raise ConfigurationError(f"`class_weighting` is {class_weighting!r}; write none or balanced")
    targets = torch.stack([label_tensor(item["label"]) for item in items])
    if class_weighting == "none":
        return torch.ones(targets.shape[1])
    known = (targets >= 0) & (targets <= 1)
    positives = torch.where(known, targets, 0.0).sum(dim=0)
    negatives = torch.where(known, 1 - targets, 0.0).sum(dim=0)
    return torch.where((positives > 0) & (negatives > 0), negatives / positives.clamp(min=1e-12), 1.0)
