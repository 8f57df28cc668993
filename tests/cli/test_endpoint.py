"""Which model endpoint options and environment choose."""

from __future__ import annotations

import pytest
from rlm_server.cli.configuration import FLAGS
from rlm_server.cli.endpoint import DEFAULT_OPENAI_MODEL, choose_endpoint
from rlm_server.configuration import load
from rlm_server.settings import SettingsError


def choose(environment=None, **options):
    flags = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    named = {flag: (FLAGS[flag], value) for flag, value in flags.items()}
    return choose_endpoint(load(environment=environment or {}, flags=named))


def test_without_key_endpoint_and_model_it_is_the_demo_model():
    chosen = choose()
    assert chosen.is_demo
    assert (chosen.settings.default_model, chosen.settings.sub_model) == ("demo-model", "demo-model")
    assert "demo-model" in chosen.settings.stand_in_models


def test_the_demo_model_can_be_asked_for_though_there_is_a_key():
    chosen = choose({"OPENAI_API_KEY": "k"}, model="demo-model?latency_seconds=1")
    assert chosen.is_demo
    assert chosen.settings.default_model == "demo-model?latency_seconds=1"
    assert chosen.settings.api_key is None


def test_a_key_chooses_openai_and_a_default_model():
    chosen = choose({"OPENAI_API_KEY": "k"})
    assert not chosen.is_demo
    assert (chosen.settings.default_model, chosen.settings.base_url) == (DEFAULT_OPENAI_MODEL, None)
    assert chosen.settings.resolved_api_key() == "k"
    assert chosen.settings.stand_in_models == ()


def test_a_base_url_and_a_model_need_no_key():
    settings = choose(base_url="http://x/v1", model="m", sub_model="s").settings
    assert (settings.default_model, settings.sub_model, settings.base_url) == ("m", "s", "http://x/v1")
    assert settings.resolved_api_key() is None


def test_a_demo_model_elsewhere_is_an_endpoint_like_any_other():
    assert not choose(base_url="http://x/v1", model="demo-model").is_demo


def test_a_key_file_goes_before_the_environment(tmp_path):
    path = tmp_path / "key"
    path.write_text("from file\n")
    chosen = choose({"OPENAI_API_KEY": "from environment"}, api_key_file=path, model="m")
    assert chosen.settings.resolved_api_key() == "from file"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"base_url": "http://x/v1"}, r"base_url \(--base-url\) needs --model"),
        ({"model": "m"}, "needs an endpoint"),
    ],
)
def test_what_does_not_go_together_is_told(options, complaint):
    with pytest.raises(SettingsError, match=complaint):
        choose(**options)


def test_a_key_is_not_in_the_representation_of_an_endpoint():
    assert "sesame" not in repr(choose({"OPENAI_API_KEY": "sesame"}).settings)
