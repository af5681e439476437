"""Whether a store's images are what a network was trained on: asked before any is predicted or scored."""

from pathlib import Path

from local_mi.datalist import preprocessing_of, stored_range

from preprocessing.errors import InputError

FULL_SCALE = ((0, 255), (0, 65535))


def check_prepared(datalist: Path, preset: str | None) -> None:
    """Refuse a store of another preset than that of the weights, or whose values do not fill 8 or 16 bits.

    Args:
        datalist: of the store.
        preset: of the images that the weights were trained on; None where they do not say.

    Raises:
        InputError: it is such a store.
        ConfigurationError: the datalist is none.
    """
    found = preprocessing_of(str(datalist)).get("preset")
    if found != preset:
        raise InputError(
            f"{datalist.parent} holds images of preset {found}, and the network was trained on preset {preset}; take "
            "the original files, or ingest them with that preset"
        )
    if tuple(stored_range(str(datalist))) not in FULL_SCALE:
        raise InputError(f"{datalist}: its images do not use the full range of 8 or 16 bits; take the original files")
