"""The two ways in which input can be wrong: the user's request as a whole, or one file of many."""


class InputError(ValueError):
    """The request cannot be carried out: one sentence that names the path or key and says what to do.

    The command line prints it to stderr and exits with code 2.
    """


class UnusableFile(ValueError):  # noqa: N818 -- an outcome of ingestion, not a failure of the program
    """One file that cannot be used; the batch goes on and the file becomes a row of the rejects table.

    Args:
        reason: short code in snake_case, for instance `not_dicom`; one of a closed set, so that counts can be made.
        detail: one sentence for people. Never holds an identifier, a path or text of a report.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
