"""What must not be possible, tried: SQL that reaches out, paths, names of other hosts, other pages, no token, bad ranges."""

import json
import os

import pytest

from pipelines.inspector.server.guard import POLICY, hosts_of, loopback
from pipelines.inspector.server.serving import address_of
from tests.pipelines.inspector import data
from tests.pipelines.inspector.conftest import serving

CLIP = data.clip_id(1, 0)
REACHING = [
    "motion_score > (SELECT count(*) FROM read_csv('/etc/passwd'))",
    "(SELECT count(*) FROM read_text('/etc/passwd')) > 0",
    "(SELECT count(*) FROM read_parquet('{root}/clips/*.parquet')) > 0",
    "(SELECT count(*) FROM '{root}/clips/*.parquet') > 0",
    "(SELECT count(*) FROM glob('/*')) > 0",
    "(SELECT count(*) FROM read_csv('http://127.0.0.1:{port}/api/start')) > 0",
    "(SELECT count(*) FROM sniff_csv('/etc/passwd')) > 0",
    "true); COPY clips TO '{root}/stolen.csv'; SELECT (true",
    "true); ATTACH '{root}/stolen.db'; SELECT (true",
    "true); INSTALL httpfs; SELECT (true",
    "true); LOAD httpfs; SELECT (true",
    "true); SET enable_external_access=true; SELECT (true",
    "true); DROP TABLE clips; SELECT (true",
    "true); EXPORT DATABASE '{root}/stolen'; SELECT (true",
    "true); UPDATE clips SET motion_score = 0; SELECT (true",
    "getenv('HOME') <> ''",
    "(SELECT count(*) FROM query('SELECT 1')) > (SELECT count(*) FROM query_table('nothing'))",
    "(SELECT count(*) FROM duckdb_secrets()) > (SELECT count(*) FROM read_blob('/etc/hostname'))",
]


def where(sql):
    return {"filters": [{"kind": "where", "sql": sql}], "page": {"show": "kept"}}


@pytest.mark.parametrize("sql", REACHING)
def test_sql_reaches_nothing(served, annotated, sql):
    before = sorted(os.listdir(annotated))
    sql = sql.format(root=annotated, port=served.port)
    found = served.post("/api/view", where(sql))
    assert found["funnel"][0]["error"] and found["clips"] == 20
    listed = served.post("/api/view", {"page": {"find": {"where": sql}}})["grid"]
    assert listed["error"] and not listed["rows"]
    assert sorted(os.listdir(annotated)) == before
    assert served.post("/api/view", where("motion_score >= 0"))["clips"] == 19  # the table is what it was


def test_sql_that_never_ends_is_stopped(served, monkeypatch):
    monkeypatch.setattr("pipelines.inspector.data.columns.QUERY_SECONDS", 0.5)
    endless = "(SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3) > motion_score"
    assert "takes longer than 0.5 s" in served.post("/api/view", where(endless))["funnel"][0]["error"]
    assert served.post("/api/view", where("true"))["clips"] == 20


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py", "/page/..%2fserver.py", "/page/%2e%2e/%2e%2e/server.py", "/page//etc/passwd",
        "/page/%2Fetc%2Fpasswd", "/../../etc/passwd", "/page/index.html%00.js", "/docs", "/openapi.json",
    ],
)  # fmt: skip
def test_no_path_reaches_the_file_system(served, path):
    assert served.ask("GET", path)[0] == 404


@pytest.mark.parametrize("clip", ["../../etc/passwd", "/etc/passwd", "nothing", "%00", CLIP + "/..", "x" * 300])
@pytest.mark.parametrize("path", ["/api/still?clip=", "/api/video?clip="])
def test_an_id_is_one_of_the_dataset(served, clip, path):
    status, _, body = served.ask("GET", path + clip.replace("%00", "%2500"))
    assert status == 404 and b"no clip" in body


@pytest.mark.parametrize("which", ["../first", "video", "image_embedding"])
def test_only_stills_are_stills(served, which):
    assert served.ask("GET", f"/api/still?clip={CLIP}&which={which}")[0] == 422


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "169.254.1.1", "evil.example:8501"])
def test_another_host_name_is_refused(served, host):
    for path in ("/", "/api/start"):
        status, _, body = served.ask("GET", path, Host=host)
        assert status == 400 and b"hours" not in body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X_Winnow": None}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": "2000000"}, 413),
        ({}, 200),
    ],
)
def test_only_the_page_itself_may_change_something(served, headers, status):
    assert served.ask("POST", "/api/view", {}, **headers)[0] == status
    assert served.ask("PUT", "/api/view", {})[0] == 405


