"""Durable orchestrations: one blueprint a file, an orchestrator with its activities."""
