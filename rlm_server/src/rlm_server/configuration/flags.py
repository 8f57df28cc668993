"""Which setting each flag of the command line sets."""

FLAGS = {
    "--listen": "listen",
    "--sandbox": "sandbox",
    "--model": "default_model",
    "--sub-model": "default_sub_model",
    "--base-url": "base_url",
    "--api-key-file": "api_key_file",
    "--max-depth": "default_limits.max_depth",
    "--max-iterations": "default_limits.max_iterations",
    "--max-subcalls": "default_limits.max_subcalls",
    "--max-cost": "default_limits.max_cost_microdollars",
    "--max-input-tokens": "default_limits.max_input_tokens",
    "--max-output-tokens": "default_limits.max_output_tokens",
    "--timeout": "default_limits.wall_time_seconds",
    "--data-dir": "data_dir",
    "--database": "database",
    "--prompts-dir": "prompts_dir",
    "--prompts": "default_prompts",
    "--grace": "grace_seconds",
    "--log-level": "log_level",
}
"""The setting that each flag sets."""
