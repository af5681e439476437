"""Reports of the Indiana University collection as Open-i distributes them: one XML file a report.

The form: root `eCitation`; `uId@id`; `AbstractText@Label` for each section; `parentImage@id` for each image.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from preprocessing.errors import UnusableFile
from preprocessing.report_records import FORMAT_REASONS, ReportRecord, usable_keys
from preprocessing.text_files import LONGEST_REPORT, checked_text

_FHIR = "{http://hl7.org/fhir}"


def read_openi(content: bytes, origin: str) -> ReportRecord:
    """One report. Its keys are the report's id, as in "CXR100", and then those of its images.

    Sections are rendered as "FINDINGS: ..." in the order of the file; those without text are left out.

    Raises:
        UnusableFile: `malformed_xml`, `xml_entities`, `fhir_xml`, `other_xml`, `too_long`, `no_key` or `empty_report`.
    """
    root = root_of(content)
    if root.tag.startswith(_FHIR):
        raise UnusableFile("fhir_xml", "FHIR as XML is not read; export it as JSON")
    if root.tag != "eCitation":
        raise UnusableFile("other_xml", FORMAT_REASONS["other_xml"])
    images = [image.get("id", "") for image in root.iter("parentImage")]
    keys = usable_keys([*(number.get("id", "") for number in root.findall("uId")), *images])
    if not keys:
        raise UnusableFile("no_key", "names neither a report nor an image")
    text, flags = checked_text("\n\n".join(_sections(root)))
    return ReportRecord(keys, text, origin, flags)


def root_of(content: bytes) -> Element:
    """The root of a document that declares no entities; the one way in which files of the collection are parsed.

    Raises:
        UnusableFile: `malformed_xml`, `xml_entities` or `too_long`.
    """
    if len(content) > LONGEST_REPORT:
        raise UnusableFile("too_long", f"longer than {LONGEST_REPORT} bytes, so not a report")
    try:
        root: Element = fromstring(content.lstrip())  # a document type alone is harmless, and usual
    except DefusedXmlException:
        raise UnusableFile("xml_entities", FORMAT_REASONS["xml_entities"]) from None
    except (ParseError, ValueError, LookupError):  # an encoding that there is none of is a LookupError or ValueError
        raise UnusableFile("malformed_xml", FORMAT_REASONS["malformed_xml"]) from None
    return root


def _sections(root: Element) -> Iterator[str]:
    for element in root.iter("AbstractText"):
        text = " ".join("".join(element.itertext()).split())
        label = " ".join(element.get("Label", "").split())
        if text:
            yield f"{label}: {text}" if label else text
