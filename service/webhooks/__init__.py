"""Deliver webhooks, signed, with protection against SSRF."""
