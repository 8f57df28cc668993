"""The index of failure modes: each row of docs/failure-modes.md with the tests of its defence."""

from __future__ import annotations

import ast
import re

import pytest
from rlm_api.rlm.v1 import event_pb2

from tests.support.documents import ROOT, tables

PAGE = ROOT / "docs" / "failure-modes.md"

# A few words of each row, and its tests, as `file::test` below tests/.
TESTS = {
    "FINAL beside code": ["rlm_server/test_finish.py::test_final_beside_code_is_not_believed"],
    "output that the model makes up": ["rlm_server/test_finish.py::test_output_that_a_model_makes_up_is_cut_off"],
    "before any look": [
        "rlm_server/test_defences.py::test_an_answer_without_a_look_is_taken_with_a_warning",
        "rlm_server/test_defences.py::test_an_answer_without_a_look_is_refused_if_the_request_says_so",
    ],
    "a plan or a placeholder": [
        "rlm_server/test_defences.py::test_a_plan_is_not_taken_and_the_model_goes_on",
        "rlm_server/test_defences.py::test_a_plan_in_the_last_turn_is_not_lost",
        "rlm_server/test_finish.py::test_text_that_mixes_up_the_ways_to_finish_is_read_as_it_is_meant",
    ],
    "FINAL in prose": [
        "rlm_server/test_parsing.py::test_a_reply_is_read_as",
        "rlm_server/test_parsing.py::test_final_gives_back_any_text_without_marks",
    ],
    "code between the brackets": [
        "rlm_server/test_finish.py::test_text_that_mixes_up_the_ways_to_finish_is_read_as_it_is_meant",
        "rlm_server/test_finish.py::test_text_that_computes_what_fails_is_no_answer",
    ],
    "FINAL_VAR of a name": ["rlm_server/test_finish.py::test_an_unknown_variable_is_told_with_those_that_exist"],
    "fences": [
        "rlm_server/test_parsing.py::test_code_comes_out_exactly_as_it_went_in",
        "rlm_server/test_parsing.py::test_blocks_come_out_in_order",
        "rlm_server/test_repl.py::test_later_blocks_do_not_run_after_an_error",
        "rlm_server/test_model_errors.py::test_a_reply_cut_by_the_limit_of_tokens_is_told",
    ],
    "neither code nor an answer": [
        "rlm_server/test_finish.py::test_a_reply_without_code_or_answer_gets_a_nudge",
        "rlm_server/test_finish.py::test_five_idle_replies_in_a_row_end_with_the_last_text",
        "rlm_server/test_defences.py::test_nudges_count_down",
    ],
    "broken code": [
        "rlm_server/test_repl.py::test_a_syntax_error_is_told",
        "rlm_server/test_limits.py::test_consecutive_errors_end_the_completion",
        "rlm_server/test_defences.py::test_a_child_that_only_writes_broken_code_is_an_error_for_its_parent",
    ],
    "loses variables": [
        "rlm_server/test_repl.py::test_variables_assigned_before_an_exception_are_kept",
        "rlm_server/test_subcalls.py::test_subcalls_from_several_turns_and_failing_code_do_not_mix",
        "sandbox_server/test_restore.py::test_the_session_stands_as_before_the_killed_cell",
    ],
    "flood of output": [
        "rlm_server/test_repl.py::test_long_output_is_cut_in_the_middle_with_the_exact_count",
        "rlm_server/test_repl.py::test_output_beyond_the_limit_stops_the_block",
    ],
    "output lost": ["rlm_server/test_defences.py::test_output_before_an_exception_and_before_the_answer_is_kept"],
    "last expression": [
        "rlm_server/test_repl.py::test_the_value_of_the_last_expression_is_shown",
        "rlm_server/test_repl.py::test_a_block_without_output_says_so",
    ],
    "endless loops": [
        "rlm_server/test_limits.py::test_a_block_that_takes_too_long_is_killed_and_the_model_told",
        "rlm_server/test_repl.py::test_exiting_ends_the_block_and_not_the_completion",
        "sandbox_server/test_outcomes.py::test_what_takes_too_long_is_killed_on_time_wherever_it_is",
        "sandbox_server/test_outcomes.py::test_out_of_memory_is_an_outcome_that_the_session_survives",
    ],
    "storm of sub-calls": [
        "rlm_server/test_limits.py::test_subcalls_beyond_the_limit_are_refused_in_the_code",
        "rlm_server/test_limits.py::test_code_that_cannot_do_without_more_subcalls_ends_the_completion",
        "rlm_server/test_subcalls.py::test_a_batch_runs_at_once_but_no_more_than_the_limit",
        "rlm_server/test_defences.py::test_a_block_that_asks_on_and_on_after_refusals_is_ended_with_few_events",
    ],
    "giant prompts": [
        "rlm_server/test_defences.py::test_a_giant_prompt_is_refused_with_a_hint_before_it_costs_anything",
        "rlm_server/test_defences.py::test_a_prompt_that_cannot_fit_the_model_s_known_window_is_refused",
    ],
    "overshoots the budget": [
        "rlm_server/test_limits.py::test_a_batch_beyond_the_limit_is_refused_as_a_whole_before_it_costs_anything",
        "rlm_server/test_limits.py::test_tokens_of_children_count_for_the_root",
        "rlm_server/test_model_errors.py::test_an_endpoint_without_usage_is_counted_as_unreported",
    ],
    "a limit is reached": [
        "rlm_server/test_limits.py::test_max_iterations_gives_the_content_of_answer",
        "rlm_server/test_limits.py::test_without_content_what_was_said_beside_code_is_the_partial_answer",
        "rlm_server/test_limits.py::test_wall_time_interrupts_running_code_at_once",
    ],
    "taken for text": [
        "rlm_server/test_defences.py::test_an_error_value_does_not_pass_for_text",
        "rlm_server/test_defences.py::test_an_error_value_in_answer_is_not_taken",
        "rlm_server/test_defences.py::test_an_error_value_can_be_looked_at_told_apart_and_raised",
    ],
    "one failed or slow item": ["rlm_server/test_subcalls.py::test_a_batch_keeps_its_order_and_survives_a_failed_item"],
    "the sandbox dies": [
        "rlm_server/test_sandbox_executor.py::test_a_sandbox_that_dies_ends_the_completion_with_the_partial_answer",
        "rlm_server/test_sandbox_executor.py::test_a_childs_sandbox_that_dies_is_an_error_for_the_parent",
    ],
    "names of the REPL rebound": [
        "rlm_server/test_defences.py::test_a_context_that_is_rebound_is_put_back_and_the_model_told",
        "rlm_server/test_defences.py::test_functions_that_are_rebound_are_put_back_also_by_code_that_fails",
        "rlm_server/test_defences.py::test_an_answer_that_is_no_dict_any_more_is_put_back_and_the_model_told",
    ],
    "changed in place": [
        "rlm_server/test_defences.py::test_an_input_that_is_changed_in_place_is_told",
        "rlm_server/test_defences.py::test_a_change_in_place_is_told_once",
    ],
    "the same code again": [
        "rlm_server/test_defences.py::test_code_that_is_repeated_is_told_and_ends_the_completion",
        "rlm_server/test_defences.py::test_a_cycle_of_two_is_seen_as_well",
        "rlm_server/test_defences.py::test_the_same_code_makes_progress_as_long_as_something_differs",
        "rlm_server/test_defences.py::test_comments_and_blanks_do_not_make_other_code_of_it",
    ],
    "nothing but what was seen": [
        "rlm_server/test_defences.py::test_other_code_that_shows_nothing_new_is_told_and_goes_on",
    ],
    "stale ready": [
        "rlm_server/test_finish.py::test_ready_in_a_block_that_fails_is_not_taken_and_does_not_end_a_later_turn"
    ],
    "a late result": [
        "rlm_server/test_limits.py::test_subcalls_of_a_killed_block_end_with_it",
        "rlm_server/test_async_subcalls.py::test_calls_that_nobody_waited_for_end_with_the_block",
    ],
    "a time-out in code": [
        "rlm_server/test_async_subcalls.py::test_a_call_that_code_cancels_is_stopped_while_the_block_goes_on",
        "rlm_server/test_async_subcalls.py::test_a_cancelled_child_ends_with_all_that_it_does",
    ],
    "thinking uses up": [
        "rlm_server/test_defences.py::test_a_reply_cut_off_while_thinking_gets_a_nudge_of_its_own",
        "rlm_server/test_defences.py::test_a_sub_model_that_only_thinks_fails_and_says_why",
    ],
    "outgrows the model's window": [
        "rlm_server/test_compaction.py::test_beyond_the_threshold_a_summary_takes_the_place_of_the_messages",
        "rlm_server/test_compaction.py::test_a_window_that_is_too_small_ends_it_and_not_the_budget",
    ],
    "a short input": ["rlm_server/test_direct.py::test_a_context_that_fits_is_answered_by_one_plain_call"],
    "deep recursion": ["rlm_server/test_recursion.py::test_beyond_max_depth_rlm_query_is_a_plain_call_with_a_warning"],
    "take secrets": [
        "rlm_server/test_child_process.py::test_it_gets_nothing_of_the_environment_that_may_hold_keys",
        "rlm_server/test_sandbox_executor.py::test_code_that_tampers_with_host_calls_gets_an_error_and_harms_nothing",
        "rlm_server/test_sandbox_executor.py::test_code_that_tampers_with_the_report_harms_nothing",
    ],
    "each other's state": [
        "rlm_server/test_complete.py::test_two_completions_share_nothing",
        "sandbox_server/test_session.py::test_sessions_run_side_by_side_and_see_nothing_of_each_other",
    ],
}


