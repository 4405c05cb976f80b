// Show the OpenAPI document. Nothing is sent to Swagger's validator, which is on another host.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
