"""Which Azure ML workspace the models are shown in, if any: read from the environment, with nothing of Azure ML loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from shared.settings import InvalidSetting

_NEEDED: Final = {"subscription_id": "AZURE_SUBSCRIPTION_ID", "resource_group": "AZURE_RESOURCE_GROUP",
                  "name": "AZUREML_WORKSPACE_NAME"}
_DEFAULTED: Final = {"datastore": "AZUREML_DATASTORE", "compute": "AZUREML_COMPUTE", "gpu_compute": "AZUREML_GPU_COMPUTE",
                     "environment": "AZUREML_ENVIRONMENT", "instance_type": "AZUREML_INSTANCE_TYPE"}
_DATASTORE: Final = re.compile(r"[a-z0-9_]{1,255}")


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace and what is used in it. Empty: `compute` serverless machines, `environment` the one that `setup` made."""

    subscription_id: str
    resource_group: str
    name: str
    datastore: str = "claritydq_models"
    compute: str = ""
    gpu_compute: str = ""
    environment: str = ""
    instance_type: str = "Standard_DS3_v2"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """None where AZUREML_WORKSPACE_NAME is not set. Raises InvalidSetting where it is, and what goes with it is not."""
        values = {field: environ.get(name, "").strip() for field, name in {**_NEEDED, **_DEFAULTED}.items()}
        if not values["name"]:
            return None
        if missing := [name for field, name in _NEEDED.items() if not values[field]]:
            raise InvalidSetting(f"{_NEEDED['name']} is set and {' and '.join(missing)} is not.")
        found = cls(**{field: value for field, value in values.items() if value})
        if not _DATASTORE.fullmatch(found.datastore):
            raise InvalidSetting(f"AZUREML_DATASTORE is {found.datastore!r}; it has lower-case letters, digits and _ alone.")
        return found

    def to_environment(self) -> dict[str, str]:
        """The variables by which a job there finds this workspace."""
        return {name: str(getattr(self, field)) for field, name in {**_NEEDED, **_DEFAULTED}.items() if getattr(self, field)}


def outlook(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What will become of a registration: `pending` where there is a workspace, else `skipped` with how to switch it on."""
    try:
        found = Workspace.from_environment(environ)
    except InvalidSetting as error:
        return outcome("failed", str(error))
    if found is None:
        return outcome("skipped", "No Azure ML workspace is set, and none is needed. To see the models in one, set "
                       f"{', '.join(_NEEDED.values())}.")
    return outcome("pending", f"It will be registered in the workspace {found.name}.")


def outcome(status: str, reason: str, asset: str | None = None) -> dict[str, Any]:
    """`status` is registered, skipped or failed (pending before), `reason` in words, `id` the model's in Azure."""
    return {"status": status, "reason": reason, "id": asset}
