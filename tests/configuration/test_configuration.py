"""Settings from a file, the environment and the command line: what wins, what is refused, what is shown."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from rlm_common.environment import RLM_SERVER_VARIABLES, SANDBOX_VARIABLES
from rlm_server.configuration import Configuration, load, showing
from rlm_server.settings import Settings, SettingsError

from tests.support.documents import ROOT, tables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rlm.toml"


def loaded(
    file: Path | None = None,
    text: str = 'default_model = "m"',
    assignments: tuple[str, ...] = (),
    flags: dict[str, tuple[str, Any]] | None = None,
    **environment: str,
) -> Configuration:
    if file is not None:
        file.write_text(text)
    return load(config_file=file, environment=environment, assignments=assignments, flags=flags)


# --- precedence


def test_each_layer_wins_over_those_before_it(file: Path) -> None:
    text = 'default_model = "file"\ngrace_seconds = 1\nmodel_max_retries = 1\nmax_context_bytes = 1\n'
    configuration = loaded(
        file,
        text,
        assignments=("model_max_retries=3", "max_context_bytes=3"),
        flags={"--max": ("max_context_bytes", 4), "--model": ("default_model", None)},
        RLM_GRACE_SECONDS="2",
        RLM_MODEL_MAX_RETRIES="2",
        RLM_MAX_CONTEXT_BYTES="2",
    )
    settings = configuration.settings()
    assert settings.default_model == "file"
    assert settings.grace_seconds == 2
    assert settings.model_max_retries == 3
    assert settings.max_context_bytes == 4
    assert settings.max_concurrent_completions == Settings(default_model="m").max_concurrent_completions
    origins = {".".join(path): origin for path, _, origin in showing.entries(configuration)}
    assert origins["default_model"] == str(file)
    assert origins["grace_seconds"] == "RLM_GRACE_SECONDS"
    assert origins["model_max_retries"] == "--set"
    assert origins["max_context_bytes"] == "--max"
    assert origins["max_concurrent_completions"] == "default"


def test_a_table_is_merged_setting_by_setting_with_its_defaults(file: Path) -> None:
    text = 'default_model = "m"\n[max_limits]\nmax_depth = 3\n[max_limits.cell]\nfuel = 7\n'
    settings = loaded(file, text, RLM_MAX_LIMITS__MAX_ITERATIONS="5").settings()
    assert (settings.max_limits.max_depth, settings.max_limits.max_iterations) == (3, 5)
    assert settings.max_limits.max_subcalls == 100_000
    assert (settings.max_limits.cell.fuel, settings.max_limits.cell.output_bytes) == (7, 64 * 1024**2)


def test_the_variables_of_openai_come_before_the_file(file: Path) -> None:
    text = 'default_model = "m"\nbase_url = "http://file/v1"\n'
    configuration = loaded(file, text, OPENAI_BASE_URL="http://variable/v1", OPENAI_API_KEY="k")
    assert configuration.settings().base_url == "http://file/v1"
    assert configuration.settings().api_key == "k"


def test_a_key_file_takes_the_place_of_a_key_of_an_earlier_layer(file: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from file\n")
    configuration = loaded(file, RLM_API_KEY_FILE=str(key_file), OPENAI_API_KEY="from variable")
    assert configuration.settings().resolved_api_key() == "from file"
    configuration = loaded(file, f'default_model = "m"\napi_key_file = "{key_file}"', RLM_API_KEY="from variable")
    assert configuration.settings().resolved_api_key() == "from variable"


# --- texts of variables and assignments


@pytest.mark.parametrize("text", ["127.0.0.1:1 unix:/x", '["127.0.0.1:1", "unix:/x"]'])
def test_a_list_in_a_variable_has_spaces_between_or_is_json(file: Path, text: str) -> None:
    assert loaded(file, RLM_LISTEN=text).settings().listen == ("127.0.0.1:1", "unix:/x")


def test_a_text_stays_a_text_whatever_it_looks_like(file: Path) -> None:
    settings = loaded(file, RLM_DEFAULT_MODEL="4", assignments=("default_sub_model=true",)).settings()
    assert (settings.default_model, settings.default_sub_model) == ("4", "true")


def test_a_table_can_be_given_as_json(file: Path) -> None:
    settings = loaded(file, RLM_DEFAULT_LIMITS='{"max_depth": 2, "cell": {"fuel": 9}}').settings()
    assert (settings.default_limits.max_depth, settings.default_limits.cell.fuel) == (2, 9)


def test_empty_variables_those_of_the_sandbox_server_and_of_kubernetes_are_left_alone(file: Path) -> None:
    others = {
        "RLM_SANDBOX_WORKERS": "2",
        "RLM_SERVER_SERVICE_HOST": "10.0.0.1",
        "RLM_SERVER_PORT": "tcp://10.0.0.1:50051",
        "RLM_SERVER_PORT_50051_TCP_ADDR": "10.0.0.1",
        "RLM_SANDBOX": "",
    }
    assert loaded(file, **others).settings() == Settings(default_model="m")


# --- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_dept = 2", r"no setting max_dept \(.*rlm.toml\); did you mean default_limits.max_depth\?"),
        ("[default_limits]\nmax_dept = 2", r"no setting default_limits.max_dept .*mean default_limits.max_depth\?"),
        ("grace = 3", r"no setting grace .*mean grace_seconds\?"),
        ("xyzzy = 1", r"no setting xyzzy \(.*rlm.toml\)$"),
        ("default_limits = 3", r"default_limits .* must be a table"),
        ("grace_seconds = 'soon'", r"grace_seconds is 'soon' \(.*rlm.toml\): .*valid number"),
        ("listen = [1]", r"listen.0 is '1' \(.*rlm.toml\): .*valid string"),
        ("default_limits.max_depth = -1", r"default_limits.max_depth is -1; must be at least 0"),
        ("default_limits.cell.fuel = -1", r"default_limits.cell.fuel is -1"),
        ("max_limits.wall_time_seconds = 0", r"max_limits.wall_time_seconds is 0; must be more than 0"),
        ("model_timeout_seconds = 0", "model_timeout_seconds must be more than 0"),
        ("model_max_retries = -1", "model_max_retries must not be negative"),
        ("log_level = 'LOUD'", "log_level 'LOUD' is unknown"),
        ("api_key = 'a'\napi_key_file = 'b'", "api_key and api_key_file are both set"),
        ("nonsense", "is no TOML"),
        ("listen = '127.0.0.1:1'", r'listen \(.*rlm.toml\) must be a list, as \["one", "two"\]'),
        ("listen = ['127.0.0.1:70000']", r"listen: '127.0.0.1:70000' has no port from 0 to 65535"),
        ("listen = ['somewhere']", r"listen: 'somewhere' is no HOST:PORT"),
        ("sandbox = 'some where'", r"sandbox: 'some where' is no HOST:PORT .*, or `local`"),
        ("base_url = 'host:8000/v1'", "base_url must be an http or https URL with a host"),
        ("models.m.base_url = 'host'", r"models.m \(.*rlm.toml\): base_url must be an http or https URL"),
        ("max_concurrent_completions = true", r"max_concurrent_completions \(.*rlm.toml\) is true, which is no number"),
        ("default_limits.max_depth = false", r"default_limits.max_depth \(.*rlm.toml\) is false, which is no number"),
        ("retention_seconds = -1", "retention_seconds must not be negative"),
        ("retention_bytes = -1", "retention_bytes must not be negative"),
        ("max_direct_answer_tokens = -1", "max_direct_answer_tokens must not be negative"),
        ("grace_seconds = inf", "grace_seconds is inf; give a finite number"),
        ("lease_seconds = nan", "lease_seconds is nan; give a finite number"),
        ("default_limits.wall_time_seconds = inf", "default_limits.wall_time_seconds is inf; must be at most"),
        ("max_limits.cell.wall_time_seconds = 1e300", r"max_limits.cell.wall_time_seconds is 1e\+300; must be at most"),
        ("models.m.extra_body = { day = 2026-01-01 }", "extra_body must be what JSON can express"),
        ("models.m.requests_per_minute = nan", "requests_per_minute must be at least 1"),
        ("models.m.price = { inptu = 1 }", r"no setting models.m.price.inptu .*mean models.m.price.input\?"),
        ("models.'m.1'.pric = 1", r'no setting models."m.1".pric .*mean models."m.1".price\?'),
        ("[models.m.1]\nprice = 1", r'no setting models.m.1 .*mean models."m.1"\?'),
        ("timeout = 1", r"no setting timeout .*mean default_limits.wall_time_seconds\?"),
        ("model = 'm'", r"no setting model .*mean default_model\?"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_the_remedy(file: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        loaded(file, f'default_model = "m"\n{text}').settings()


def test_all_unknown_settings_are_told_at_once_with_where_they_are(file: Path) -> None:
    with pytest.raises(SettingsError) as failure:
        loaded(file, 'defaultmodel = "m"', assignments=("listn=x", "nothing"), RLM_DEFAULT_MODLE="m")
    assert str(failure.value).splitlines() == [
        f"there is no setting defaultmodel ({file}); did you mean default_model?",
        "there is no setting default_modle (RLM_DEFAULT_MODLE); did you mean default_model?",
        "there is no setting listn (--set); did you mean listen?",
        "--set nothing: must be NAME=VALUE",
    ]


def test_a_misspelt_variable_of_the_sandbox_server_is_told_with_the_nearest(file: Path) -> None:
    with pytest.raises(SettingsError) as failure:
        loaded(file, RLM_SANDBOX_WORKER="2", RLM_SANDBOX_IMAG="x", RLM_SANDBOX_SERVICE_HOST="10.0.0.1")
    assert str(failure.value).splitlines() == [
        "there is no variable RLM_SANDBOX_IMAG; did you mean RLM_SANDBOX_IMAGE?",
        "there is no variable RLM_SANDBOX_WORKER; did you mean RLM_SANDBOX_WORKERS?",
    ]


def test_the_variables_that_both_servers_pass_over_are_those_that_there_are() -> None:
    own = {f"RLM_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    assert {name for name in own if name.startswith("RLM_SANDBOX_")} == RLM_SERVER_VARIABLES
    theirs = {variable for _, variable, *_ in next(tables(ROOT / "docs" / "configuration.md", "rlm-sandbox serve"))[1:]}
    assert theirs | {"RLM_SANDBOX_CACHE"} == SANDBOX_VARIABLES


def test_a_name_with_dots_is_written_in_quotes_as_in_the_file(file: Path) -> None:
    settings = loaded(file, '[models."gpt-4.1"]', ('models."gpt-4.1".window_tokens=7',)).settings()
    assert settings.models["gpt-4.1"].window_tokens == 7
    with pytest.raises(SettingsError, match=r'--set models."x=1: models."x is no name of a setting'):
        loaded(file, assignments=('models."x=1',))


def test_a_name_with_dots_without_quotes_is_told_how_to_write_it(file: Path) -> None:
    with pytest.raises(
        SettingsError, match=r'no setting models.m.1.price \(--set\); did you mean models."m.1".price\?'
    ):
        loaded(file, assignments=("models.m.1.price=1",))


def test_a_profile_that_says_nothing_is_one_as_well(file: Path) -> None:
    assert list(loaded(file, "[models.first]\n[models.second]").settings().models) == ["first", "second"]


def test_to_keep_for_ever_is_infinity(file: Path) -> None:
    configuration = loaded(file, 'default_model = "m"\nretention_seconds = inf')
    assert configuration.settings().retention_seconds is None
    assert "retention_seconds = inf  # " in "\n".join(showing.lines(configuration))


def test_a_file_may_begin_with_a_byte_order_mark(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbfdefault_model = "m"')
    assert load(config_file=file, environment={}).value("default_model") == "m"


def test_a_secret_with_the_wrong_type_is_not_repeated(file: Path) -> None:
    with pytest.raises(SettingsError) as failure:
        loaded(file, 'default_model = "m"\napi_key = 123456').settings()
    assert "api_key" in str(failure.value)
    assert "123456" not in str(failure.value)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ('provider = "azure"\napi_key = "sesame"', "models.m (FILE): Azure needs base_url (the resource's endpoint)"),
        ('api_key = "sesame"\ntemperature = 3', "models.m (FILE): temperature must be from 0 to 2"),
        ('extra_headers = { one = ["sesame"] }', "models.m.extra_headers.one (FILE): Input should be"),
        ('extra_headers = "sesame"', "models.m.extra_headers (FILE) must be a table"),
    ],
)
def test_nor_are_those_of_a_profile_that_is_wrong(file: Path, profile: str, message: str) -> None:
    with pytest.raises(SettingsError) as failure:
        loaded(file, f"[models.m]\n{profile}").settings()
    assert str(failure.value).startswith(message.replace("FILE", str(file)))
    assert "sesame" not in str(failure.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read"):
        load(config_file=tmp_path / "none.toml", environment={})


def test_a_key_file_that_is_empty_or_not_there_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for path, complaint in ((empty, "is empty"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(SettingsError, match=complaint):
            Settings(default_model="m", api_key_file=path).resolved_api_key()


# --- which file


def test_the_file_is_the_one_of_the_variable_or_that_in_the_home_directory(tmp_path: Path) -> None:
    home = tmp_path / "home"
    own = home / ".config" / "rlm" / "rlm.toml"
    own.parent.mkdir(parents=True)
    own.write_text('default_model = "home"')
    other = tmp_path / "other.toml"
    other.write_text('default_model = "other"')
    environment = {"HOME": str(home)}
    assert load(environment=environment).value("default_model") == "home"
    assert load(environment=environment | {"RLM_CONFIG": str(other)}).value("default_model") == "other"
    assert load(environment=environment | {"RLM_CONFIG": ""}).value("default_model") is None
    assert load(environment={"HOME": str(tmp_path)}).value("default_model") is None


def test_a_file_in_the_working_directory_is_not_read_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rlm.toml").write_text('base_url = "http://elsewhere/v1"')
    monkeypatch.chdir(tmp_path)
    assert load(environment={}).value("base_url") is None


# --- what is shown


def test_what_is_shown_is_a_file_that_gives_the_same_settings(file: Path, tmp_path: Path) -> None:
    configuration = loaded(
        file,
        'default_model = "a \\"b\\" ü"\nallowed_models = ["a \\"b\\" ü"]\ndata_dir = "/x"',
        RLM_MAX_LIMITS__MAX_DEPTH="2",
    )
    again = tmp_path / "again.toml"
    again.write_text("\n".join(showing.lines(configuration)))
    assert load(config_file=again, environment={}).settings() == configuration.settings()


def test_what_is_shown_is_what_became_of_a_text(file: Path) -> None:
    configuration = loaded(file, RLM_ANSWER_AT_LIMIT="no", RLM_GRACE_SECONDS="5", RLM_MODELS__M__STREAM="off")
    lines = list(showing.lines(configuration))
    assert "answer_at_limit = false  # RLM_ANSWER_AT_LIMIT" in lines
    assert "grace_seconds = 5  # RLM_GRACE_SECONDS" in lines
    assert "models.m.stream = false  # RLM_MODELS__M__STREAM" in lines


def test_a_tilde_is_the_home_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = 'data_dir = "~/rlm"\nprompts_dir = "~nobody-of-this-name/x"\n[models.m]\napi_key_file = "~/key"'
    settings = loaded(file, text).settings()
    assert str(settings.data_dir) == "/home/me/rlm"
    assert str(settings.prompts_dir) == "~nobody-of-this-name/x"
    assert str(settings.models["m"].api_key_file) == "/home/me/key"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:sesame@host:8000/v1", "http://me:********@host:8000/v1"),
        ("http://me:ses@ame@host/v1", "http://me:********@host/v1"),
        ("http://sesame@host/v1", "http://********@host/v1"),
        ("http://host/v1?a=1&api-key=sesame&b=2", "http://host/v1?a=1&api-key=********&b=2"),
        ("http://host/@cf/v1?limit=2", "http://host/@cf/v1?limit=2"),
    ],
)
def test_what_is_secret_in_a_url_is_masked(file: Path, url: str, shown: str) -> None:
    lines = list(showing.lines(loaded(file, RLM_BASE_URL=url)))
    assert f'base_url = "{shown}"  # RLM_BASE_URL' in lines


def test_what_is_secret_within_a_profile_is_masked(file: Path) -> None:
    text = """[models."m.1"]
base_url = "http://me:sesame@host/v1"
api_key = "sesame"
extra_headers = { X-Any = "sesame" }
extra_body = { max_tokens = 5, provider = { api_key = "sesame", "A-Token" = "sesame", url = "http://a:sesame@b" } }
"""
    lines = list(showing.lines(loaded(file, text)))
    assert "sesame" not in "\n".join(lines)
    body = '{max_tokens = 5, provider = {api_key = "********", A-Token = "********", url = "http://a:********@b"}}'
    assert f'models."m.1".extra_body = {body}  # {file}' in lines
    assert tomllib.loads("\n".join(lines))["models"]["m.1"]["extra_headers"] == showing.MASK


def test_a_secret_is_masked(file: Path) -> None:
    shown = "\n".join(showing.lines(loaded(file, RLM_API_KEY="sesame")))
    assert "sesame" not in shown
    assert tomllib.loads(shown)["api_key"] == showing.MASK
