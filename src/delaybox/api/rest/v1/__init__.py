"""``/v1``: its routes, its OpenAPI document and the page that shows it."""
