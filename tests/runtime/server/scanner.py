"""A scanner that sends studies by C-STORE, and what the server made of them."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_phantom import ramp, write_series
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage, Verification
from serving import COMPANION, get, wait_for


def images(folder: Path, slices: int = 4, **attributes: Any) -> list[pydicom.Dataset]:
    """A series of CT slices."""
    series = write_series(folder, (ramp(slices) % 30).astype(np.int16), **COMPANION, **attributes)
    return [pydicom.dcmread(path) for path in sorted(series.iterdir())]


def associate(
    service: Any, called: str = "MEDSSL", calling: str = "SCANNER", syntax: str = "1.2.840.10008.1.2.1"
) -> Association:
    entity = ApplicationEntity(calling)
    entity.acse_timeout = entity.dimse_timeout = 20
    entity.add_requested_context(CTImageStorage, syntax)
    entity.add_requested_context(Verification)
    return entity.associate("127.0.0.1", service.dicom.port, ae_title=called)


def store(association: Association, datasets: Sequence[pydicom.Dataset]) -> list[int]:
    """Status of each object."""
    assert association.is_established
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the phantom's values
        return [int(association.send_c_store(dataset).Status) for dataset in datasets]


def send(service: Any, datasets: Sequence[pydicom.Dataset], calling: str = "SCANNER") -> list[int]:
    """Send objects in an association that is released."""
    association = associate(service, calling=calling)
    status = store(association, datasets)
    association.release()
    return status


def jobs_of(service: Any, study: str) -> list[dict[str, Any]]:
    name = service.desk.secret.name(study)
    return [job for job in get(service, "/api/jobs?limit=1000").json() if job["study"] == name]


def ended_study(service: Any, study: str, number: int = 1) -> dict[str, Any]:
    """The newest of so many jobs of a study, once it is done or failed."""

    def newest() -> Any:
        jobs = jobs_of(service, study)
        return len(jobs) == number and jobs[0]["state"] in ("done", "failed") and jobs[0]

    return wait_for(newest)
