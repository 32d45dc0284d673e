"""Methods that make distilled sets."""

from rsdistill.distillers import coreset as _subset  # noqa: F401 - registers the methods
from rsdistill.distillers import dpd as _dpd  # noqa: F401 - registers the method
from rsdistill.distillers.base import DISTILLERS, Distiller, FitStep, Requirements, create_distiller, list_distillers

__all__ = ["DISTILLERS", "Distiller", "FitStep", "Requirements", "create_distiller", "list_distillers"]
