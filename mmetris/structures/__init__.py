"""What travels between pipeline, encoders, Bridger, heads, metric and visualizer."""

from .bridged_features import BridgedFeatures
from .ref_data_sample import RefDataSample
from .tensor_tree import TreeForm, map_tensors, tensors_of
from .vocabulary import Vocabulary

__all__ = ['BridgedFeatures', 'RefDataSample', 'TreeForm', 'Vocabulary', 'map_tensors', 'tensors_of']
