"""The distribution detector, for as long as the directory does not have it."""

from detectors import distribution
from detectors.directory import DETECTORS, Detector
from shared.contract import Observation, TrainRequest
from shared.contract_distribution import DistributionRequest

DETECTORS.setdefault("distribution", Detector(
    DistributionRequest, Observation, TrainRequest, {}, distribution.detect, distribution.observation, distribution.observe,
    None, None, lambda request: distribution.model_name(request.table_id)))  # type: ignore[arg-type]
