"""Takes out of exported files what converters leave there of the machine: the paths of the source files they traced.

They would tell names of users and folders to everybody who gets the weights.
"""

import importlib
import zipfile
from pathlib import Path

from torch.export import ExportedProgram


def strip_program(program: ExportedProgram) -> None:
    """Of a program of `torch.export`, in place: the stack trace of every node."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            node.meta.pop("stack_trace", None)


def strip_onnx(path: Path) -> None:
    """Of an ONNX file, which is written anew: all that the converter noted beside its nodes."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(path)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    onnx.save(model, path)


def strip_torchscript(path: Path) -> None:
    """Of a TorchScript file, which is written anew: where its lines of code come from, used in tracebacks alone."""
    stripped = path.with_name(f".{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stripped, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(entry, old.read(entry))
    stripped.replace(path)
