"""What zero-shot scoring asks: prompts of labels, from a YAML file that clinicians may edit."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import InputError

PROMPTS = Path(__file__).with_name("prompts.yaml")
OF_THE_TABLE = ("study", "image", "file", "reason", "detail", "notice")
"""Columns that no label may be called."""


@dataclass(frozen=True)
class Prompts:
    """What is asked about a label; without negative prompts there is a score and no probability."""

    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


def read_prompts(path: Path) -> list[Prompts]:
    """Prompts of labels of any name, from a YAML file such as `PROMPTS`.

    `Label: {positive: [...], negative: [...]}` gives a probability; `Label: [...]`, `Label: text`, or positive prompts
    alone, a plain score. A text may stand for a list of one.

    Raises:
        InputError: it is not such a file; the sentence names the label.
    """
    content = _yaml(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no labels; write `Label: {{positive: [...], negative: [...]}}`")
    found = [_prompts(path, label, given) for label, given in content.items()]
    if (label := _repeated(one.label for one in found)) is not None:
        raise InputError(f"{path}: {label}: the label stands twice; put all its prompts under one")
    return found


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key stands twice", problem_mark=node.start_mark)
        return mapping


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise InputError(f"{path}: not readable as YAML{line}: {error.problem}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file of prompts ({type(error).__name__})") from None


def _prompts(path: Path, label: Any, given: Any) -> Prompts:
    if not isinstance(label, str) or not label.strip():
        raise InputError(f"{path}: the label {label!r} is no text; put it in quotation marks")
    label = label.strip()
    if label in OF_THE_TABLE:
        raise InputError(f"{path}: {label}: a column of the table is called so; give the label another name")
    sides = given if isinstance(given, dict) else {"positive": given}
    if unknown := [key for key in sides if key not in ("positive", "negative")]:
        raise InputError(f"{path}: {label}: the key {unknown[0]!r} is unknown; write positive and negative")
    positive, negative = (_texts(f"{path}: {label}: {side}", sides.get(side, [])) for side in ("positive", "negative"))
    if not positive:
        raise InputError(f"{path}: {label}: has no positive prompt; write what a report says where it is present")
    if "negative" in sides and not negative:
        raise InputError(f"{path}: {label}: negative: is empty; write prompts, or take the key out")
    if (text := _repeated(text.casefold() for text in (*positive, *negative))) is not None:
        raise InputError(f"{path}: {label}: the prompt {text!r} stands twice; take one of them out")
    return Prompts(label, positive, negative)


def _texts(where: str, given: Any) -> tuple[str, ...]:
    texts = given if isinstance(given, list) else [given]
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise InputError(f"{where}: prompt {number} is no text; put it in quotation marks")
        if not any(map(str.isalpha, text)):
            raise InputError(f"{where}: prompt {number} has no letters; write a sentence")
    return tuple(" ".join(text.split()) for text in texts)


def _repeated(texts: Iterable[str]) -> str | None:
    return next((text for text, count in Counter(texts).items() if count > 1), None)
