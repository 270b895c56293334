"""Measuring what our models cost, and the literal computation that they are compared with."""

from .measurement import Measurement, describe_machine, measure, measure_beside
from .tasks import Setting

__all__ = ['Measurement', 'Setting', 'describe_machine', 'measure', 'measure_beside']
