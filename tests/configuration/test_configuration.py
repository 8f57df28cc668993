"""Settings from a file, the environment and the command line: what wins, what is refused, what is shown."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from rlm_server.configuration import Configuration, load, showing
from rlm_server.settings import Settings, SettingsError

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
        ('extra_headers = "sesame"', "models.m.extra_headers (FILE): Input should be"),
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


def test_a_password_in_a_url_is_masked(file: Path) -> None:
    lines = list(showing.lines(loaded(file, RLM_BASE_URL="http://me:sesame@host:8000/v1")))
    assert 'base_url = "http://me:********@host:8000/v1"  # RLM_BASE_URL' in lines


def test_a_secret_is_masked(file: Path) -> None:
    shown = "\n".join(showing.lines(loaded(file, RLM_API_KEY="sesame")))
    assert "sesame" not in shown
    assert tomllib.loads(shown)["api_key"] == showing.MASK
