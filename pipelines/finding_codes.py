"""Codes of what the classifier labels, for the DICOM objects of `dicom_results`.

SNOMED CT and DICOM's own where one means what the label means on a radiograph; else codes of this project's own scheme.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.derived_objects import long_string, one_line

PRIVATE_SCHEME = "99CXRLMI"
FINDING_CODES: Mapping[str, Code] = MappingProxyType(
    {
        "atelectasis": Code("46621007", "SCT", "Atelectasis"),
        "cardiomegaly": Code("8186001", "SCT", "Cardiomegaly"),
        "consolidation": Code("95436008", "SCT", "Lung consolidation"),
        "edema": codes.SCT.PulmonaryEdema,
        "fracture": Code("125605004", "SCT", "Fracture of bone"),
        "lung opacity": codes.DCM.Opacity,  # of the lung, by its definition, which is the Fleischner Society's
        "pleural effusion": codes.SCT.PleuralEffusion,
        "pneumonia": Code("233604007", "SCT", "Pneumonia"),
        "pneumothorax": codes.SCT.Pneumothorax,
    }
)
"""Codes of labels that mean the same on every radiograph. The others are what a labeller says they are."""


def finding_code(name: str) -> CodedConcept:
    """The code of a label: `FINDING_CODES`, else a private one from its name.

    Two names have one private code only if they differ in nothing but case and space. The meaning of a long one is cut
    short.
    """
    label = one_line(name).casefold()
    known = FINDING_CODES.get(label)
    if known is not None:
        return CodedConcept.from_code(known)
    value = hashlib.sha256(label.encode()).hexdigest()[:16].upper()  # SH holds no more
    return CodedConcept(value, PRIVATE_SCHEME, long_string(name))