def rows() -> list[list[str]]:
    return next(tables(PAGE, "Failure modes"))[1:]


def test_each_row_of_the_page_has_its_tests_and_each_entry_its_row() -> None:
    for row in rows():
        assert sum(words in row[0] for words in TESTS) == 1, row[0]
    assert len(rows()) == len(TESTS)


@pytest.mark.parametrize("words", TESTS)
def test_the_tests_are_there(words: str) -> None:
    assert TESTS[words]
    for reference in TESTS[words]:
        file, _, name = reference.partition("::")
        body = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body
        functions = [one.name for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert name in functions, reference


def test_what_the_page_says_one_sees_is_in_the_contract() -> None:
    known = {"SubcallError", "outcome", ""}
    for enum, prefix in (
        (event_pb2.WarningCode, "WARNING_CODE_"),
        (event_pb2.FinishReason, "FINISH_REASON_"),
        (event_pb2.CodeOutcome, "CODE_OUTCOME_"),
    ):
        known |= {name.removeprefix(prefix) for name in enum.keys()}  # noqa: SIM118 - an enum wrapper is no dict
    known |= {field.name for field in event_pb2.Event.DESCRIPTOR.fields}
    known |= {field.name for field in event_pb2.CompletionFinished.DESCRIPTOR.fields}
    for row in rows():
        assert set(re.split(r", | ", row[2])) <= known, row
