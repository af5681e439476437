"""What every output of a model says of itself."""

NOTICE = "Research only, not for clinical use"
