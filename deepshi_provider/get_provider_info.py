"""The provider's metadata for Airflow's discovery. Imports nothing, since every Airflow process loads it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, in the form of ``airflow/provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-deepshi",
        "name": "Deepshi",
        "description": "Generate and edit images with `Deepshi <https://deepshi.ai>`__, and know what they cost.",
        "integrations": [
            {
                "integration-name": "Deepshi",
                "external-doc-url": "https://deepshi.ai",
                "tags": ["ai"],
            }
        ],
        "operators": [
            {
                "integration-name": "Deepshi",
                "python-modules": [
                    "deepshi_provider.operators.images",
                    "deepshi_provider.operators.cost_report",
                    "deepshi_provider.operators.review",
                ],
            }
        ],
        "hooks": [{"integration-name": "Deepshi", "python-modules": ["deepshi_provider.hooks.deepshi"]}],
        "triggers": [{"integration-name": "Deepshi", "python-modules": ["deepshi_provider.triggers.images"]}],
        "extra-links": [
            "deepshi_provider.links.images.DeepshiImageLink",
            "deepshi_provider.links.images.DeepshiDirectoryLink",
        ],
        "task-decorators": [
            {"class-name": "deepshi_provider.decorators.images.deepshi_image_task", "name": "deepshi_image"},
        ],
        "connection-types": [
            {
                "connection-type": "deepshi",
                "hook-class-name": "deepshi_provider.hooks.deepshi.DeepshiHook",
                "hook-name": "Deepshi",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port"],
                    "relabeling": {"password": "API key", "host": "Base URL"},
                    "placeholders": {"password": "sk-bf-…", "host": "https://api.deepshi.ai"},
                },
                "conn-fields": {
                    "output_uri": _field("Output URI", "string", "Directory for images, such as s3://bucket/deepshi"),
                    "output_conn_id": _field("Output connection", "string", "Airflow connection of the object store"),
                    "connect_timeout": _field("Connect timeout", "number", "Seconds; 10 if empty"),
                    "read_timeout": _field("Read timeout", "number", "Longest silence in seconds; 90 if empty"),
                    "max_retries": _field("Retries", "integer", "Of requests that were not charged; 3 if empty"),
                    "max_retry_wait": _field("Longest wait", "number", "Seconds before a retry; 60 if empty"),
                    "verify": _field("Verify TLS", "string", "true, false, or the path of a CA file; true if empty"),
                    "proxy": _field("Proxy", "string", "URL of an HTTP proxy"),
                    "max_cost_usd_per_day": _field("Limit per day", "number", "USD, for all tasks together"),
                    "max_cost_usd_per_month": _field("Limit per month", "number", "USD, for all tasks together"),
                    "budget_groups": _field(
                        "Budget groups", "string", 'Such as {"team-a": {"max_cost_usd_per_day": 5}}'
                    ),
                    "budget_time_zone": _field("Time zone of budgets", "string", "Such as Europe/Berlin; UTC if empty"),
                    "warn_at": _field("Warn at", "number", "Share of a limit; 0.8 if empty"),
                    "keep_prompts": _field("Keep prompts", "string", "In records and costs: true (if empty) or false"),
                },
            }
        ],
    }


def _field(label: str, kind: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": [kind, "null"]}}
