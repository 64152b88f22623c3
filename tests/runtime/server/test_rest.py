"""The REST interface as a caller meets it: a study goes in, a mask comes out; what is too much or unsafe is refused."""

import io
import json
import socket
import stat
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_phantom import ramp, write_series

pytest.importorskip("fastapi", reason="the server needs the extra serve")

import requests
from serving import COMPANION, ended, files_of, get, options_for, post, served, wait_for, write_scan
from tiny_bundle import write_bundle

from medssl.imaging.readers.archive import unpack
from medssl.imaging.series import SeriesRule
from medssl.runtime.server.folders import results_of, suffix_of
from medssl.runtime.server.options import QueueOptions


def _zip(entries: dict[str, bytes], *, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def _series(folder: Path, **attributes: Any) -> Path:
    return write_series(folder, (ramp(4) % 30).astype(np.int16), **COMPANION, **attributes)


def _fetch(service: Any, job: dict[str, Any], name: str) -> bytes:
    answer = get(service, f"/api/jobs/{job['id']}/results/{name}")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return answer.content


def test_a_nifti_upload_becomes_a_mask_that_thresholds_the_image(service: Any, tmp_path: Path):
    scan = write_scan(tmp_path / "Doe^Jane.nii.gz")
    job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
    assert (job["state"], job["source"], job["progress"]) == ("done", "rest", 1.0)
    listed = {item["name"]: item["bytes"] for item in get(service, f"/api/jobs/{job['id']}/results").json()}
    assert set(listed) == {"image.nii.gz", "overlay.png", "report.json", "seg.nii.gz"}
    (tmp_path / "seg.nii.gz").write_bytes(_fetch(service, job, "seg.nii.gz"))
    (tmp_path / "image.nii.gz").write_bytes(_fetch(service, job, "image.nii.gz"))
    voxels = nib.load(scan).get_fdata()
    mask, image = nib.load(tmp_path / "seg.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(mask.get_fdata(), (voxels > 10).astype(int) + (voxels > 20))
    np.testing.assert_allclose(image.get_fdata(), voxels, rtol=1e-6)
    np.testing.assert_allclose(mask.affine, nib.load(scan).affine)
    report = json.loads(_fetch(service, job, "report.json"))
    assert report["bundle_sha256"] == get(service, "/api/models").json()[0]["bundle_sha256"]
    assert "Doe" not in json.dumps([job, report])


def test_the_audit_log_says_by_their_hashes_which_bundle_made_which_results(service: Any, tiny: Path, tmp_path: Path):
    scan = write_scan(tmp_path / "a.nii.gz")
    job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
    bad = ended(service, post(service, [(scan.name, scan.read_bytes()[:100])]))
    hashes = {item["name"]: sha256(_fetch(service, job, item["name"])).hexdigest()
              for item in get(service, f"/api/jobs/{job['id']}/results").json()}  # fmt: skip
    bundle = sha256((tiny / "SHA256SUMS").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in service.desk.audit.path.read_text().splitlines()]
    told = {(line["action"], line.get("job")): line for line in lines if line["action"] != "fetch"}
    assert told["start", None]["bundles"] == {"tiny": bundle}
    assert told["accept", job["id"]]["bundle_sha256"] == bundle
    done, failed = told["done", job["id"]], told["fail", bad["id"]]
    assert (done["model"], done["bundle_sha256"], done["results"]) == ("tiny", bundle, hashes)
    assert (failed["bundle_sha256"], failed["reason"], failed["results"]) == (bundle, bad["reason"], {})
    fetched = {line["result"]: line["sha256"] for line in lines if line.get("job") == job["id"] and "result" in line}
    assert fetched == hashes


@pytest.mark.parametrize("form", ["files", "zip"])
def test_a_dicom_study_becomes_a_segmentation_that_refers_to_it(service: Any, tmp_path: Path, form: str):
    files = files_of(_series(tmp_path / "series"))
    given = files if form == "files" else [("study.zip", _zip({f"DICOM/{name}": data for name, data in files}))]
    job = ended(service, post(service, given))
    assert job["state"] == "done", job
    assert job["study"] == service.desk.secret.name("1.2.3")
    segmentation = pydicom.dcmread(io.BytesIO(_fetch(service, job, "seg.dcm")))
    assert segmentation.StudyInstanceUID == "1.2.3"
    sources = {pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for _, data in files}
    referred = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referred} == sources


@pytest.mark.parametrize("name", ["Doe^Jane/Jane Doe.nii.gz", "a;b.nii.gz", "a;../../../etc/x.nii.gz"])
def test_names_in_a_zip_file_become_numbers(service: Any, tmp_path: Path, name: str):
    scan = write_scan(tmp_path / "a.nii.gz").read_bytes()
    job = ended(service, post(service, [("study.zip", _zip({name: scan}))]))
    assert job["state"] == ("failed" if ".." in name else "done"), job
    assert not any(word in json.dumps(job) for word in ("Doe", ";", "etc"))


@pytest.mark.parametrize("damage", ["truncated", "crc"])
def test_the_name_of_a_damaged_file_in_a_zip_file_is_not_told(service: Any, tmp_path: Path, damage: str):
    scan = write_scan(tmp_path / "a.nii.gz").read_bytes()
    if damage == "truncated":
        given = _zip({"Doe^Jane.nii.gz": scan[:200]})
    else:
        whole = bytearray(_zip({"Doe^Jane.nii.gz": scan}))
        whole[200] ^= 255
        given = bytes(whole)
    job = ended(service, post(service, [("study.zip", given)]))
    assert job["state"] == "failed"
    assert "Doe" not in json.dumps(job)
    assert "000001.nii.gz" in job["message"]


def test_channels_in_a_zip_file_keep_the_order_of_their_names(tmp_path: Path):
    entries = {f"p/{letter}.nii.gz": letter.encode() for letter in "cab"}
    (tmp_path / "a.zip").write_bytes(_zip(entries))
    unpack(tmp_path / "a.zip", tmp_path / "out", suffix_of=suffix_of)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {"000001.nii.gz": b"a", "000002.nii.gz": b"b", "000003.nii.gz": b"c"}


def test_an_upload_of_many_fields_is_refused(service: Any, tmp_path: Path):
    scan = write_scan(tmp_path / "a.nii.gz").read_bytes()
    url, files = f"{service.url}/api/jobs", [("files", ("a.nii.gz", scan))]
    fields = {f"field{k}": "x" for k in range(15)} | {"model": "tiny"}
    assert requests.post(url, files=files, data=fields, timeout=60).status_code == 202
    answer = requests.post(url, files=files, data={**fields, "more": "x"}, timeout=60)
    assert (answer.status_code, answer.json()["reason"]) == (400, "bad-upload")


def test_the_same_study_twice_gives_the_same_object(service: Any, tmp_path: Path):
    files = files_of(_series(tmp_path / "series"))
    first, second = (_fetch(service, ended(service, post(service, given)), "seg.dcm") for given in (files, files[::-1]))
    uids = [pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for data in (first, second)]
    assert uids[0] == uids[1]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("a.nii.gz", b"")], "empty-file"),
        ([("a.nii.gz", b"no image")], "truncated"),
        ([("a.dcm", b"no image")], "not-an-image"),
        ([("../../etc/cron.d/x", b"no image")], "not-an-image"),
        ([("a.zip", b"PK\x03\x04 no zip")], "bad-zip"),
        ([("a.zip", _zip({"../../out.dcm": b"x"}))], "zip-unsafe"),
        ([("a.zip", _zip({"/etc/out.dcm": b"x"}))], "zip-unsafe"),
        ([("a.zip", _zip({"a.dcm": b"x"}, link="b.dcm"))], "zip-unsafe"),
        ([("a.zip", _zip({"a.dcm": bytes(9 * 2**20)}))], "zip-limit"),
        ([("a.zip", _zip({f"{k}.dcm": b"x" for k in range(41)}))], "zip-limit"),
        ([("a.zip", _zip({"b.zip": _zip({"a.dcm": b"x"})}))], "nested-zip"),
        ([("a.zip", _zip({"a.dcm": b"x"})), ("b.zip", _zip({"a.dcm": b"x"}))], "nested-zip"),
        ([("a.dcm", b"x"), ("b.nii", b"x")], "mixed-upload"),
    ],
)
def test_bad_files_are_failed_jobs_with_a_reason_and_leave_nothing_outside(
    service: Any, files: list[tuple[str, bytes]], reason: str
):
    job = ended(service, post(service, files))
    assert (job["state"], job["reason"]) == ("failed", reason)
    assert str(service.options.data) not in job["message"]
    folder = service.options.data / "jobs" / job["id"]
    assert {path.name for path in folder.iterdir()} == {"input", "job.json"}
    assert all(path.name[:6].isdecimal() for path in (folder / "input").iterdir())


