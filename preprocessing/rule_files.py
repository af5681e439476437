"""A file of labeling rules, checked: `rules/observations.yaml` or a hospital's own; `lexicon` makes phrases of it."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from preprocessing.errors import InputError

RULES = Path(__file__).parent / "rules" / "observations.yaml"
SEVERITY = "Edema Severity"
"""Name under which grades of edema are reported; their values are 0 to 3."""

NO_FINDING = "No Finding"

Phrases = list[str]
Grade = Annotated[int, Field(ge=1, le=3)]
Value = Annotated[int, Field(ge=-1, le=3)]
Cue = Literal[
    "negation",
    "negation_after",
    "uncertainty",
    "uncertainty_after",
    "not_excluded",
    "no_cue",
    "no_statement",
    "clause_end",
]
WordClass = Literal[
    "there_is", "verbs", "perceived", "determiners", "joined_by", "alternatives", "qualifiers", "prepositions",
    "accompanying", "aside",
]  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Structure(_Part):
    """Words for an anatomical structure, and what each of its states says of observations."""

    words: Phrases = []
    states: dict[str, dict[str, Value]] = {}


class Statement(_Part):
    """Phrases that decide values by themselves."""

    phrases: Phrases
    says: dict[str, Value]


class EdemaSeverity(_Part):
    """Phrases that are a grade of edema, and words that give one to an edema that is named."""

    phrases: dict[Grade, Phrases] = {}
    words: dict[Grade, Phrases] = {}


class RuleFile(_Part):
    """The parts of a file of rules; what they mean, the comments of `rules/observations.yaml` say."""

    version: str
    sections: list[str] = []
    otherwise: list[str] = []
    observations: dict[str, Phrases] = {}
    implies: dict[str, list[str]] = {}
    not_pathology: list[str] = []
    structures: dict[str, Structure] = {}
    states: dict[str, Phrases] = {}
    statements: list[Statement] = []
    other_findings: Phrases = []
    other_meanings: Phrases = []
    edema_severity: EdemaSeverity = EdemaSeverity()
    cues: dict[Cue, Phrases] = {}
    grammar: dict[WordClass, Phrases] = {}
    spelling: list[str] = []

    def named(self) -> dict[str, set[str]]:
        """Names of observations that the file takes for known, by where it does."""
        states = [values for structure in self.structures.values() for values in structure.states.values()]
        return {
            "implies": {name for one, others in self.implies.items() for name in (one, *others)},
            "not_pathology": set(self.not_pathology),
            "structures": {name for values in states for name in values} - {SEVERITY},
            "statements": {name for statement in self.statements for name in statement.says},
        }


def read_rule_file(path: Path) -> RuleFile:
    """Read a file of rules; its version gets a digest of the content, so that no change of it goes unnoticed.

    Raises:
        InputError: when it cannot be read or is not built as `RULES` is; the message names file and place.
    """
    try:
        content = path.read_bytes()
        # Without YAML's types: "no" and "on" are words here, not truth values.
        parsed = yaml.load(content.decode("utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file of rules ({type(error).__name__})") from error
    try:
        file = RuleFile.model_validate(parsed)
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join(map(str, first["loc"])) or "the whole"
        raise InputError(f"{path}: {place}: {first['msg']}; see {RULES}") from None
    if NO_FINDING in file.observations:
        raise InputError(f"{path}: observations: {NO_FINDING!r} follows from the others; take it out")
    return file.model_copy(update={"version": f"{file.version} ({hashlib.sha256(content).hexdigest()[:8]})"})
