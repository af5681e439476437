"""A folder of images without a datalist, as the datalist that it would have: inference on other people's pictures.

All files in depth that end as an image, in the order of their paths, but for hidden ones. Of patients and views nothing
is known, and of black and white what the files' own types say (`images.OWN_SCALE`).
"""

from pathlib import Path
from typing import Any

from local_mi.images import OWN_SCALE, is_image

FOLDER_SPLIT = "test"


def folder_content(datalist: str) -> dict[str, Any] | None:
    """What stands for the datalist of a folder that has images and no datalist; None of any other.

    Args:
        datalist: where the datalist would lie.
    """
    folder = Path(datalist).parent
    if Path(datalist).exists() or not folder.is_dir():
        return None
    files = (path for path in folder.rglob("*") if is_image(path) and path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    items = [
        {"image": name, "study": name, "patient": name, "view": "UNKNOWN"} for name in names if not _is_hidden(name)
    ]
    return {"preprocessing": {"range": list(OWN_SCALE)}, FOLDER_SPLIT: items} if items else None


def _is_hidden(name: str) -> bool:
    """Whether a path has a part that begins with a point, as the twins have that macOS makes of files."""
    return any(part.startswith(".") for part in name.split("/"))