def test_headers_that_promise_too_much_are_refused_before_pixels_are_read(service: Any, tmp_path: Path):
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    header.set_sform(np.eye(4), code="scanner")
    nib.save(header, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[42:48] = np.array([2000, 2000, 2000], np.int16).tobytes()
    job = ended(service, post(service, [("a.nii", bytes(raw))]))
    assert (job["state"], job["reason"]) == ("failed", "too-large")
    many = write_series(tmp_path / "many", np.zeros((31, 2, 2), np.int16), **COMPANION)
    job = ended(service, post(service, files_of(many)))
    assert (job["state"], job["reason"]) == ("failed", "too-many-frames")


def test_rules_of_a_bundle_pick_the_series_of_a_study(tmp_path: Path):
    rules = (SeriesRule(words=("head",)), SeriesRule(words=("neck",)))
    bundle = write_bundle(tmp_path / "bundle", channels=("head", "neck"), series=rules)
    given = []
    for number, words in enumerate(("Neck", "Head", "Scout of all")):
        folder = _series(tmp_path / words, series=f"1.2.3.77.{number}", SeriesDescription=words)
        given += [(f"{number}{name}", data) for name, data in files_of(folder)]
    with served(options_for(bundle, tmp_path / "data")) as service:
        done = ended(service, post(service, given))
        assert done["state"] == "done", done
        report = json.loads(_fetch(service, done, "report.json"))
        assert [series["description"] for series in report["image"]["series"]] == ["Head", "Neck"]
        lacking = ended(service, post(service, given[:4]))
        assert (lacking["state"], lacking["reason"]) == ("failed", "channel-missing")
        assert "Neck" not in lacking["message"]


def test_messages_name_neither_patients_series_nor_folders(service: Any, tmp_path: Path):
    one = _series(tmp_path / "a", series="1.2.3.77.1", SeriesDescription="Jane Doe head")
    two = _series(tmp_path / "b", series="1.2.3.77.2", SeriesDescription="Jane Doe neck")
    given = [(f"{folder.name}{name}", data) for folder in (one, two) for name, data in files_of(folder)]
    job = ended(service, post(service, given))
    assert job["reason"] == "several-series"
    assert all(part not in job["message"] for part in ("Doe", "1.2.3", str(service.options.data)))


@pytest.mark.parametrize(
    ("files", "model", "status", "reason"),
    [
        ([], "tiny", 400, "bad-upload"),
        ([("a.nii", b"x")], "other", 404, "no-model"),
        ([(f"{k}.dcm", b"x") for k in range(41)], "tiny", 413, "too-many-files"),
        ([("a.nii", bytes(2**20))], "tiny", 413, "too-large"),
    ],
)
def test_uploads_beyond_the_caps_are_refused_and_nothing_is_kept(
    service: Any, files: list[tuple[str, bytes]], model: str, status: int, reason: str
):
    answer = post(service, files, model=model)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert list((service.options.data / "servers/alone/incoming").iterdir()) == []


def test_an_upload_without_a_length_is_stopped_at_the_cap(service: Any):
    host, port = service.url.removeprefix("http://").split(":")
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(
            f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            for block in (head, *[bytes(2**16)] * 40):
                line.sendall(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hangs up as soon as it has answered
        assert b" 413 " in line.recv(4096).split(b"\r\n")[0]
    assert list((service.options.data / "servers/alone/incoming").iterdir()) == []


def test_an_upload_that_breaks_off_is_not_accepted(service: Any):
    host, port = service.url.removeprefix("http://").split(":")
    before = len(get(service, "/api/jobs").json())
    with socket.create_connection((host, int(port)), timeout=30) as line:
        body = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\nabc'
        line.sendall(
            f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            f"Content-Length: {len(body) + 100}\r\n\r\n".encode()
            + body
        )
        wait_for(lambda: list((service.options.data / "servers/alone/incoming").iterdir()))
    wait_for(lambda: not list((service.options.data / "servers/alone/incoming").iterdir()))
    assert len(get(service, "/api/jobs").json()) == before


def test_models_their_cards_and_the_description_of_the_interface(service: Any):
    (model,) = get(service, "/api/models").json()
    assert (model["name"], model["task"], model["channels"]) == ("tiny", "segmentation", ["CT"])
    assert [(label["value"], label["name"]) for label in model["labels"]] == [(1, "low"), (2, "high")]
    assert get(service, "/api/models/tiny/card").text == "# tiny\n"
    service.desk.bundles["Hippocampus L/R"] = service.desk.bundles["tiny"]
    assert get(service, "/api/models/Hippocampus%20L%2FR/card").text == "# tiny\n"
    del service.desk.bundles["Hippocampus L/R"]
    paths = get(service, "/openapi.json").json()["paths"]
    assert {"/api/jobs", "/api/jobs/{job_id}/results/{name}", "/api/dicomweb/pull", "/health", "/metrics"} <= set(paths)
    assert get(service, "/docs").status_code == 404  # its page would load scripts from elsewhere


def test_jobs_are_listed_by_state_and_removed_with_their_data(service: Any, tmp_path: Path):
    scan = write_scan(tmp_path / "a.nii.gz")
    job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
    newest = get(service, "/api/jobs?limit=1&state=done").json()
    assert [item["id"] for item in newest] == [job["id"]]
    assert all(item["state"] == "failed" for item in get(service, "/api/jobs?state=failed").json())
    assert requests.delete(f"{service.url}/api/jobs/{job['id']}", timeout=30).status_code == 204
    assert get(service, f"/api/jobs/{job['id']}").status_code == 404
    assert not (service.options.data / "jobs" / job["id"]).exists()


@pytest.mark.parametrize("name", ["..%2f..%2fjob.json", "%2e%2e/job.json", "job.json", "input", "%00"])
def test_results_are_what_the_job_made_and_nothing_else(service: Any, tmp_path: Path, name: str):
    scan = write_scan(tmp_path / "a.nii.gz")
    job = ended(service, post(service, [(scan.name, scan.read_bytes())]))
    assert get(service, f"/api/jobs/{job['id']}/results/{name}").status_code == 404
    assert get(service, f"/api/jobs/..%2f..%2f{job['id']}/results").status_code == 404


def test_a_link_among_results_is_not_followed(tmp_path: Path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "seg.nii.gz").write_bytes(b"x")
    (tmp_path / "results" / "link").symlink_to("/etc/passwd")
    assert set(results_of(tmp_path)) == {"seg.nii.gz"}


@pytest.mark.parametrize("state", ["foo", "failed,Done", "failed;done"])
def test_a_state_that_there_is_not_is_refused_and_those_there_are_are_named(service: Any, state: str):
    answer = get(service, f"/api/jobs?state={state}")
    assert (answer.status_code, answer.json()["reason"]) == (422, "bad-request")
    assert "queued, running, done, failed" in answer.json()["message"]
    assert state not in answer.json()["message"]
    for known in ("", "failed", "queued,running", "done, failed"):
        assert get(service, f"/api/jobs?state={known}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "reason", "told"),
    [
        ("GET", "/api/jobs?limit=-1", "", 422, "bad-request", "limit must be 1 or more"),
        ("GET", "/api/jobs?limit=1001", "", 422, "bad-request", "limit must be 1000 or less"),
        ("GET", "/api/jobs?limit=Doe", "", 422, "bad-request", "limit must be a whole number"),
        ("POST", "/api/dicomweb/pull", '{"model": "Doe"}', 422, "bad-request", "study_uid is missing"),
        ("POST", "/api/dicomweb/pull", '{"study_uid": 7, "Doe": 1}', 422, "bad-request", "study_uid must be text"),
        ("POST", "/api/dicomweb/pull", '{"Doe', 422, "bad-request", "the body is no JSON"),
        ("POST", "/api/dicomweb/pull", '["Doe"]', 422, "bad-request", "the body is not of the form that /openapi.json"),
        ("POST", "/api/dicomweb/pull", "", 422, "bad-request", "the body is missing"),
        ("GET", "/api/Doe", "", 404, "not-found", "Not Found"),
        ("PUT", "/api/jobs", "", 405, "method-not-allowed", "Method Not Allowed"),
    ],
)
def test_mistakes_of_a_caller_are_told_as_other_refusals_without_what_was_sent(
    service: Any, method: str, path: str, content: str, status: int, reason: str, told: str
):
    headers = {"content-type": "application/json"} if content else {}
    answer = requests.request(method, f"{service.url}{path}", data=content, headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert set(answer.json()) == {"reason", "message"}
    assert answer.json()["message"].startswith(told)
    assert "Doe" not in answer.text
    assert f'medssl_refused_total{{reason="{reason}"}}' in get(service, "/metrics").text


def test_the_description_of_the_interface_says_how_refusals_look(service: Any):
    described = get(service, "/openapi.json").json()
    answers = described["paths"]["/api/jobs"]["get"]["responses"]
    assert set(answers) == {"200", "4XX"}
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_who_sends_a_study_with_a_missing_slice_is_told_who_can_have_it_resampled(service: Any, tmp_path: Path):
    places = [(0, 0, 2.5 * k) for k in (0, 1, 3, 4)]
    job = ended(service, post(service, files_of(_series(tmp_path / "series", positions=places))))
    assert job["reason"] == "missing-slice"
    assert "get the whole series, or have whoever runs this server allow" in job["message"]
    assert "results.resample_irregular" in job["message"]
    assert "opt in" not in job["message"]


@pytest.mark.parametrize("folders", [(), ("DICOM/",)])
def test_an_empty_zip_file_is_said_to_be_empty(service: Any, folders: tuple[str, ...]):
    job = ended(service, post(service, [("study.zip", _zip(dict.fromkeys(folders, b"")))]))
    assert (job["reason"], job["message"]) == ("empty-file", "the zip file is empty: there is no file in it")


def test_metrics_and_health(service: Any):
    assert get(service, "/health").json()["status"] == "ok"
    assert get(service, "/ready").json() == {"status": "ready"}
    text = get(service, "/metrics").text
    assert 'medssl_jobs{state="done"}' in text
    assert 'medssl_jobs_accepted_total{source="rest"}' in text


def test_answers_tell_browsers_to_trust_this_server_alone(service: Any):
    headers = get(service, "/api/jobs").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_a_full_queue_refuses_uploads_and_is_not_ready(tiny: Path, tmp_path: Path):
    options = options_for(tiny, tmp_path / "data", queue=QueueOptions(threads=1, waiting=1))
    with served(options) as service:
        service.desk.underway = 1  # a study is coming in
        scan = write_scan(tmp_path / "a.nii.gz")
        answer = post(service, [(scan.name, scan.read_bytes())])
        assert (answer.status_code, answer.json()["reason"]) == (429, "queue-full")
        assert int(answer.headers["retry-after"]) > 0
        assert get(service, "/ready").status_code == 503
        assert get(service, "/health").status_code == 200
        service.desk.underway = 0
        assert ended(service, post(service, [(scan.name, scan.read_bytes())]))["state"] == "done"


def test_a_pull_without_an_archive_is_refused(service: Any):
    answer = requests.post(f"{service.url}/api/dicomweb/pull", json={"study_uid": "1.2.3"}, timeout=30)
    assert (answer.status_code, answer.json()["reason"]) == (409, "no-archive")
