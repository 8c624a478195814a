"""The app as a whole: what wakes it, and what importing it costs."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import function_app

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("pandas", "scipy", "sklearn", "prophet", "cmdstanpy", "statsmodels", "onnx", "skl2onnx", "ndonnx", "spox", "jax",
         "azure.ai.ml", "matplotlib", "holidays", "pyarrow", "training")


@cache
def triggers() -> dict[str, dict[str, object]]:
    """The trigger binding of every function, by the function's name."""
    found = {}
    for function in function_app.app.get_functions():
        bindings = json.loads(str(function))["bindings"]
        if not function.get_function_name().startswith("BuiltIn__"):  # azure-functions-durable brings its own two
            found[function.get_function_name()] = next(b for b in bindings if b["type"].endswith("Trigger"))
    return found


def test_every_route_is_there_with_its_method_and_only_health_is_anonymous() -> None:
    routes = {name: (t["methods"][0], t["route"], t["authLevel"]) for name, t in triggers().items()  # type: ignore[index]
              if t["type"] == "httpTrigger"}

    assert routes == {
        "detect": ("POST", "v1/detect/{detector}", "FUNCTION"),
        "start_batch": ("POST", "v1/batch/score", "FUNCTION"),
        "show_batch": ("GET", "v1/batch/{batch_id}", "FUNCTION"),
        "show_batch_part": ("GET", "v1/batch/{batch_id}/parts/{part:int}", "FUNCTION"),
        "cancel_batch": ("POST", "v1/batch/{batch_id}/cancel", "FUNCTION"),
        "restart_batch": ("POST", "v1/batch/{batch_id}/restart", "FUNCTION"),
        "start_retraining": ("POST", "v1/retrain", "FUNCTION"),
        "show_retraining": ("GET", "v1/retrain/{run_id}", "FUNCTION"),
        "show_retraining_part": ("GET", "v1/retrain/{run_id}/parts/{part:int}", "FUNCTION"),
        "cancel_retraining": ("POST", "v1/retrain/{run_id}/cancel", "FUNCTION"),
        "restart_retraining": ("POST", "v1/retrain/{run_id}/restart", "FUNCTION"),
        "describe_table": ("POST", "v1/tables/{table_id}", "FUNCTION"),
        "show_table": ("GET", "v1/tables/{table_id}", "FUNCTION"),
        "set_alert_budget": ("POST", "v1/tables/{table_id}/alert-budget", "FUNCTION"),
        "list_tables": ("GET", "v1/tables", "FUNCTION"),
        "load_observations": ("POST", "v1/observations", "FUNCTION"),
        "replay_history": ("POST", "v1/backtest", "FUNCTION"),
        "train": ("POST", "v1/train/{detector}-anomaly", "FUNCTION"),
        "train_job": ("GET", "v1/train/jobs/{job_id}", "FUNCTION"),
        "restart_train_job": ("POST", "v1/train/jobs/{job_id}/restart", "FUNCTION"),
        "give_feedback": ("POST", "v1/feedback", "FUNCTION"),
        "list_feedback": ("GET", "v1/feedback", "FUNCTION"),
        "list_models": ("GET", "v1/models", "FUNCTION"),
        "show_model": ("GET", "v1/models/{name}", "FUNCTION"),
        "roll_back_model": ("POST", "v1/models/{name}/rollback", "FUNCTION"),
        "show_quality": ("GET", "v1/metrics/quality", "FUNCTION"),
        "show_drift": ("GET", "v1/metrics/drift", "FUNCTION"),
        "show_health": ("GET", "health", "ANONYMOUS"),
    }


def test_queues_are_named_by_settings() -> None:
    queues = {name: (t["queueName"], t["connection"]) for name, t in triggers().items() if t["type"] == "queueTrigger"}

    assert queues == {"observe_queued": ("%OBSERVATIONS_QUEUE%", "DATA_STORAGE"),
                      "detect_queued": ("%DETECT_REQUESTS_QUEUE%", "DATA_STORAGE"),
                      "deliver_webhook": ("%ANOMALIES_QUEUE%-webhook", "DATA_STORAGE")}


def test_files_are_watched_for_and_the_sweep_has_its_timer() -> None:
    others = {name: (t.get("path") or t.get("schedule"), t.get("source")) for name, t in triggers().items()
              if t["type"] in ("blobTrigger", "timerTrigger")}

    assert others == {"judge_dropped": ("%PROFILES_CONTAINER%/{table_id}/{name}", "EventGrid"),
                      "sweep_freshness": ("%FRESHNESS_SCHEDULE%", None),
                      "retrain_weekly": ("%RETRAIN_SCHEDULE%", None),
                      "watch_drift": ("%DRIFT_SCHEDULE%", None)}


def test_the_durable_functions_are_those_of_training_and_of_batches() -> None:
    durable = {name for name, t in triggers().items() if t["type"] in ("orchestrationTrigger", "activityTrigger")}

    assert durable == {"train_table", "plan_training", "fit_candidate", "choose_champion", "record_failure",
                       "follow_champion", "mirror_model", "log_verdicts", "log_day", "log_batch",
                       "retrain_models", "retrain_some", "plan_retraining", "retrain_model", "finish_retraining",
                       "fail_retraining",
                       "score_batch", "score_chunks", "plan_batch", "score_chunk", "finish_batch", "fail_batch"}


def test_every_setting_a_binding_names_is_in_the_example() -> None:
    example = json.loads((ROOT / "local.settings.json.example").read_text())["Values"]
    named = {name for t in triggers().values() for value in t.values() for name in re.findall(r"%(\w+)%", str(value))}
    connections = {t["connection"] for t in triggers().values() if "connection" in t}

    assert named | connections | {"AzureWebJobsStorage", "TASKHUB_NAME"} <= set(example)


def test_importing_the_app_loads_nothing_heavy_and_does_no_input_or_output() -> None:
    script = f"""
import sys, socket
def refuse(*args, **kwargs): raise AssertionError("a connection at import")
socket.socket.connect = refuse
import function_app
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
