"""Deliver signed webhooks, with protection against SSRF."""
