"""Batch jobs and the command line: chains `preprocessing` and the MONAI bundle, holds no science."""
