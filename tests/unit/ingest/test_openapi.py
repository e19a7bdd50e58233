"""/openapi.json describes the app that there is."""

from __future__ import annotations

import json
from typing import cast

from openapi_spec_validator import OpenAPIV31SpecValidator

from emostream.ingest.api import HEALTHY, POSTS, IngestApi
from emostream.ingest.producer import BoundedProducer
from emostream.ingest.routes import OPENAPI, create_app
from emostream.metrics.catalogue import INGEST
from emostream.metrics.counters import Metrics
from emostream.metrics.page import MetricsPage
from emostream.operate import pulse
from emostream.operate.dashboard import routes as dashboard
from emostream.operate.dashboard.scrape import MAX_NAMED_CLIENTS
from emostream.operate.dashboard.timeline import MAX_CSV_MINUTES, MAX_CSV_ROWS, SHOWN_EMOJIS, WINDOW_MINUTES
from emostream.process import Log
from emostream.records import MAX_BATCH_EVENTS, MAX_MERGED_TAPS, MAX_TEXT_BYTES
from testkit.doubles import FakeDirectory, FakeProducer
from testkit.settings import settings_with

DOCUMENT = json.loads(OPENAPI)


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_names_every_call_of_the_app_and_no_other() -> None:
    settings, counters = settings_with(), Metrics(Log("test"), INGEST)
    app = create_app(IngestApi(settings, cast(BoundedProducer, FakeProducer()), counters), MetricsPage(counters))
    app.register_blueprint(pulse.blueprint(settings))
    app.register_blueprint(dashboard.blueprint(settings, FakeDirectory(), lambda: b""))
    pages = {"/", "/overlay", "/dashboard", "/subscribers"}
    before_flask = {(dashboard.SIGN_IN, "post"), *((path.decode(), "post") for path in POSTS)}
    before_flask |= {(path.decode(), "get") for path in HEALTHY}
    calls = {
        (rule.rule, method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule not in pages and not rule.endpoint.startswith("static")
    }
    assert {(path, method) for path, item in DOCUMENT["paths"].items() for method in item} == calls | before_flask
    answer = app.test_client().get("/openapi.json")
    assert (answer.mimetype, answer.json) == ("application/json", DOCUMENT)


def test_its_limits_are_those_of_the_code() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    batch = DOCUMENT["paths"]["/send-emojis"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert batch["maxItems"] == schemas["BatchTaken"]["properties"]["accepted"]["maximum"] == MAX_BATCH_EVENTS
    assert schemas["MergedTap"]["allOf"][1]["properties"]["count"]["maximum"] == MAX_MERGED_TAPS
    assert schemas["Tap"]["properties"]["user_id"]["maxLength"] == MAX_TEXT_BYTES
    timeline = DOCUMENT["paths"]["/timeline.csv"]["get"]
    minutes = timeline["parameters"][0]
    assert (minutes["schema"]["maximum"], minutes["schema"]["default"]) == (MAX_CSV_MINUTES, WINDOW_MINUTES)
    assert f"{MAX_CSV_ROWS:,}" in timeline["responses"]["413"]["description"]
    assert schemas["Timeline"]["properties"]["emojis"]["maxItems"] == SHOWN_EMOJIS
    assert f"at most {MAX_NAMED_CLIENTS}" in json.dumps(schemas["Process"])
