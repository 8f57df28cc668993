"""Which model endpoint options and environment choose."""

from __future__ import annotations

import pytest
from rlm_server.cli.endpoint import DEFAULT_OPENAI_MODEL, Endpoint, EndpointError, choose_endpoint


def choose(*, environment=None, **options):
    given = {"model": None, "sub_model": None, "base_url": None, "api_key_file": None} | options
    return choose_endpoint(**given, environment=environment or {})


def test_without_key_endpoint_and_model_it_is_the_demo_model():
    assert choose() == Endpoint("demo-model", None, None, None, is_demo=True)


def test_the_demo_model_can_be_asked_for_though_there_is_a_key():
    chosen = choose(model="demo-model?latency_seconds=1", environment={"OPENAI_API_KEY": "k"})
    assert chosen.is_demo
    assert chosen.model == "demo-model?latency_seconds=1"
    assert chosen.api_key is None


def test_a_key_chooses_openai_and_a_default_model():
    assert choose(environment={"OPENAI_API_KEY": "k"}) == Endpoint(DEFAULT_OPENAI_MODEL, None, None, "k")


def test_a_base_url_and_a_model_need_no_key():
    assert choose(base_url="http://x/v1", model="m", sub_model="s") == Endpoint("m", "s", "http://x/v1", None)


def test_a_demo_model_elsewhere_is_an_endpoint_like_any_other():
    assert not choose(base_url="http://x/v1", model="demo-model").is_demo


def test_a_key_file_goes_before_the_environment(tmp_path):
    path = tmp_path / "key"
    path.write_text("from file\n")
    chosen = choose(api_key_file=path, model="m", environment={"OPENAI_API_KEY": "from environment"})
    assert chosen.api_key == "from file"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"base_url": "http://x/v1"}, "needs --model"),
        ({"model": "m"}, "needs an endpoint"),
    ],
)
def test_what_does_not_go_together_is_told(options, complaint):
    with pytest.raises(EndpointError, match=complaint):
        choose(**options)


def test_a_key_file_that_is_empty_or_not_there_is_told(tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    for path, complaint in ((empty, "is empty"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(EndpointError, match=complaint):
            choose(api_key_file=path)


def test_a_key_is_not_in_the_representation_of_an_endpoint():
    assert "sesame" not in repr(choose(environment={"OPENAI_API_KEY": "sesame"}))
