"""HTTP routes, one router for each resource."""
