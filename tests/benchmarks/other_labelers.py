"""Times pySBD and medspaCy on texts from stdin (a JSON list); run by `bench_reports.py` with another interpreter.

medspaCy is given phrases for the same observations, about as many as the CheXpert labeler has, and its own sentences
and ConText rules. The last line of stdout is JSON with reports a second of processor time and the peak memory.
"""

import json
import resource
import sys
import time

import medspacy
import pysbd
from loguru import logger
from medspacy.ner import TargetRule

PHRASES = {
    "Atelectasis": ["atelectasis", "atelectatic", "collapse"],
    "Cardiomegaly": ["cardiomegaly", "enlarged heart", "heart size", "cardiac silhouette", "cardiac enlargement"],
    "Consolidation": ["consolidation", "consolidative"],
    "Edema": ["edema", "heart failure", "vascular congestion"],
    "Fracture": ["fracture", "fractures"],
    "Lung Lesion": ["mass", "nodule", "nodules", "nodular opacity", "lesion", "granuloma"],
    "Lung Opacity": ["opacity", "opacities", "airspace disease", "infiltrate", "infiltrates"],
    "Pleural Effusion": ["effusion", "effusions", "pleural fluid"],
    "Pneumonia": ["pneumonia", "infection"],
    "Pneumothorax": ["pneumothorax", "pneumothoraces"],
    "Support Devices": ["catheter", "tube", "line", "pacemaker", "picc", "clips", "hardware"],
}


def rate(texts: list[str], run: object) -> float:
    begin = time.process_time()
    for text in texts:
        run(text)
    return len(texts) / (time.process_time() - begin)


def main() -> None:
    logger.remove()  # its debug lines would be most of the time
    texts = json.load(sys.stdin)
    nlp = medspacy.load(medspacy_enable=["medspacy_pyrush", "medspacy_target_matcher", "medspacy_context"])
    matcher = nlp.get_pipe("medspacy_target_matcher")
    matcher.add([TargetRule(phrase, name) for name, phrases in PHRASES.items() for phrase in phrases])
    splitter = pysbd.Segmenter(language="en", clean=False)
    nlp(texts[0])
    rates = {
        "sentences, pySBD": rate(texts, splitter.segment),
        "sentences and mentions with negation and uncertainty, medspaCy": rate(texts, nlp),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