def test_another_page_may_not_even_ask(served):
    for path in ("/api/start", f"/api/still?clip={CLIP}", "/page/app.js"):
        assert served.ask("GET", path, Sec_Fetch_Site="cross-site")[0] == 403
        assert served.ask("GET", path, Sec_Fetch_Site="same-origin")[0] == 200


def test_every_answer_carries_the_policy(served):
    for path in ("/", "/page/app.js", "/api/start", f"/api/still?clip={CLIP}", f"/api/video?clip={CLIP}", "/nothing"):
        _, headers, _ = served.ask("GET", path)
        assert headers["content-security-policy"] == POLICY and headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    page = served.ask("GET", "/")[2].decode()
    assert (
        " style=" not in page
        and "<script>" not in page
        and "onclick" not in page
        and "//" not in page.replace("/page//", "")
    )


def test_a_token_where_others_can_reach_it(annotated, tmp_path):
    with serving(annotated, tmp_path, token="secret-token") as server:
        for path in (
            "/",
            "/api/start",
            "/page/app.js",
            f"/api/still?clip={CLIP}",
            "/?token=wrong",
            "/api/start?token=secret-token",
        ):
            assert server.ask("GET", path)[0] == 401
        assert server.ask("POST", "/api/view", {})[0] == 401
        assert server.ask("GET", "/api/start", Cookie="winnow_token=wrong")[0] == 401
        status, headers, _ = server.ask("GET", "/?token=secret-token")
        assert status == 303 and headers["location"] == "/"
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert server.ask("GET", "/api/start", Cookie=cookie.split(";")[0])[0] == 200
        assert server.ask("GET", "/api/start", Cookie=cookie.split(";")[0], Host="evil.example")[0] == 400


def test_where_it_listens():
    assert all(loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"))
    assert not any(loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"))
    assert hosts_of("127.0.0.1") == {"127.0.0.1", "localhost", "::1"}
    assert {"192.168.7.7", "localhost"} <= hosts_of("192.168.7.7") and "0.0.0.0" not in hosts_of("0.0.0.0")
    assert address_of("127.0.0.1", 8501, None) == "http://127.0.0.1:8501/"
    assert address_of("192.168.7.7", 8501, "t") == "http://192.168.7.7:8501/?token=t"


def test_ranges(served):
    path = f"/api/video?clip={CLIP}"
    status, headers, whole = served.ask("GET", path)
    assert status == 200 and headers["content-type"] == "video/mp4" and whole[4:8] == b"ftyp"
    size = len(whole)
    for asked, status, part in (
        ("bytes=0-9", 206, whole[:10]),
        (f"bytes={size - 5}-", 206, whole[-5:]),
        ("bytes=-7", 206, whole[-7:]),
        (f"bytes=10-{size + 5000}", 206, whole[10:]),
    ):
        found, headers, body = served.ask("GET", path, Range=asked)
        assert (found, body) == (status, part), asked
        assert headers["content-range"].endswith(f"/{size}")
    for asked in (f"bytes={size}-", f"bytes={size + 1}-{size + 9}"):
        found, headers, body = served.ask("GET", path, Range=asked)
        assert found == 416 and headers["content-range"] == f"bytes */{size}"
    for asked in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=" + ",".join(["0-1"] * 2000)):
        assert served.ask("GET", path, Range=asked)[0] in (200, 206, 400, 416)


def test_hostile_texts_are_texts(served):
    start = served.get("/api/start")
    assert any(data.MARKUP in row["reason"] for row in start["overview"]["failures"])
    found = served.post("/api/clip", {"clip": data.clip_id(0, 0)})
    assert found["path"].endswith(data.HOSTILE_NAME)
    assert data.MARKUP in [caption["text"] for caption in found["captions"]]
    assert served.ask("GET", "/api/start")[1]["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [{"filters": [{"kind": "exec"}]}, {"filters": [{"kind": "min", "column": "x", "amount": "NaN"}]}, {"nonsense": 1},
     {"filters": [{"kind": "where", "sql": ""}]}, {"filters": [{"kind": "where", "sql": "true"}] * 41}, {"page": {"limit": 10**9}}],
)  # fmt: skip
def test_malformed_requests_are_refused(served, body):
    assert served.ask("POST", "/api/view", body)[0] == 422
    assert "error" in json.loads(served.ask("POST", "/api/view", body)[2])
