"""The interactive documentation of the HTTP API: Swagger UI, served from this package."""
